"""honker on SQLite, in batches: a core in Rust, and less durable than the others, as its name in the report shows."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from benchmarks.loops import CLAIM, in_loops
from benchmarks.queues import contestant
from benchmarks.system import ThreadSystem


@contestant
class Honker(ThreadSystem):
    who = "honker (NORMAL)"
    family = "sqlite"
    needs = ("honker",)
    note = (
        "synchronous NORMAL, as it fixes it: a power loss takes the last commits; claim and acknowledge 100 at a time"
    )

    async def open(self) -> None:
        import honker

        self.database = honker.open(self.place)
        self.queue = self.database.queue("work")

    async def close(self) -> None:
        self.database.close()

    def push_now(self, at: float = 0.0) -> None:
        self.queue.enqueue({"at": at})

    async def push_many(self, count: int) -> None:
        with self.database.transaction() as transaction:
            for _ in range(count):
                self.queue.enqueue({"at": 0.0}, tx=transaction)

    def working(self, concurrency: int) -> AbstractAsyncContextManager[Any]:
        self.worker = str(uuid.uuid4())
        self.updates = self.database.update_events()
        return in_loops(self.tally, self._step)

    async def _step(self, ran: Sequence[Any]) -> Sequence[Any]:
        if ran:
            self.queue.ack_batch([job.id for job in ran], self.worker)
        claimed: Sequence[Any] = self.queue.claim_batch(self.worker, CLAIM)
        if not claimed:
            await self.updates.__anext__()
        for job in claimed:
            self.tally.hit(job.payload["at"])
        await asyncio.sleep(0)
        return claimed

    async def unfinished(self) -> bool:
        return bool(self.database.query("SELECT 1 FROM _honker_live LIMIT 1"))
