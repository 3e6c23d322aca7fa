"""Migrations that fail or are killed at any statement, and many processes that migrate at once."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from aiotaskq.backends.base import InvalidRow
from aiotaskq.backends.sql import migrations
from tests.backends.sql.migrations.legacy import (
    assert_schema,
    child,
    contents,
    legacy,
    put,
    put_odd_schedules,
    put_odd_tasks,
    raw,
    sqlite_engine,
    upgrade,
)
from tests.support.machine import within


def test_failure_at_any_statement_leaves_the_original(path: Path, engine: sa.Engine, tmp_path: Path) -> None:  # F21
    legacy(path)
    put_odd_tasks(path)
    put_odd_schedules(path)
    original, data = contents(path), path.read_bytes()
    statements = 0
    fail_at = 0

    class Stop(Exception):
        pass

    @sa.event.listens_for(engine, "after_cursor_execute")
    def count(*args: Any) -> None:
        nonlocal statements
        statements += 1
        if statements == fail_at:
            raise Stop

    upgrade(engine)
    total, expected = statements, contents(path)
    assert total > 60
    for fail_at in [*range(2, total, 9), total]:
        engine.dispose()
        path.write_bytes(data)
        statements = 0
        with pytest.raises(Stop):
            upgrade(engine)
        assert contents(path) == original, fail_at
    fail_at = 0
    upgrade(engine)
    assert contents(path) == expected


def test_kill_in_the_middle(path: Path, engine: sa.Engine) -> None:  # F21
    legacy(path)
    put_odd_tasks(path)
    with raw(path) as connection:
        # Enough to overflow the page cache, so that the file itself is half written when the process dies.
        rows = [
            (f"r{i:06}", "x", json.dumps({"a": "b" * 300}), "running", 1_700_000_000_000 + i) for i in range(20_000)
        ]
        connection.executemany(
            "INSERT INTO task_queue (task_id, task_type, params, status, created_at) VALUES (?, ?, ?, ?, ?)", rows
        )
    original = contents(path)
    process = child(
        path,
        "import os, signal\n"
        "@sa.event.listens_for(engine, 'before_cursor_execute')\n"
        "def kill(connection, cursor, statement, *args):\n"
        "    if 'uq_task_queue_live_key' in statement:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "upgrade()\n",
    )
    process.communicate(timeout=within(50))
    assert process.returncode == -signal.SIGKILL
    assert contents(path) == original
    odd = upgrade(engine)
    assert_schema(engine)
    assert len(odd) == 1_001
    with raw(path) as connection:
        assert connection.execute("SELECT count(*) FROM task_queue WHERE lease_owner = 'adopted'").fetchone() == (
            20_001,
        )


SIXTEEN = """
import os
wait, go = os.pipe()
children = []
for _ in range(16):  # forked, since each would take a second to start
    children.append(os.fork())
    if not children[-1]:
        os.close(go)
        os.read(wait, 1)  # until the other end is closed
        os.write(1, b"odd\\n" if upgrade() else b"none\\n")  # in one piece
        os._exit(0)
os.close(go)
sys.exit(any([os.waitpid(each, 0)[1] for each in children]))
"""


@pytest.mark.parametrize("adopting", [False, True])
def test_sixteen_processes_make_one_schema(path: Path, engine: sa.Engine, adopting: bool) -> None:  # F18
    if adopting:
        legacy(path)
        put_odd_tasks(path)
    process = child(path, SIXTEEN)
    out, err = process.communicate(timeout=within(50))
    assert process.returncode == 0, err
    answers = out.split()
    # One has adopted and tells; the others found it done.
    assert sorted(answers) == ["none"] * (15 if adopting else 16) + ["odd"] * adopting
    assert_schema(engine)
    with raw(path) as connection:
        assert connection.execute("SELECT count(*) FROM aiotaskq_version").fetchone() == (1,)


async def test_databases_opened_by_one_loop_do_not_meet(tmp_path: Path) -> None:
    import asyncio

    async def one(number: int) -> list[InvalidRow]:
        target = tmp_path / f"{number}.db"
        legacy(target)
        put(target, "task_queue", f"t{number}", status="odd")
        engine = create_async_engine(f"sqlite+aiosqlite:///{target}")
        try:
            async with engine.begin() as connection:
                return await connection.run_sync(migrations.upgrade)
        finally:
            await engine.dispose()

    async with asyncio.timeout(within(50)):
        answers = await asyncio.gather(*(one(number) for number in range(4)))
    assert [[each.id for each in odd] for odd in answers] == [[f"t{number}"] for number in range(4)]


def test_databases_opened_by_several_threads_do_not_meet(tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def one(number: int) -> None:
        engine = sqlite_engine(tmp_path / f"{number}.db")
        try:
            upgrade(engine)
            assert_schema(engine)
        except BaseException as error:
            failures.append(error)
        finally:
            engine.dispose()

    threads = [threading.Thread(target=one, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
