"""PostgreSQL with every commit on disk: aiotaskq and what its fastest driver can do at most."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from benchmarks.aiotaskq import Aiotaskq
from benchmarks.case import LIMIT
from benchmarks.loops import CLAIM, in_loops
from benchmarks.queues import contestant
from benchmarks.system import System

INSERT = "INSERT INTO task (id, params) VALUES ($1, $2)"
NOTIFYING = f"WITH new AS ({INSERT}) SELECT pg_notify('task', '')"
INSERT_MANY = "INSERT INTO task (id, params) SELECT * FROM unnest($1::uuid[], $2::text[])"
CLAIM_BATCH = (
    "UPDATE task SET status = 'running' WHERE id IN (SELECT id FROM task WHERE status = 'pending'"
    f" ORDER BY priority, run_at LIMIT {CLAIM} FOR UPDATE SKIP LOCKED) RETURNING id, params"
)
FINISH = "UPDATE task SET status = 'completed' WHERE id = ANY($1)"


@contestant
class AiotaskqInPostgreSQL(Aiotaskq):
    family = "postgresql"
    note = "TaskQ('postgresql://…'): synchronous_commit on, leases"


@contestant
class RawPostgreSQL(System):
    """A pool of ten connections; one statement a push, arrays for many; claim 100 and finish 100 by one each."""

    who = LIMIT
    family = "postgresql"
    note = "asyncpg: ten connections, one statement a push, unnest for 500, claim and finish 100 a statement"

    async def make(self) -> None:
        import asyncpg

        connection = await asyncpg.connect(self.place)
        await connection.execute(
            "CREATE TABLE task (id uuid PRIMARY KEY, params text NOT NULL, status text NOT NULL DEFAULT 'pending',"
            " priority int NOT NULL DEFAULT 0, run_at bigint NOT NULL DEFAULT 0) WITH (fillfactor = 70);"
            "CREATE INDEX ready ON task (priority, run_at) WHERE status = 'pending'"
        )
        await connection.close()

    async def open(self) -> None:
        import asyncpg

        self.pool = await asyncpg.create_pool(self.place, min_size=10, max_size=10)
        self.listener = await asyncpg.connect(self.place)
        self.woken = asyncio.Event()
        await self.listener.add_listener("task", lambda *_: self.woken.set())
        self.insert = INSERT

    async def close(self) -> None:
        await self.listener.close()
        await self.pool.close()

    async def push(self, at: float = 0.0) -> None:
        await self.pool.execute(self.insert, uuid.uuid4(), str(at))

    async def push_many(self, count: int) -> None:
        await self.pool.execute(INSERT_MANY, [uuid.uuid4() for _ in range(count)], ["0.0"] * count)

    def notify(self) -> None:
        self.insert = NOTIFYING

    def working(self, concurrency: int) -> AbstractAsyncContextManager[Any]:
        self.notify()
        return in_loops(self.tally, self._step)

    async def _step(self, ran: Sequence[Any]) -> Sequence[Any]:
        if ran:
            await self.pool.execute(FINISH, [row["id"] for row in ran])
        self.woken.clear()
        claimed: Sequence[Any] = await self.pool.fetch(CLAIM_BATCH)
        if not claimed:
            await self.woken.wait()
        for row in claimed:
            self.tally.hit(float(row["params"]))
        return claimed

    async def unfinished(self) -> bool:
        return bool(await self.pool.fetchval("SELECT 1 FROM task WHERE status != 'completed' LIMIT 1"))
