"""Transactions on SQLite: they begin IMMEDIATE, wait for other writers, and many processes share a file."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest

from aiotaskq.backends.sql import sqlite_file
from aiotaskq.backends.sql.backend import SqlBackend
from aiotaskq.backends.sql.database import Database
from aiotaskq.backends.sql.dialects.sqlite import INSERTED
from aiotaskq.backends.sql.sqlite_connections import SqliteConnections
from aiotaskq.errors import (
    DatabaseUnavailable,
)
from tests.backends.sql.sqlite.stores import ENV, every_verb
from tests.support import nursery
from tests.support.machine import within
from tests.support.rows import LEASE, NOW, new


async def trace(database: Database) -> list[tuple[int, str]]:
    """Every statement that reaches SQLite from now on, with its connection."""
    seen: list[tuple[int, str]] = []
    connections = await database.connections()
    assert isinstance(connections, SqliteConnections)
    for store in (connections.writer, *connections.readers):

        def note(statement: str, number: int = id(store)) -> None:
            seen.append((number, statement))

        await store.run(lambda store=store, note=note: store.raw.set_trace_callback(note))  # type: ignore[misc]
    return seen


async def test_every_write_transaction_begins_immediate(backend: SqlBackend) -> None:  # F1
    seen = await trace(backend.database)
    await every_verb(backend)
    writing: dict[int, bool] = {}
    writes = 0
    for connection, statement in seen:
        word = statement.split()[0].upper()
        if word == "BEGIN":
            assert statement.upper() == "BEGIN IMMEDIATE"
            writing[connection] = True
        elif word in ("COMMIT", "ROLLBACK"):
            writing[connection] = False
        elif word in ("INSERT", "UPDATE", "DELETE", "REPLACE"):
            assert writing.get(connection), statement
            writes += 1
    assert writes > 20
    assert not any(writing.values())


async def test_many_rows_are_inserted_by_one_statement(backend: SqlBackend) -> None:
    old = new(unique_key="one")
    await backend.push([old])
    tasks = [new() for _ in range(2 * INSERTED + 3)]
    tasks[1] = new(unique_key="one")
    tasks[-1] = tasks[-2]
    seen = await trace(backend.database)
    stored = await backend.push(tasks)
    assert sum(statement.startswith("INSERT INTO task_queue") for _, statement in seen) == 2 + 3
    ids = [task.task_id for task in tasks]
    assert [task.task_id for task in stored] == [ids[0], old.task_id, *ids[2:]]
    assert [task is None for task in await backend.get(ids)] == [place == 1 for place in range(len(ids))]


async def test_readers_do_not_wait_for_a_writer(backend: SqlBackend, path: Path) -> None:
    await backend.push([new()])
    raw = sqlite3.connect(path, isolation_level=None)
    raw.execute("BEGIN IMMEDIATE")
    async with asyncio.timeout(within(30)):
        assert await backend.count_ready(NOW) == 1
    raw.close()


async def test_hundreds_at_once(backend: SqlBackend) -> None:
    verbs: list[Awaitable[Any]] = []
    for _ in range(150):
        verbs += [backend.push([new()]), backend.stats(NOW), backend.claim("o", NOW, 1, lease_until=LEASE)]
    await asyncio.gather(*verbs)
    assert sum((await backend.stats(NOW)).counts.values()) == 150


HOLDER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], timeout=10, isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
time.sleep(4)
connection.execute("COMMIT")
"""


async def test_another_program_holds_the_write_lock(backend: SqlBackend, path: Path) -> None:  # F2
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDER, str(path), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"held\n"
    async with asyncio.timeout(within(20)):
        (stored,) = await backend.push([new()])
    assert await backend.get([stored.task_id]) == [stored]
    await process.wait()


async def test_another_program_holds_it_for_too_long(  # F2
    monkeypatch: pytest.MonkeyPatch, url: str, path: Path
) -> None:
    monkeypatch.setattr(sqlite_file, "BUSY_TIMEOUT", 0.2)
    backend = SqlBackend(url)
    await backend.open()
    task = new()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseUnavailable, match="locked"):
            await backend.push([task])
    assert await backend.get([task.task_id]) == [None]
    assert await backend.push([task]) == [task]
    await backend.close()


async def test_another_program_holds_it_for_too_long_while_the_file_is_opened(
    monkeypatch: pytest.MonkeyPatch, url: str, path: Path
) -> None:
    monkeypatch.setattr(sqlite_file, "BUSY_TIMEOUT", 0.2)
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE other (n INTEGER)")
        other.execute("BEGIN IMMEDIATE")
        backend = SqlBackend(url)
        async with asyncio.timeout(within(10)):
            with pytest.raises(DatabaseUnavailable, match="locked"):
                await backend.open()
        other.rollback()
        await backend.open()
    await backend.close()


WORKER = """
import asyncio, random, sys, time
from aiotaskq.backends import connect
from aiotaskq.backends.base import Change
from aiotaskq.core.outcome import Completed, settle
from aiotaskq.core.task import new_task

async def main(url, seconds):
    backend = connect(url)
    await backend.open()
    now = lambda: time.time_ns() // 1000
    end = time.monotonic() + seconds
    counts = {"pushed": 0, "completed": 0}
    owner = f"w{random.random()}"

    async def producer():
        while time.monotonic() < end:
            tasks = [new_task("t", {"n": n}, now=now()) for n in range(5)]
            counts["pushed"] += len(await backend.push(tasks))

    async def consumer():
        while time.monotonic() < end:
            claimed = await backend.claim(owner, now(), 7, lease_until=now() + 60_000_000)
            await backend.report([(task.task_id, task.fence, {"n": 1}) for task in claimed])
            held = await backend.update([Change(task, settle(task, Completed(1), now())) for task in claimed])
            assert all(held)
            counts["completed"] += len(held)
            await backend.stats(now())

    await asyncio.gather(producer(), consumer(), consumer())
    await backend.close()
    print(counts["pushed"], counts["completed"])

asyncio.run(main(sys.argv[1], float(sys.argv[2])))
"""


async def test_many_processes_on_one_file(url: str, path: Path) -> None:  # F1, F18
    processes = [
        nursery.Popen([sys.executable, "-c", WORKER, url, "4"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENV)
        for _ in range(8)  # all start on a file that is not there
    ]
    answers = [await asyncio.to_thread(process.communicate) for process in processes]
    assert [err.decode() for _, err in answers] == [""] * 8
    pushed, completed = (sum(column) for column in zip(*(map(int, out.split()) for out, _ in answers), strict=True))
    assert pushed > 100 and completed > 100
    backend = SqlBackend(url)
    counts = (await backend.stats(NOW)).counts
    assert (counts["completed"], sum(counts.values()), counts["running"]) == (completed, pushed, 0)
    await backend.close()
