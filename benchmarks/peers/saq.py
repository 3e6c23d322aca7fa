"""saq on Redis: its worker with default timers, results kept for ten minutes."""

from __future__ import annotations

import logging
from contextlib import AbstractAsyncContextManager
from typing import Any

from benchmarks.loops import running
from benchmarks.queues import contestant
from benchmarks.system import System


@contestant
class Saq(System):
    who = "saq"
    family = "redis"
    needs = ("saq", "redis")
    note = "RedisQueue and Worker with their defaults"
    without = ("push.bulk", "backlog")

    async def open(self) -> None:
        from redis.asyncio import Redis
        from saq.queue.redis import RedisQueue

        logging.getLogger("saq").setLevel(logging.ERROR)
        # A connection for each worker that waits: newer clients allow a hundred in all.
        self.queue = RedisQueue(Redis.from_url(self.place.partition("?")[0], max_connections=1_000))
        await self.queue.connect()

    async def close(self) -> None:
        await self.queue.disconnect()

    async def push(self, at: float = 0.0) -> None:
        await self.queue.enqueue("work", at=at)

    async def _work(self, _context: Any, *, at: float = 0.0) -> None:
        self.tally.hit(at)

    def working(self, concurrency: int) -> AbstractAsyncContextManager[Any]:
        from saq import Worker

        worker = Worker(self.queue, functions=[("work", self._work)], concurrency=concurrency)
        return running(self.tally, worker.start)

    async def unfinished(self) -> bool:
        return bool(await self.queue.count("incomplete"))
