"""The application's TaskQ: found by ``MODULE:TQ``, for the commands that run it or ask it what it handles."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import traceback
from typing import Any

from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli.i18n import tr, translated
from aiotaskq.errors import AiotaskqError, ValidationError
from aiotaskq.runtime.handler import check_fit, unknown


def load_quietly(target: str) -> TaskQ:
    """Like ``load``; what the application prints goes to standard error, out of the way of a command's answer."""
    with contextlib.redirect_stdout(sys.stderr):
        return load(target)


def load(target: str) -> TaskQ:
    """Import MODULE as seen from the working directory, and return TQ (dots allowed) of ``MODULE:TQ``.

    Raises ValidationError where there is no such TaskQ, and for what the module raises; that with its traceback.
    """
    module, _, name = target.partition(":")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(error.name + ".")):
            said = tr(
                "there is no module {name} in {folder} or among the installed ones", name=repr(module), folder=here
            )
            raise ValidationError(said) from None
        _own_fault(module, error)
    except Exception as error:
        _own_fault(module, error)
    whole = found
    for part in name.split("."):
        found = getattr(found, part, None)
        if found is None:
            break
    if isinstance(found, TaskQ):
        return found
    if (blocking := sys.modules.get("aiotaskq.sync.taskq")) is not None and isinstance(found, blocking.TaskQ):
        awaited: TaskQ = found.reach()  # with the same handlers
        return awaited
    there = [key for key, value in vars(whole).items() if isinstance(value, TaskQ)]
    if found is None:
        what = tr("{module} has no {name}", module=repr(module), name=repr(name))
    else:
        what = tr("{target} is no TaskQ ({kind})", target=target, kind=type(found).__name__)
    if there:
        hint = tr("there is {names}", names=", ".join(f"{module}:{key}" for key in there))
    else:
        hint = tr("no TaskQ is there at all")
    raise ValidationError(what + tr("; ") + hint)


def _own_fault(module: str, error: Exception) -> None:
    # The application's own fault, so its author needs to see where.
    traceback.print_exception(error)
    kind = "" if isinstance(error, AiotaskqError) else f"{type(error).__name__}: "
    said = tr("importing {name} failed: {error}", name=repr(module), error=f"{kind}{translated(error)}")
    raise ValidationError(said) from None


def knows(tq: TaskQ, type: str, params: dict[str, Any]) -> bool:
    """Whether a task of this type and these params can run in the application, or elsewhere by what it says.

    False where nothing is known of handlers. Raises UnknownHandler for a type that is not among those that are
    registered, and ValidationError for params with which its handler cannot be called.
    """
    if type in tq.registered.elsewhere:
        return True
    if not tq.registered.handlers:
        return False
    if type not in tq.registered.handlers:
        raise unknown(type, tq.registered.handlers)
    check_fit(tq.registered.handlers[type], params)
    return True
