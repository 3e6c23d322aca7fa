"""Fills an SQL store with very many rows, and asks the database for the plan of a claim among them."""

from __future__ import annotations

import re
import time
from typing import Any

from sqlalchemy import Connection, Engine, event, func, insert, literal_column, select, text

from aiotaskq.backends.sql.claim import Claim, claim
from aiotaskq.backends.sql.engines import sync_engine
from aiotaskq.backends.sql.rows import NEW, TASKS, new_row
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task, new_task
from tests.support.sql import tx_on

BASE = 1_000
c = TASKS.c


def fill(url: str, finished: int, future: int) -> None:
    """Insert so many completed tasks, and so many that are due tomorrow, and let the database count its rows."""
    engine = sync_engine(url)
    now = time.time_ns() // 1000
    done = {"status": Status.COMPLETED, "completed_at": now // SECOND, "result": {"fence": 1}, "fence": 1}
    tomorrow = {"run_at": now + 86_400 * SECOND}
    with engine.begin() as connection:
        _many(connection, "f", finished, now, done)
        _many(connection, "p", future, now, tomorrow)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        statement = "ANALYZE TABLE task_queue" if engine.dialect.name in ("mysql", "mariadb") else "ANALYZE"
        connection.execute(text(statement)).close()
    engine.dispose()


def _many(connection: Connection, prefix: str, count: int, now: int, fields: dict[str, Any]) -> None:
    """Insert a thousand, and double them until they are enough: each round appends a letter of its own to the ids."""
    base = [new_task("nothing", {"n": n}, task_id=f"{prefix}{n:04d}", now=now + n) for n in range(min(BASE, count))]
    connection.execute(insert(TASKS), [dict(zip(NEW, new_row(_with(task, fields)), strict=True)) for task in base])
    there, letters = len(base), iter("abcdefghijklmnopqrst")
    others = [column for column in TASKS.columns if column.name not in ("task_id", "run_at", "seq")]
    while there < count:
        more = min(there, count - there)
        new_ids = (c.task_id + literal_column(f"'{next(letters)}'"), c.run_at + there, c.seq + there)
        rows = select(*new_ids, *others).where(c.task_id.startswith(prefix)).limit(more)
        names = ["task_id", "run_at", "seq", *(column.name for column in others)]
        connection.execute(insert(TASKS).from_select(names, rows))
        there += more
    found = connection.execute(select(func.count()).select_from(TASKS).where(c.task_id.startswith(prefix))).scalar()
    assert found == count, f"{found} rows instead of {count}"


def _with(task: Task, fields: dict[str, Any]) -> Task:
    return task.replace(**fields)


def claim_problems(url: str) -> list[str]:
    """Say which statements of a claim read more than an index gives them. Nothing is claimed in the end."""
    engine = sync_engine(url)
    now = time.time_ns() // 1000
    try:
        with engine.connect() as connection:
            connection.execute(
                insert(TASKS),
                [dict(zip(NEW, new_row(new_task("nothing", now=now - SECOND, task_id="due")), strict=True))],
            )
            asked = _statements(engine, connection, now)
            assert asked, "the claim has asked nothing: are the statements still seen?"
            problems = [problem for each in asked for problem in _problems(connection, *each)]
            connection.rollback()
    finally:
        engine.dispose()
    return problems


def _statements(engine: Engine, connection: Connection, now: int) -> list[tuple[str, Any]]:
    asked: list[tuple[str, Any]] = []

    def listen(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_more: Any) -> None:
        if "task_queue" in statement and not statement.lstrip().upper().startswith("INSERT"):
            asked.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", listen)
    (task,) = claim(tx_on(connection), Claim("planner", now, 1, None, now + SECOND))
    event.remove(engine, "before_cursor_execute", listen)
    assert task.task_id == "due"
    return asked


def _problems(connection: Connection, statement: str, parameters: Any) -> list[str]:
    explain = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
    plan = connection.exec_driver_sql(f"{explain} {statement}", parameters).mappings().all()
    bad = {"sqlite": _bad_sqlite, "postgresql": _bad_postgresql}.get(connection.dialect.name, _bad_mysql)
    names = {"task_queue", *re.findall(r"task_queue AS `?\"?(\w+)", statement)}
    return [f"{why}: {' '.join(statement.split())[:150]}" for row in plan if (why := bad(dict(row), names))]


def _bad_sqlite(row: dict[str, Any], names: set[str]) -> str:
    detail = str(row["detail"])
    scans = detail.startswith("SCAN") and detail.split()[1] in names and "USING" not in detail
    return detail if scans or "TEMP B-TREE FOR ORDER BY" in detail else ""


def _bad_postgresql(row: dict[str, Any], _names: set[str]) -> str:
    line = str(row["QUERY PLAN"])
    return line.strip() if "Seq Scan on task_queue" in line or line.strip().startswith("->  Sort ") else ""


def _bad_mysql(row: dict[str, Any], names: set[str]) -> str:
    if row["table"] not in names:
        return ""
    bad = row["type"] == "ALL" or row["key"] is None or "filesort" in str(row["Extra"])
    return f"type {row['type']}, key {row['key']}, rows {row['rows']}, {row['Extra']}" if bad else ""
