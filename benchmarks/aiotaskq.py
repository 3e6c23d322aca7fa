"""aiotaskq as a contestant: a TaskQ with its defaults, all promises on, used by its public names only."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any

from aiotaskq import TaskQ
from benchmarks.case import AIOTASKQ
from benchmarks.system import System


class Aiotaskq(System):
    """Retries, leases, fences and heartbeats as they are by default."""

    who = AIOTASKQ
    timeout: float | None = None

    def url(self) -> str:
        """Return the URL of the store in this place."""
        return self.place

    async def make(self) -> None:
        async with TaskQ(self.url()):
            pass

    async def open(self) -> None:
        self.tq = TaskQ(self.url())

        @self.tq.task(name="work", timeout=self.timeout)
        async def work(at: float = 0.0) -> None:
            self.tally.hit(at)

        await self.tq.open()

    async def close(self) -> None:
        await self.tq.close()

    async def push(self, at: float = 0.0) -> None:
        await self.tq.push("work", {"at": at})

    async def push_many(self, count: int) -> None:
        await self.tq.push_many([("work", {"at": 0.0})] * count)

    def working(self, concurrency: int) -> AbstractAsyncContextManager[Any]:
        return self.tq.running(concurrency=concurrency, scheduler=False)

    async def unfinished(self) -> bool:
        return bool(await self.tq.find(status=("pending", "running"), limit=1))
