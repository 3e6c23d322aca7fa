"""Workers of coroutines; for the limits, one that claims a batch, runs it, and writes its end with the next claim."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import Any

from benchmarks.system import Tally

CLAIM = 100


@contextlib.asynccontextmanager
async def in_loops(
    tally: Tally, step: Callable[[Sequence[Any]], Awaitable[Sequence[Any]]], *, at_once: int = 1
) -> AsyncIterator[None]:
    """Call ``step`` with its last result, again and again, in ``at_once`` coroutines; they are cancelled at the end."""

    async def work() -> None:
        claimed: Sequence[Any] = ()
        while True:
            claimed = await step(claimed)

    async with running(tally, *(work for _ in range(at_once))):
        yield


@contextlib.asynccontextmanager
async def running(tally: Tally, *functions: Callable[[], Coroutine[Any, Any, Any]]) -> AsyncIterator[None]:
    """Run coroutine functions until the context is left, then cancel them; an error of one is given to the tally."""

    def ended(task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            tally.fail(error)

    tasks = [asyncio.create_task(function()) for function in functions]
    for task in tasks:
        task.add_done_callback(ended)
    try:
        yield
    finally:
        await end(*tasks)


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks until they have ended: some clients, such as redis-py, lose a cancellation."""
    while running := [task for task in tasks if not task.done()]:
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=0.5)
