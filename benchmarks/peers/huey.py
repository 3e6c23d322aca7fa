"""huey, in memory and on SQLite with its ``fsync`` on: worker threads, the consumer's defaults."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

from benchmarks.case import Run, Sample
from benchmarks.cases.facade import DURABLE, from_threads
from benchmarks.queues import contestant
from benchmarks.system import ThreadSystem


@contestant
class HueyInMemory(ThreadSystem):
    who = "huey"
    family = "memory"
    needs = ("huey",)
    note = "MemoryHuey, a thread a worker; polls, 0.1 s at first"
    without = ("push.bulk", "backlog")

    def make_huey(self) -> Any:
        from huey import MemoryHuey

        return MemoryHuey()

    async def open(self) -> None:
        logging.getLogger("huey").setLevel(logging.WARNING)  # as its consumer with --quiet
        self.huey = self.make_huey()
        self._push = self.huey.task(name="work")(self.tally.hit)

    async def close(self) -> None:
        self.huey.storage.close()

    def push_now(self, at: float = 0.0) -> None:
        self._push(at)

    @contextlib.asynccontextmanager
    async def working(self, concurrency: int) -> AsyncIterator[None]:
        consumer = self.huey.create_consumer(workers=concurrency, worker_type="thread", periodic=False)
        consumer.start()
        try:
            yield
        finally:
            await asyncio.to_thread(consumer.stop, graceful=True)

    async def unfinished(self) -> bool:
        return bool(self.huey.pending_count())


@contestant
class HueyInSQLite(HueyInMemory):
    family = "sqlite"
    note = "SqliteHuey(fsync=True), a thread a worker; a task is deleted when it is taken, so a crash loses it"

    def make_huey(self) -> Any:
        from huey import SqliteHuey

        return SqliteHuey(filename=self.place, fsync=True, timeout=60)


@DURABLE.by("huey", "huey")
def durable_huey(run: Run) -> Sample:
    from huey import SqliteHuey

    huey = SqliteHuey(filename=run.place, fsync=True, timeout=60)
    push = huey.task(name="work")(lambda: None)
    try:
        return from_threads(run, 50, push)
    finally:
        huey.storage.close()
