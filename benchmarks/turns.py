"""A worker for the limits: one coroutine that claims a batch, runs it, and writes its end with the next claim."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

CLAIM = 100


@contextlib.asynccontextmanager
async def in_turns(turn: Callable[[Sequence[Any]], Awaitable[Sequence[Any]]]) -> AsyncIterator[None]:
    """Call ``turn`` with what it gave the last time, again and again; it may wait. Cancelled at the end."""

    async def work() -> None:
        claimed: Sequence[Any] = ()
        while True:
            claimed = await turn(claimed)

    worker = asyncio.create_task(work())
    try:
        yield
    finally:
        worker.cancel()
        for result in await asyncio.gather(worker, return_exceptions=True):
            if not isinstance(result, asyncio.CancelledError):
                raise RuntimeError("the worker ended") from result
