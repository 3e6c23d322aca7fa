"""MySQL (MariaDB) with every commit on disk: aiotaskq and what its driver can do at most."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any
from urllib.parse import urlsplit

from benchmarks.aiotaskq import Aiotaskq
from benchmarks.case import LIMIT
from benchmarks.loops import CLAIM, in_loops
from benchmarks.queues import contestant
from benchmarks.system import System

STATUS = "UPDATE task SET status = %s WHERE id IN %s"
INSERT = "INSERT INTO task (id, params) VALUES (%s, %s)"


@contestant
class AiotaskqInMySQL(Aiotaskq):
    family = "mysql"
    needs = ("asyncmy",)
    note = "TaskQ('mysql://…'): innodb_flush_log_at_trx_commit 1, leases"


@contestant
class RawMySQL(System):
    """A pool of ten connections that commit each statement; claim 100 and finish 100 in one transaction."""

    who = LIMIT
    family = "mysql"
    needs = ("asyncmy",)
    note = "asyncmy: ten connections, autocommit; one INSERT of 500; claim and finish 100 a transaction"

    def _place(self) -> dict[str, Any]:
        url = urlsplit(self.place)
        return {
            "host": url.hostname,
            "port": url.port,
            "user": url.username,
            "db": url.path[1:],
            "autocommit": True,
            # By default it locks gaps, too: pushes and claims would deadlock.
            "init_command": "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
        }

    async def make(self) -> None:
        import asyncmy

        connection = await asyncmy.connect(**self._place())
        async with connection.cursor() as cursor:
            await cursor.execute(
                "CREATE TABLE task (id CHAR(36) CHARACTER SET ascii PRIMARY KEY, params TEXT NOT NULL,"
                " status VARCHAR(20) NOT NULL DEFAULT 'pending', priority INT NOT NULL DEFAULT 0,"
                " run_at BIGINT NOT NULL DEFAULT 0, KEY ready (status, priority, run_at)) ENGINE = InnoDB"
            )
        connection.close()

    async def open(self) -> None:
        import asyncmy

        self.pool = await asyncmy.create_pool(minsize=10, maxsize=10, **self._place())

    async def close(self) -> None:
        self.pool.close()
        await self.pool.wait_closed()

    async def push(self, at: float = 0.0) -> None:
        async with self.pool.acquire() as connection, connection.cursor() as cursor:
            await cursor.execute(INSERT, (str(uuid.uuid4()), str(at)))

    async def push_many(self, count: int) -> None:
        async with self.pool.acquire() as connection, connection.cursor() as cursor:
            await cursor.executemany(INSERT, [(str(uuid.uuid4()), "0.0") for _ in range(count)])

    def working(self, concurrency: int) -> AbstractAsyncContextManager[Any]:
        return in_loops(self.tally, self._step)

    async def _step(self, ran: Sequence[Any]) -> Sequence[Any]:
        async with self.pool.acquire() as connection, connection.cursor() as cursor:
            await cursor.execute("BEGIN")
            if ran:
                await cursor.execute(STATUS, ("completed", tuple(row[0] for row in ran)))
            await cursor.execute(
                "SELECT id, params FROM task WHERE status = 'pending' ORDER BY priority, run_at"
                f" LIMIT {CLAIM} FOR UPDATE SKIP LOCKED"
            )
            claimed: Sequence[Any] = await cursor.fetchall()
            if claimed:
                await cursor.execute(STATUS, ("running", tuple(row[0] for row in claimed)))
            await cursor.execute("COMMIT")
        if not claimed:
            await asyncio.sleep(0.001)  # it has no notification: asking is the only way
        for _id, params in claimed:
            self.tally.hit(float(params))
        return claimed

    async def unfinished(self) -> bool:
        async with self.pool.acquire() as connection, connection.cursor() as cursor:
            await cursor.execute("SELECT 1 FROM task WHERE status != 'completed' LIMIT 1")
            return bool(await cursor.fetchall())
