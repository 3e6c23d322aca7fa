"""What commands work on: the application's TaskQ, the store of a URL, and tasks by shortened ids.

Also what they tell of these: the name of the operator for the audit log, and that no worker has a type.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import getpass
import importlib
import json
import os
import socket
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from aiotaskq.app.internal import internal
from aiotaskq.app.taskq import TaskQ
from aiotaskq.backends import connect
from aiotaskq.backends.base import Backend
from aiotaskq.cli.i18n import tr, translated
from aiotaskq.cli.output import say_stderr
from aiotaskq.core.codec import Codec
from aiotaskq.core.status import Status
from aiotaskq.errors import AiotaskqError, ValidationError
from aiotaskq.runtime.waiting import awake

if TYPE_CHECKING:
    from aiotaskq.operations.schedules import ScheduleView

T = TypeVar("T")


def with_tq(
    url: str | None,
    work: Callable[[TaskQ], Awaitable[T]],
    schedules: str | None = None,
    app: TaskQ | None = None,
    *,
    adds: bool = False,
) -> T:
    """Open an existing store, run the work with it, and return its result.

    Args:
        url: the store; None for that of ``app``.
        schedules: the store of schedules, if it is another one.
        app: the application's TaskQ, whose handlers, defaults and middleware are used.
        adds: the work adds a task or a schedule: the store of ``app`` is created, as by its own first push.
    """
    if app is not None and url is None:
        refuse_unready(app.url, new=adds)
    for place in (url, schedules):
        if place is not None:
            refuse_unready(place)
    if app is not None and schedules is None and url in (None, app.url):
        tq = app
    else:
        codec = None if app is None else internal(app).codec
        tq = TaskQ(url or (None if app is None else app.url), schedules=schedules, codec=codec)
        if app is not None:
            internal(tq).adopt(internal(app).registered)
        if schedules is not None:
            internal(tq).scheduler()  # so that its store is opened, too

    async def main() -> T:
        async with tq:
            return await work(tq)

    return asyncio.run(main())


@contextlib.asynccontextmanager
async def opened(*urls: str, codec: Codec | None = None) -> AsyncIterator[list[Backend]]:
    """Open these stores, creating missing tables, and close them at the end."""
    async with contextlib.AsyncExitStack() as stack:
        backends = [connect(url, codec=codec) for url in urls]
        for backend in backends:
            stack.push_async_callback(backend.close)
            await backend.open()
        yield backends


def refuse_unready(url: str, *, new: bool = False) -> None:
    """Raise unless the store exists, with tables of this version: a command that reads must not create them."""
    from aiotaskq.cli import tables  # which imports SQLAlchemy

    tables.refuse_unready(url, new=new)


def read_json(field: str, text: str) -> Any:
    """Return the value of a JSON text, - for what is on standard input. Raises ValidationError."""
    source = sys.stdin.read() if text == "-" else text
    try:
        return json.loads(source)
    except (json.JSONDecodeError, RecursionError) as error:
        # The place of the mistake, without the text, which may contain secrets.
        where = tr("nested too deeply")
        if isinstance(error, json.JSONDecodeError):
            where = tr("line {line}, column {column}", line=error.lineno, column=error.colno)
        said = tr(
            "{field}: not valid JSON ({where}); quote it for the shell, as '{{\"name\": 1}}'", field=field, where=where
        )
        raise ValidationError(said) from None


def actor() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container may have no name for its user
        user = str(os.getuid()) if hasattr(os, "getuid") else "?"
    return f"{user}@{socket.gethostname()}"


# ---- the application ------------------------------------------------------------------------------------------------

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
        ended = await tq.find(status=[Status.COMPLETED, Status.FAILED], limit=SAMPLE, blobs=False)
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
    say_stderr("warning: {said} (--app MODULE:TQ checks the type)", said=said)


# ---- shortened ids ---------------------------------------------------------------------------------------------------

SHORTEST = 8
"""Characters to which an id is shortened at most."""


async def short_ids(tq: TaskQ, ids: Sequence[str]) -> dict[str, str]:
    """Return for each of these ids the beginning by which a command finds this task, and no other of the store."""
    prefixes = unique_prefixes(ids)
    found = await tq.queue.backend.ids_with_prefix(list(prefixes.values()), NEIGHBOURS)
    for task_id, met in zip(prefixes, found, strict=True):
        if met != [task_id]:  # other tasks of the same moment: most of them differ within a few characters more
            known = len(met) < NEIGHBOURS
            prefixes[task_id] = unique_prefixes([*{task_id, *met}])[task_id] if known else task_id
    return prefixes


NEIGHBOURS = 1_000
"""Ids with a common beginning that are compared; where there are more, an id is not shortened."""


def short_schedule_ids(schedules: Iterable[ScheduleView]) -> dict[str, str]:
    """Return for each of all the schedules the beginning of its id by which a command finds it, and no other one."""
    found = list(schedules)
    prefixes = unique_prefixes([schedule.task_id for schedule in found])
    names = {schedule.name for schedule in found}
    return {task_id: task_id if prefix in names else prefix for task_id, prefix in prefixes.items()}


def unique_prefixes(ids: Sequence[str]) -> dict[str, str]:
    """Return for each id its shortest beginning, of at least ``SHORTEST`` characters, that no other id has.

    A dash is not the end of one. An id with which another one begins is not shortened.
    """
    found = {}
    ordered = sorted(set(ids))
    for number, task_id in enumerate(ordered):
        others, length = ordered[max(0, number - 1) : number] + ordered[number + 1 : number + 2], SHORTEST
        while length < len(task_id) and any(other.startswith(task_id[:length]) for other in others):
            length += 1
        short = task_id[: length + (task_id[length - 1 : length] == "-")]
        found[task_id] = task_id if len(task_id) <= length + 1 else short
    return found
