"""dramatiq with its default middleware: its broker in memory, and the one on Redis, acknowledged after the run."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any, ClassVar

from benchmarks.queues import contestant
from benchmarks.system import ThreadSystem


@contestant
class DramatiqInMemory(ThreadSystem):
    who = "dramatiq"
    family = "memory"
    needs: ClassVar[tuple[str, ...]] = ("dramatiq",)
    note = "StubBroker, a thread a worker"
    without = ("push.bulk", "backlog")

    def make_broker(self) -> Any:
        from dramatiq.brokers.stub import StubBroker

        return StubBroker()

    async def open(self) -> None:
        import dramatiq

        logging.getLogger("dramatiq").setLevel(logging.ERROR)
        self.broker = self.make_broker()
        self.actor = dramatiq.actor(self.tally.hit, actor_name="work", broker=self.broker)

    async def close(self) -> None:
        self.broker.close()

    def push_now(self, at: float = 0.0) -> None:
        self.actor.send(at)

    @contextlib.asynccontextmanager
    async def working(self, concurrency: int) -> AsyncIterator[None]:
        from dramatiq import Worker

        worker = Worker(self.broker, worker_threads=concurrency, worker_timeout=100)
        worker.start()
        try:
            yield
        finally:
            await asyncio.to_thread(worker.stop)

    async def unfinished(self) -> bool:
        return bool(self.broker.queues["default"].unfinished_tasks)


@contestant
class DramatiqOnRedis(DramatiqInMemory):
    family = "redis"
    needs = ("dramatiq", "redis")
    note = "RedisBroker with 200 connections, a thread a worker, acknowledged after the run"

    def make_broker(self) -> Any:
        from dramatiq.brokers.redis import RedisBroker

        # The pool's default of 100 connections is too few for 100 worker threads and their fetching threads.
        return RedisBroker(url=f"{self.place.partition('?')[0]}?max_connections=200")

    async def unfinished(self) -> bool:
        client = self.broker.client
        # What is taken and not acknowledged yet stands in a set for each worker.
        return bool(client.hlen("dramatiq:default.msgs"))
