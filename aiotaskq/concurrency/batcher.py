"""Group commit: items that several coroutines add at the same time are written by one call."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from aiotaskq.concurrency.loop_bound import LoopBound
from aiotaskq.concurrency.shielded_task import ShieldedTask
from aiotaskq.core.errors import DatabaseUnavailable

I = TypeVar("I")  # noqa: E741 - item
R = TypeVar("R")


class Batcher(Generic[I, R]):
    """Collects the items that are added while a call runs, for the next call. A single caller never waits for others.

    The items of one ``add`` stay together in one call. If a call fails, its callers are tried one by one, so that an
    error reaches only the caller whose items cause it; DatabaseUnavailable reaches all. Belongs to the loop that uses
    it.
    """

    def __init__(self, write: Callable[[list[I]], Awaitable[list[R]]], limit: int = 500) -> None:
        self._write = write
        self._limit = limit
        self._waiting: deque[tuple[Sequence[I], asyncio.Future[list[R]]]] = deque()
        self._flusher: ShieldedTask[None] | None = None
        self._bound = LoopBound()

    async def add(self, items: Sequence[I]) -> list[R]:
        """Return the answers for the items once they are written. Raises what ``write`` raises for them."""
        if self._bound.bind():
            self._waiting.clear()  # futures of another loop
            self._flusher = None
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[R]] = loop.create_future()
        self._waiting.append((items, future))
        if self._flusher is None or self._flusher.done():
            # It begins in the loop's next iteration: by then all callers of a gather() have added their items.
            self._flusher = ShieldedTask(self._flush(), loop=loop, name="aiotaskq-batch")
        return await future

    async def _flush(self) -> None:
        while self._waiting:
            group = [self._waiting.popleft()]
            size = len(group[0][0])
            while self._waiting and size + len(self._waiting[0][0]) <= self._limit:
                group.append(self._waiting.popleft())
                size += len(group[-1][0])
            try:
                await self._together(group)
            except BaseException:
                # Only the end of the loop cancels the flusher; no caller may be left waiting for it.
                for _, future in [*group, *self._waiting]:
                    future.cancel()
                self._waiting.clear()
                raise

    async def _together(self, group: list[tuple[Sequence[I], asyncio.Future[list[R]]]]) -> None:
        try:
            answers = await self._write([item for items, _ in group for item in items])
        except Exception as error:
            if len(group) > 1 and not isinstance(error, DatabaseUnavailable):
                for single in group:
                    await self._together([single])
                return
            for _, future in group:
                if not future.done():
                    future.set_exception(error)
            return
        start = 0
        for items, future in group:
            if not future.done():
                future.set_result(answers[start : start + len(items)])
            start += len(items)
