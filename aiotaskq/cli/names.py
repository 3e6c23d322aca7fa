"""Names of a store that a shell completes: of task types, queues, schedules and limits; the options that take them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import typer

from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli.store_access import with_tq
from aiotaskq.errors import AiotaskqError

PATIENCE = 2.0  # seconds that a store has to answer
NEWEST = 1_000  # tasks whose types are completed

Complete = Callable[[typer.Context, str], list[str]]


def _completed(find: Callable[[TaskQ], Awaitable[Iterable[str]]]) -> Complete:
    """Return what completes the names that ``find`` returns of the store of this command line."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        async def work(tq: TaskQ) -> Iterable[str]:
            async with asyncio.timeout(PATIENCE):
                return await find(tq)

        try:
            found = with_tq(ctx.params["db"], work, ctx.params.get("schedules"))
        except (AiotaskqError, OSError):  # TimeoutError is one: a prompt is no place for an error; the command tells it
            return []
        # Shells split the answer at blanks.
        return sorted(name for name in {*found} if name.startswith(incomplete) and re.fullmatch(r"[!-~\w]+", name))

    return complete


async def _types(tq: TaskQ) -> Iterable[str]:
    known = [worker.types or () for worker in await tq.workers.list()]
    newest = await tq.find(limit=NEWEST)
    return {each.partition("@")[0] for types in known for each in types} | {task.type for task in newest}


async def _queues(tq: TaskQ) -> Iterable[str]:
    found = await tq.stats()
    return {*found.queues, *found.paused}


async def _schedules(tq: TaskQ) -> Iterable[str]:
    return [schedule.name for schedule in await tq.schedules.list()]


async def _limits(tq: TaskQ) -> Iterable[str]:
    return [limit.key for limit in await tq.limits.list()]


types = _completed(_types)
queues = _completed(_queues)
schedules = _completed(_schedules)
limits = _completed(_limits)


def words(known: Iterable[Any]) -> Complete:
    """Return what completes the words that an option accepts."""
    accepted: Sequence[str] = [str(each) for each in known]

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        return [each for each in accepted if each.startswith(incomplete)]

    return complete
