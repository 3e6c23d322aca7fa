"""procrastinate on PostgreSQL: its worker with LISTEN and NOTIFY, through psycopg, a pool of ten connections."""

from __future__ import annotations

import logging
from contextlib import AbstractAsyncContextManager
from typing import Any

from benchmarks.loops import running
from benchmarks.queues import contestant
from benchmarks.system import System


@contestant
class Procrastinate(System):
    who = "procrastinate"
    family = "postgresql"
    needs = ("procrastinate",)
    note = "PsycopgConnector with ten connections, batch_defer for many, finished jobs kept (its default)"
    without = ("backlog",)

    async def make(self) -> None:
        await self.open()
        await self.app.schema_manager.apply_schema_async()
        await self.close()

    async def open(self) -> None:
        from procrastinate import App, PsycopgConnector

        logging.getLogger("procrastinate").setLevel(logging.ERROR)
        self.app = App(connector=PsycopgConnector(conninfo=self.place, min_size=10, max_size=10))

        async def work(at: float) -> None:
            self.tally.hit(at)

        self.work: Any = self.app.task(name="work")(work)
        await self.app.open_async()

    async def close(self) -> None:
        await self.app.close_async()

    async def push(self, at: float = 0.0) -> None:
        await self.work.defer_async(at=at)

    async def push_many(self, count: int) -> None:
        await self.work.batch_defer_async(*[{"at": 0.0}] * count)

    def working(self, concurrency: int) -> AbstractAsyncContextManager[Any]:
        def worker() -> Any:
            return self.app.run_worker_async(concurrency=concurrency, install_signal_handlers=False)

        return running(self.tally, worker)

    async def unfinished(self) -> bool:
        row = await self.app.connector.execute_query_one_async(
            "SELECT EXISTS (SELECT 1 FROM procrastinate_jobs WHERE status IN ('todo', 'doing')) AS found"
        )
        return bool(row["found"])
