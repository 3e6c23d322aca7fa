"""pgqueuer on PostgreSQL, its tables logged (durable): asyncpg, a batch as large as the concurrency."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

from benchmarks.loops import running
from benchmarks.queues import contestant
from benchmarks.system import System


@contestant
class PgQueuer(System):
    who = "pgqueuer"
    family = "postgresql"
    needs = ("pgqueuer",)
    note = "AsyncpgPoolDriver with ten connections, durable tables, lists for many, batch_size = concurrency"

    async def make(self) -> None:
        await self.open()
        await self.queries.install()
        await self.close()

    async def open(self) -> None:
        import asyncpg
        from pgqueuer.db import AsyncpgPoolDriver
        from pgqueuer.queries import Queries

        logging.getLogger("pgqueuer").setLevel(logging.ERROR)
        self.pool = await asyncpg.create_pool(self.place, min_size=10, max_size=10)
        self.queries = Queries(AsyncpgPoolDriver(self.pool))

    async def close(self) -> None:
        await self.pool.close()

    async def push(self, at: float = 0.0) -> None:
        await self.queries.enqueue("work", str(at).encode())

    async def push_many(self, count: int) -> None:
        await self.queries.enqueue(["work"] * count, [b"0.0"] * count, [0] * count)

    @contextlib.asynccontextmanager
    async def working(self, concurrency: int) -> AsyncIterator[None]:
        from pgqueuer.db import AsyncpgPoolDriver
        from pgqueuer.qm import QueueManager
        from pgqueuer.queries import Queries

        manager = QueueManager(Queries(AsyncpgPoolDriver(self.pool)))

        async def work(job: Any) -> None:
            self.tally.hit(float(job.payload))

        manager.entrypoint("work")(work)

        async with running(self.tally, lambda: manager.run(batch_size=concurrency)):
            yield
            manager.shutdown.set()
            await asyncio.sleep(0.05)

    async def unfinished(self) -> bool:
        return bool(await self.pool.fetchval("SELECT 1 FROM pgqueuer LIMIT 1"))
