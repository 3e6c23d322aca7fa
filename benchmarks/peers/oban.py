"""oban on PostgreSQL, the edition that is free: psycopg with a pool of ten connections. It needs Python 3.12."""

from __future__ import annotations

import logging
from contextlib import AbstractAsyncContextManager
from typing import Any

from benchmarks.queues import contestant
from benchmarks.system import System


@contestant
class ObanSystem(System):
    who = "oban"
    family = "postgresql"
    needs = ("oban",)
    note = "Oban with ten connections, enqueue_many for many, finished jobs kept (its default)"
    without = ("backlog",)

    async def make(self) -> None:
        from oban.schema import install

        await self._connect()
        await install(self.pool)
        await self.pool.close()

    async def _connect(self) -> None:
        from psycopg_pool import AsyncConnectionPool

        logging.getLogger("oban").setLevel(logging.ERROR)
        self.pool = AsyncConnectionPool(self.place, min_size=10, max_size=10, open=False)
        await self.pool.open(wait=True)

    async def open(self) -> None:
        from oban import Oban, worker

        await self._connect()
        tally = self.tally

        @worker(queue="default")
        class Work:
            async def process(self, job: Any) -> None:
                tally.hit(job.args["at"])

        self.work: Any = Work
        self.client = await Oban(pool=self.pool).start()

    async def close(self) -> None:
        await self.client.stop()
        await self.pool.close()

    async def push(self, at: float = 0.0) -> None:
        await self.client.enqueue(self.work.new({"at": at}))

    async def push_many(self, count: int) -> None:
        await self.client.enqueue_many(self.work.new({"at": 0.0}) for _ in range(count))

    def working(self, concurrency: int) -> AbstractAsyncContextManager[Any]:
        from oban import Oban

        worker: AbstractAsyncContextManager[Any] = Oban(pool=self.pool, name="worker", queues={"default": concurrency})
        return worker

    async def unfinished(self) -> bool:
        async with self.pool.connection() as connection:
            query = "SELECT 1 FROM oban_jobs WHERE state IN ('available', 'executing') LIMIT 1"
            return bool(await (await connection.execute(query)).fetchall())
