"""What commands need of a store: opening it, the name of the operator for the audit log, and shortened ids."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from aiotaskq.app.internal import internal
from aiotaskq.app.taskq import TaskQ
from aiotaskq.backends import connect
from aiotaskq.backends.base import Backend
from aiotaskq.cli.i18n import tr
from aiotaskq.core.codec import Codec
from aiotaskq.errors import ValidationError

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
