"""SQLite, every commit on disk: aiotaskq and what the standard library's driver can do at most."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import uuid
from contextlib import AbstractAsyncContextManager
from typing import Any

from benchmarks.aiotaskq import Aiotaskq
from benchmarks.case import LIMIT
from benchmarks.loops import CLAIM, running
from benchmarks.queues import contestant
from benchmarks.system import ThreadSystem


@contestant
class AiotaskqInSQLite(Aiotaskq):
    family = "sqlite"
    note = "TaskQ('sqlite:///…'): WAL, synchronous FULL, leases"

    def url(self) -> str:
        return f"sqlite:///{self.place}"


@contestant
class RawSQLite(ThreadSystem):
    """One row a commit where one is pushed, 500 where many are; what ran is written with the claim of the next 100."""

    who = LIMIT
    family = "sqlite"
    note = "sqlite3: WAL, synchronous FULL; one row a commit, or 500; claim and finish 100 in one transaction"
    # Producers at the same time have one writer to wait for: push.one is their limit, too.
    without = ("push.many",)

    async def make(self) -> None:
        with contextlib.closing(self._connect()) as connection:
            connection.execute(
                "CREATE TABLE task (id TEXT PRIMARY KEY, type TEXT NOT NULL, params TEXT NOT NULL,"
                " status TEXT NOT NULL, priority INTEGER NOT NULL, run_at INTEGER NOT NULL) WITHOUT ROWID"
            )
            connection.execute("CREATE INDEX ready ON task (priority, run_at) WHERE status = 'pending'")

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.place, isolation_level=None, check_same_thread=False, timeout=30)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    async def open(self) -> None:
        self.connection = self._connect()

    async def close(self) -> None:
        self.connection.close()

    def _insert(self, count: int, at: float) -> None:
        rows = [(str(uuid.uuid4()), f'{{"at":{at}}}') for _ in range(count)]
        self.connection.executemany("INSERT INTO task VALUES (?, 'work', ?, 'pending', 0, 0)", rows)

    def push_now(self, at: float = 0.0) -> None:
        self._insert(1, at)

    async def push_from(self, producers: int, each: int) -> None:
        for _ in range(producers * each):
            self.push_now()

    async def push_many(self, count: int) -> None:
        self.connection.execute("BEGIN IMMEDIATE")
        self._insert(count, 0.0)
        self.connection.execute("COMMIT")

    def working(self, concurrency: int) -> AbstractAsyncContextManager[Any]:
        return running(self.tally, self._work)

    async def _work(self) -> None:
        with contextlib.closing(self._connect()) as connection:
            ran: list[tuple[str]] = []
            while True:
                claimed = self._step(connection, ran)
                for _id, params in claimed:
                    self.tally.hit(float(params[6:-1]))
                ran = [(each,) for each, _ in claimed]
                await asyncio.sleep(0 if claimed else 0.0005)

    def _step(self, connection: sqlite3.Connection, ran: list[tuple[str]]) -> list[tuple[str, str]]:
        if not ran and not connection.execute("SELECT 1 FROM task WHERE status = 'pending' LIMIT 1").fetchall():
            return []  # only reads: an idle worker does not block the producer
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("UPDATE task SET status = 'completed' WHERE id = ?", ran)
        claimed = connection.execute(
            "UPDATE task SET status = 'running' WHERE id IN (SELECT id FROM task WHERE status = 'pending'"
            " ORDER BY priority, run_at LIMIT ?) RETURNING id, params",
            (CLAIM,),
        ).fetchall()
        connection.execute("COMMIT")
        return claimed

    async def unfinished(self) -> bool:
        return bool(self.connection.execute("SELECT 1 FROM task WHERE status != 'completed' LIMIT 1").fetchall())
