"""arq on Redis: its worker polls twice a second, results are kept for an hour."""

from __future__ import annotations

import logging
from contextlib import AbstractAsyncContextManager
from typing import Any

from benchmarks.loops import running
from benchmarks.queues import contestant
from benchmarks.system import System


@contestant
class Arq(System):
    who = "arq"
    family = "redis"
    needs = ("arq",)
    note = "Worker with its defaults: poll_delay 0.5 s"
    without = ("push.bulk", "backlog")

    async def open(self) -> None:
        from arq import create_pool
        from arq.connections import RedisSettings

        logging.getLogger("arq").setLevel(logging.ERROR)
        self.settings = RedisSettings.from_dsn(self.place.partition("?")[0])
        self.pool = await create_pool(self.settings)

    async def close(self) -> None:
        await self.pool.aclose()

    async def push(self, at: float = 0.0) -> None:
        await self.pool.enqueue_job("work", at)

    async def _work(self, _context: dict[str, Any], at: float) -> None:
        self.tally.hit(at)

    def working(self, concurrency: int) -> AbstractAsyncContextManager[Any]:
        from arq.worker import Worker, func

        functions = [func(self._work, name="work")]
        worker = Worker(functions, redis_settings=self.settings, max_jobs=concurrency, handle_signals=False)
        return running(self.tally, worker.async_run)

    async def unfinished(self) -> bool:
        return bool(await self.pool.zcard(self.pool.default_queue_name))
