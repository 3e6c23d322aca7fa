"""The cases of SQL stores alone: what they count is what was written."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from benchmarks import beside_parked
from benchmarks.case import Run
from benchmarks.cases import sql
from benchmarks.cases.sqlite import AiotaskqInSQLite
from benchmarks.queues import opened
from benchmarks.sql import multiply
from tests.support.machine import within


async def test_a_heartbeat_writes_rows_and_takes_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "BEAT", 0.1)
    async with asyncio.timeout(within(30)):
        sample = await sql.heartbeat(AiotaskqInSQLite, Run(1, str(tmp_path / "tasks.db"), 0.001))
    assert sample.values["rows"] >= 1 and sample.values["writes"] > 0


def test_statements_that_write_are_told_from_those_that_lock() -> None:
    assert all(sql.WRITES.search(text) for text in ("update t SET a = 1", "WITH x AS (INSERT INTO t VALUES (1))"))
    assert sql.WRITES.search("UPDATE t FORCE INDEX (PRIMARY) SET a = 1") and sql.WRITES.search("DELETE FROM t")
    assert not sql.WRITES.search("SELECT a FROM t FOR UPDATE SKIP LOCKED")


async def test_ended_tasks_are_multiplied_and_new_ones_run_beside_them(tmp_path: Path) -> None:
    place = str(tmp_path / "tasks.db")
    async with opened(AiotaskqInSQLite, place) as system:
        for total in (300, 400):
            system.tally.expect(100)
            await system.fill(100)
            async with system.working(10):
                await system.drained()
            if total == 300:
                multiply(system, 300)
        assert (await system.tq.stats()).counts["completed"] == 400
    connection = sqlite3.connect(place)
    try:
        ids, oldest = connection.execute("SELECT count(DISTINCT task_id), min(task_id) FROM task_queue").fetchone()
    finally:
        connection.close()
    assert ids == 400 and oldest == "01900000-0000-7000-8000-000000000001"


async def test_tasks_run_in_one_store_and_in_one_with_parked_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beside_parked, "SOME", 1)
    monkeypatch.setattr(beside_parked, "EACH", 5)
    place = str(tmp_path / "tasks.db")
    sample = await beside_parked.beside_parked(AiotaskqInSQLite, Run(1, place, 0.001))
    assert len(sample.values) == 9 and min(sample.values.values()) > 0
    counts = []
    for path in (place, f"{place}_beside"):
        connection = sqlite3.connect(path)
        try:
            counts.append(connection.execute("SELECT status, count(*) FROM task_queue GROUP BY status").fetchall())
        finally:
            connection.close()
    assert counts == [[("completed", 15)], [("completed", 15), ("pending", 1_000)]]
