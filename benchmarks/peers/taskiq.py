"""taskiq: its broker in memory, Redis streams with an acknowledgement when the task is done, and PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

from benchmarks.loops import running
from benchmarks.queues import KINDS, contestant
from benchmarks.system import System

BLOCK = 200  # milliseconds of one wait for news; by default 2,000, for which its worker also waits before it stops


@contestant
class TaskiqInMemory(System):
    """What is pushed runs at once as a task of the loop: there is no queue to fill or drain."""

    who = "taskiq"
    family = "memory"
    needs = ("taskiq",)
    note = "InMemoryBroker(): a task of the loop for each"
    without = ("push.one", "push.many", "push.bulk", "drain.10", "drain.100", "backlog")

    async def open(self) -> None:
        from taskiq import InMemoryBroker

        self.broker = InMemoryBroker()

        async def work(at: float = 0.0) -> None:
            self.tally.hit(at)

        self.work: Any = self.broker.task(task_name="work")(work)
        await self.broker.startup()

    async def close(self) -> None:
        await self.broker.shutdown()

    async def push(self, at: float = 0.0) -> None:
        await self.work.kiq(at=at)

    @contextlib.asynccontextmanager
    async def working(self, concurrency: int) -> AsyncIterator[None]:
        yield

    async def unfinished(self) -> bool:
        return False


@contestant
class TaskiqOnStreams(System):
    who = "taskiq"
    family = "redis"
    needs = ("taskiq", "taskiq_redis")
    note = "RedisStreamBroker, no result backend, acknowledged when saved"
    without = ("push.bulk", "backlog")

    async def make(self) -> None:
        await self.open()
        await self.close()

    async def open(self) -> None:
        from taskiq_redis import RedisStreamBroker

        logging.getLogger("taskiq").setLevel(logging.ERROR)
        self.broker: Any = RedisStreamBroker(
            self.place.partition("?")[0],
            xread_block=BLOCK,
            unacknowledged_lock_timeout=1.0,  # a worker that stops while it holds this lock stops the others, else
        )
        await self.register()

    async def register(self) -> None:
        """Name the task, and connect."""

        async def work(at: float = 0.0) -> None:
            self.tally.hit(at)

        self.work: Any = self.broker.task(task_name="work")(work)
        await self.broker.startup()

    async def close(self) -> None:
        await self.broker.shutdown()

    async def push(self, at: float = 0.0) -> None:
        await self.work.kiq(at=at)

    @contextlib.asynccontextmanager
    async def working(self, concurrency: int) -> AsyncIterator[None]:
        from taskiq.receiver import Receiver

        stop = asyncio.Event()
        receiver = Receiver(self.broker, max_async_tasks=concurrency, run_startup=False)
        listening = asyncio.create_task(receiver.listen(stop))
        try:
            yield
        finally:
            stop.set()
            while not (await asyncio.wait([listening], timeout=0.5))[0]:
                await self.push()  # its reader may have lost the cancellation; news ends its wait, too

    async def unfinished(self) -> bool:
        from redis.asyncio import Redis

        async with Redis(connection_pool=self.broker.connection_pool) as client:
            (group,) = await client.xinfo_groups(self.broker.queue_name)
        return bool(group["pending"] or group["lag"])


@contestant
class TaskiqOnPostgreSQL(TaskiqOnStreams):
    who = "taskiq"
    family = "postgresql"
    needs = ("taskiq", "taskiq_pg")
    note = "taskiq-postgres: AsyncpgBroker, no result backend; what is pushed while no worker listens is not run"
    # A task is known to a worker by its notification alone.
    without = tuple(name for name in KINDS if name not in ("latency.two", "latency.slow"))

    async def open(self) -> None:
        from taskiq_pg.asyncpg import AsyncpgBroker

        logging.getLogger("taskiq").setLevel(logging.ERROR)
        self.broker = AsyncpgBroker(self.place)
        await self.register()

    @contextlib.asynccontextmanager
    async def working(self, concurrency: int) -> AsyncIterator[None]:
        from taskiq.receiver import Receiver

        receiver = Receiver(self.broker, max_async_tasks=concurrency, run_startup=False)
        async with running(self.tally, lambda: receiver.listen(asyncio.Event())):
            yield

    async def unfinished(self) -> bool:
        import asyncpg

        async with asyncpg.create_pool(self.place, min_size=1, max_size=1) as pool:
            return bool(await pool.fetchval("SELECT 1 FROM taskiq_messages LIMIT 1"))
