"""Group commit: items that several coroutines add at the same time are written by one call."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from aiotaskq.concurrency.loop_bound import LoopBound
from aiotaskq.concurrency.uninterrupted import ShieldedTask
from aiotaskq.core.errors import DatabaseUnavailable

I = TypeVar("I")  # noqa: E741 - item
R = TypeVar("R")


class Batcher(Generic[I, R]):
    """Collects the items that are added while a call runs, for the next call. A single caller never waits for others.

    The items of one ``add`` stay together in one call. If a call fails, its callers are tried one by one, so that an
    error reaches only the caller whose items cause it; DatabaseUnavailable reaches all. Belongs to the loop that uses
    it.
    """

    def __init__(
        self, write: Callable[[list[I]], Awaitable[list[R]]], limit: int = 500, *, direct: bool = False
    ) -> None:
        """With ``direct``, the calls of a lone caller run in its own task: ``write`` may be cancelled with it."""
        self._write = write
        self._limit = limit
        self._direct = direct
        self._lone = False  # whether the last call was that of one caller
        self._in_call = False  # of a lone caller
        self._waiting: deque[tuple[Sequence[I], asyncio.Future[list[R]]]] = deque()
        self._flusher: ShieldedTask[None] | None = None
        self._bound = LoopBound()

    async def add(self, items: Sequence[I]) -> list[R]:
        """Return the answers for the items once they are written. Raises what ``write`` raises for them."""
        if self._bound.bind():
            self._waiting.clear()  # futures of another loop
            self._flusher, self._lone, self._in_call = None, False, False
        if self._lone and not self._in_call and (self._flusher is None or self._flusher.done()):
            return await self._write_directly(items)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[R]] = loop.create_future()
        self._waiting.append((items, future))
        if not self._in_call and (self._flusher is None or self._flusher.done()):
            self._start(loop)
        return await future

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        # It begins in the loop's next iteration: by then all callers of a gather() have added their items.
        self._flusher = ShieldedTask(self._flush(), loop=loop, name="aiotaskq-batch")

    async def _write_directly(self, items: Sequence[I]) -> list[R]:
        """Write without a task and a future, which would take a lone caller several iterations of the loop."""
        self._in_call = True
        try:
            return await self._write(list(items))
        finally:
            self._in_call = False
            if self._waiting:
                self._start(asyncio.get_running_loop())

    async def _flush(self) -> None:
        while self._waiting:
            group = [self._waiting.popleft()]
            size = len(group[0][0])
            while self._waiting and size + len(self._waiting[0][0]) <= self._limit:
                group.append(self._waiting.popleft())
                size += len(group[-1][0])
            self._lone = self._direct and len(group) == 1
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
