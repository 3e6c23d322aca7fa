"""Redis with each write synced to its file: aiotaskq and what a stream can do at most."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from benchmarks.aiotaskq import Aiotaskq
from benchmarks.case import LIMIT
from benchmarks.loops import CLAIM, in_loops
from benchmarks.queues import contestant
from benchmarks.system import System


@contestant
class AiotaskqInRedis(Aiotaskq):
    family = "redis"
    needs = ("redis",)
    note = "TaskQ('redis://…'): leases, finished after the run"


@contestant
class RawRedis(System):
    """A stream with a group: XADD a push, 500 in a pipeline, XREADGROUP of 100, XACK and XDEL of 100 in a pipeline."""

    who = LIMIT
    family = "redis"
    needs = ("redis",)
    note = "redis-py: XADD a push, pipelines of 500; XREADGROUP 100; XACK and XDEL 100"

    async def make(self) -> None:
        await self.open()
        await self.client.xgroup_create("tasks", "workers", id="0", mkstream=True)
        await self.close()

    async def open(self) -> None:
        from redis.asyncio import Redis

        self.client = Redis.from_url(self.place.partition("?")[0], protocol=2)
        self.consumer = str(uuid.uuid4())

    async def close(self) -> None:
        await self.client.aclose()

    async def push(self, at: float = 0.0) -> None:
        await self.client.xadd("tasks", {"id": str(uuid.uuid4()), "at": at})

    async def push_many(self, count: int) -> None:
        pipe = self.client.pipeline(transaction=False)
        for _ in range(count):
            pipe.xadd("tasks", {"id": str(uuid.uuid4()), "at": 0.0})
        await pipe.execute()

    def working(self, concurrency: int) -> AbstractAsyncContextManager[Any]:
        return in_loops(self.tally, self._step)

    async def _step(self, ran: Sequence[Any]) -> Sequence[Any]:
        if ran:
            ids = [each for each, _ in ran]
            pipe = self.client.pipeline(transaction=False)
            pipe.xack("tasks", "workers", *ids)
            pipe.xdel("tasks", *ids)
            await pipe.execute()
        answer: Any = await self.client.xreadgroup("workers", self.consumer, {"tasks": ">"}, count=CLAIM, block=1_000)
        claimed: Sequence[Any] = answer[0][1] if answer else ()
        for _id, fields in claimed:
            self.tally.hit(float(fields[b"at"]))
        return claimed

    async def unfinished(self) -> bool:
        return bool(await self.client.xlen("tasks"))
