"""Imports the application's TaskQ from ``MODULE:TQ``, and warns of a type that no worker has."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import os
import sys
import traceback
from typing import Any

from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli.i18n import tr, translated
from aiotaskq.cli.layout import LONG
from aiotaskq.cli.output import echo_stderr
from aiotaskq.core.status import Status
from aiotaskq.errors import AiotaskqError, ValidationError
from aiotaskq.log import printable
from aiotaskq.runtime.waiting import awake

_IMPORTERS = (__file__, importlib.__file__, "<frozen importlib")
SAMPLE = 200  # tasks among which a type is searched


def load_quietly(target: str) -> TaskQ:
    """Like ``load``; what the application prints goes to standard error, not into the output of the command."""
    with contextlib.redirect_stdout(sys.stderr):
        return load(target)


def load(target: str) -> TaskQ:
    """Import MODULE from the working directory or the path; return its attribute TQ, which may have dots.

    Raises ValidationError if there is no such TaskQ, and AiotaskqError, with a traceback, if the import fails.
    """
    module, _, name = target.partition(":")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(error.name + ".")):
            said = tr("there is no module {name}, neither in {folder} nor installed", name=repr(module), folder=here)
            raise ValidationError(said) from None
        _import_failed(module, error)
    except Exception as error:
        _import_failed(module, error)
    whole = found
    for part in name.split("."):
        found = getattr(found, part, None)
    if isinstance(found, TaskQ):
        return found
    if (blocking := sys.modules.get("aiotaskq.sync.taskq")) is not None and isinstance(found, blocking.TaskQ):
        awaited: TaskQ = blocking.reach_of(found)()  # with the same handlers
        return awaited
    there = [key for key, value in vars(whole).items() if isinstance(value, TaskQ)]
    if found is None:
        what = tr("{module} has no {name}", module=repr(module), name=repr(name))
    else:
        what = tr("{target} is not a TaskQ ({kind})", target=target, kind=type(found).__name__)
    if there:
        hint = tr("there is {names}", names=", ".join(f"{module}:{key}" for key in there))
    else:
        hint = tr("the module has no TaskQ")
    raise ValidationError(what + tr("; ") + hint)


def _import_failed(module: str, error: Exception) -> None:
    # The error is of the application: the traceback begins in its first file.
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_IMPORTERS):
        trace = trace.tb_next
    traceback.print_exception(error.with_traceback(trace))
    kind = "" if isinstance(error, AiotaskqError) else f"{type(error).__name__}: "
    said = tr("importing {name} failed: {error}", name=repr(module), error=f"{kind}{translated(error)}")
    raise AiotaskqError(said) from None


async def warn_of_unknown(tq: TaskQ, name: str, queue: str) -> None:
    """Print a warning if no worker has this type: the name may be misspelt.

    Where no worker claims from the queue now, one that has none of the tasks that ended last is told.
    """
    known = await awake(tq.queue.backend, tq.queue.clock.now())
    workers = [each for each in known or () if each.claims_from(queue)]
    if workers:
        handled = {each for worker in workers for each in worker.types or ()}
        if any(worker.knows(name) for worker in workers):
            return
        said = tr("no worker has the type {type}", type=repr(name))
    else:
        ended = await tq.find(status=[Status.COMPLETED, Status.FAILED], limit=SAMPLE)
        handled = {task.type for task in ended if not (task.error_message or "").startswith("unknown_task")}
        if name in handled:
            return
        if ended:
            said = tr("none of the last {count} tasks was of type {type}", type=repr(name), count=len(ended))
        else:
            said = tr(
                "no task has run in this store yet, so it is not known whether a worker handles {type}", type=repr(name)
            )
    if close := difflib.get_close_matches(name, handled, 1):
        said += tr("; did you mean {name}?", name=repr(close[0]))
    echo_stderr(printable(tr("warning: {said} (--app MODULE:TQ checks the type)", said=said), LONG))
