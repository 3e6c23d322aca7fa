"""Databases with the documented tables, and what a migration reports about them."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from aiotaskq.backends.base import InvalidRow
from aiotaskq.backends.sql import migrations
from aiotaskq.backends.sql.dialects import dialect_named
from aiotaskq.models import OUR_TABLES, Base, indexes_of
from tests.support import nursery
from tests.support.documented import LEGACY
from tests.support.programs import ROOT

NOW_S = 1_750_000_000


NOW = NOW_S * 1_000_000 + 250_000


def sqlite_engine(path: Path) -> sa.Engine:
    """An engine whose transactions begin IMMEDIATE, as those of ``aiotaskq.database`` do."""
    engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": 60})

    @sa.event.listens_for(engine, "connect")
    def on_connect(connection: Any, record: object) -> None:
        connection.isolation_level = None

    @sa.event.listens_for(engine, "begin")
    def on_begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def upgrade(engine: sa.Engine, now: int = NOW) -> list[InvalidRow]:
    with engine.begin() as connection:
        return migrations.upgrade(connection, now)


def check(engine: sa.Engine, **options: Any) -> list[InvalidRow]:
    with engine.begin() as connection:
        return migrations.invalid_rows(connection, now=NOW, **options)


@contextlib.contextmanager
def raw(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        yield connection
        connection.commit()


def legacy(path: Path) -> None:
    with raw(path) as connection:
        connection.executescript(LEGACY)


def put(path: Path, table: str, task_id: Any, **columns: Any) -> None:
    base: dict[str, Any] = {"task_id": task_id, "task_type": "mail", "params": '{"to": 1}', "created_at": NOW_S - 100}
    if table == "scheduler_task":
        base |= {"name": "nightly", "schedule_type": "interval", "interval_seconds": 60, "next_run_at": NOW_S + 10}
        base |= {"updated_at": NOW_S - 100}
    base |= columns
    with raw(path) as connection:
        names, marks = ", ".join(base), ", ".join("?" * len(base))
        connection.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", tuple(base.values()))


def row(path: Path, table: str, task_id: str) -> dict[str, Any]:
    with raw(path) as connection:
        connection.text_factory = lambda data: data.decode(errors="surrogateescape")
        connection.row_factory = sqlite3.Row
        return dict(connection.execute(f"SELECT * FROM {table} WHERE task_id = ?", (task_id,)).fetchone())


def contents(path: Path) -> dict[str, list[Any]]:
    """Everything in the database, as bytes."""
    with raw(path) as connection:
        connection.text_factory = bytes
        tables = connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
        found: dict[str, list[Any]] = {"schema": tables}
        for name, sql in tables:
            if sql and sql.startswith(b"CREATE TABLE"):
                found[name.decode()] = connection.execute(f"SELECT rowid, * FROM {name.decode()} ORDER BY 1").fetchall()
        return found


def found(odd: list[InvalidRow], task_id: str) -> dict[str, tuple[str, str]]:
    return {each.column: (each.problem, each.action) for each in odd if each.id == task_id}


NULLABLE = {table: ("modify_nullable", None, table, "task_id") for table in ("task_queue", "scheduler_task")}


def made_on(engine: sa.Engine) -> Callable[[Any, str | None, str, bool, Any], bool]:
    """Return Alembic's filter of what the models have on a database."""
    partial = dialect_named(engine.dialect.name).partial_indexes

    def included(element: Any, _name: str | None, kind: str, reflected: bool, _other: object) -> bool:
        return kind != "index" or reflected or element in indexes_of(element.table, partial)

    return included


def assert_schema(engine: sa.Engine) -> None:
    """The database has what the models have: nothing more, nothing less, nothing else.

    Except that in the guide's own tables a ``VARCHAR(36) PRIMARY KEY`` may be NULL (SQLite cannot alter that), and TRUE
    is written where ours write 1.
    """
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    def ours(name: str | None, kind: str, parents: object) -> bool:
        return kind != "table" or name in OUR_TABLES

    with engine.begin() as connection:
        schema = connection.execute(sa.text("SELECT sql FROM sqlite_master WHERE name = 'task_queue'")).scalar()
        guide = "task_id VARCHAR(36) PRIMARY KEY" in str(schema)
        options = {
            "version_table": migrations.VERSION_TABLE,
            "compare_type": True,
            "compare_server_default": not guide,
            "include_name": ours,
            "include_object": made_on(engine),
        }
        context = MigrationContext.configure(connection, opts=options)
        differences = compare_metadata(context, Base.metadata)
        assert [each for each in differences if not (guide and each[0][:4] == NULLABLE[each[0][2]])] == []
        assert migrations.current(connection) == migrations.HEAD


# id: the columns, what is said about which column, and what they are afterwards
ODD_TASKS: dict[str, tuple[dict[str, Any], dict[str, str], dict[str, Any]]] = {
    "null-params": ({"params": None}, {"params": "is NULL; kept as it is, which means {}"}, {"params": None}),
    "bad-json": ({"params": "{'to': 1}"}, {"params": "is not JSON"}, {"params": "{'to': 1}"}),
    "nan": ({"params": '{"x": NaN}'}, {"params": "undecodable"}, {"params": '{"x": NaN}', "status": "pending"}),
    "list": ({"params": "[1]"}, {"params": "is JSON, but no object"}, {"params": "[1]"}),
    "empty": ({"params": ""}, {"params": "is empty"}, {"params": ""}),
    "deep": ({"params": '{"a":' * 20_000 + "1" + "}" * 20_000}, {"params": "nested too deeply"}, {}),
    "latin": ({"params": b'{"a": "\xff"}'}, {"params": "is not JSON"}, {}),
    "status": ({"status": "weird\n"}, {"status": "never claimed"}, {"status": "weird\n"}),
    "no-word": ({"status": ""}, {"status": "is unknown"}, {"status": ""}),
    "no-status": ({"status": None}, {"status": "set to 'pending'"}, {"status": "pending"}),
    "nulls": (
        {"priority": None, "retry_count": None, "max_retries": None},
        {"priority": "set to 0", "retry_count": "set to 0", "max_retries": "set to 3"},
        {"priority": 0, "retry_count": 0, "max_retries": 3},
    ),
    "ms": (
        {"created_at": 1_700_000_000_999, "started_at": 1_700_000_001_000, "completed_at": 1_700_000_002_000},
        {
            "created_at": "is 1700000000999, which is milliseconds; set to 1700000000, divided by 1000",
            "started_at": "milliseconds",
            "completed_at": "milliseconds",
        },
        {
            "created_at": 1_700_000_000,
            "started_at": 1_700_000_001,
            "completed_at": 1_700_000_002,
            "run_at": 1_700_000_000_000_000,
            "seq": 1_700_000_000_000_000,
        },
    ),
    "us": ({"created_at": 1_700_000_000_123_456}, {"created_at": "microseconds"}, {"created_at": 1_700_000_000}),
    "ns": ({"created_at": 1_700_000_000_123_456_789}, {"created_at": "nanoseconds"}, {"created_at": 1_700_000_000}),
    "float": ({"created_at": 1_700_000_000.75}, {"created_at": "without the fraction"}, {"created_at": 1_700_000_000}),
    "negative": ({"created_at": -5}, {"created_at": "is negative (-5); kept"}, {"created_at": -5, "run_at": 0}),
    "least": ({"created_at": -(2**63)}, {"created_at": "is negative"}, {"created_at": -(2**63), "run_at": 0}),
    "future": (
        {"created_at": NOW_S + 10**9},
        {"created_at": "is in the future"},
        {"run_at": 0, "seq": (NOW_S + 10**9) * 1_000_000},
    ),
    "word": (
        {"created_at": "yesterday"},
        {"created_at": "'yesterday', not a time"},
        {"created_at": "yesterday", "run_at": 0},
    ),
    "infinite": ({"created_at": float("inf")}, {"created_at": "not a time"}, {"created_at": float("inf"), "run_at": 0}),
    "high": ({"priority": "high"}, {"priority": "'high', not a whole number"}, {"priority": "high"}),
    "type": ({"task_type": ""}, {"task_type": "not text"}, {}),
    "error": ({"error_message": "SELECT CAST(x'ff' AS TEXT)"}, {}, {}),  # made invalid below
    "running": (
        {"status": "running", "started_at": NOW_S - 9},
        {"lease_owner": "runs again"},
        {"status": "running", "lease_owner": "adopted", "lease_until": 1, "crashes": 0, "fence": 0},
    ),
}


def put_odd_tasks(path: Path) -> None:
    for task_id, (columns, _, _) in ODD_TASKS.items():
        put(path, "task_queue", task_id, **columns)
    put(path, "task_queue", None)  # SQLite lets a primary key of text be NULL
    put(path, "task_queue", b"\xfe\xff")
    with raw(path) as connection:
        for column, task_id in (("error_message", "error"), ("params", "latin")):
            connection.execute(
                f"UPDATE task_queue SET {column} = CAST(x'7b22ff227d' AS TEXT) WHERE task_id = ?", (task_id,)
            )


ODD_SCHEDULES: dict[str, tuple[dict[str, Any], dict[str, str], dict[str, Any]]] = {
    "null-params": ({"params": None}, {"params": "which means {}"}, {"params": None, "enabled": 1}),
    "bad-json": ({"params": "{oops"}, {"params": "is not JSON"}, {"params": "{oops", "enabled": 0}),
    "number": ({"params": b"\xff"}, {"params": "cannot fire"}, {"params": b"\xff", "enabled": 0}),
    "no-enabled": ({"enabled": None}, {"enabled": "resume_task(id) enables it"}, {"enabled": 0}),
    "enabled": ({"enabled": "yes"}, {"enabled": "is 'yes'; set to False"}, {"enabled": 0}),
    "ms": (
        {
            "schedule_type": "once",
            "interval_seconds": None,
            "execute_at": (NOW_S + 50) * 1000,
            "next_run_at": (NOW_S + 50) * 1000,
            "last_run_at": 1_700_000_000_000,
            "created_at": 1_700_000_000_000,
            "updated_at": 1_700_000_000_000,
        },
        dict.fromkeys(("execute_at", "next_run_at", "last_run_at", "created_at", "updated_at"), "divided by 1000"),
        {"execute_at": NOW_S + 50, "next_run_at": NOW_S + 50, "last_run_at": 1_700_000_000, "enabled": 1},
    ),
    "kind": ({"schedule_type": "weekly"}, {"schedule_type": "'weekly'"}, {"schedule_type": "weekly", "enabled": 0}),
    "no-interval": ({"interval_seconds": None}, {"interval_seconds": "is NULL"}, {"enabled": 0}),
    "interval-0": ({"interval_seconds": 0}, {"interval_seconds": "is 0"}, {"interval_seconds": 0, "enabled": 0}),
    "interval-w": ({"interval_seconds": "often"}, {"interval_seconds": "'often'"}, {"enabled": 0}),
    "interval-big": (
        {"interval_seconds": 2**62, "next_run_at": None},
        {"interval_seconds": "not a number"},
        {"enabled": 0},
    ),
    "off": (
        {"interval_seconds": 0, "enabled": 0},
        {"interval_seconds": "kept as it is; the schedule is disabled"},
        {"enabled": 0},
    ),
    "cron": (
        {"schedule_type": "cron", "cron_expression": "61 * * * *"},
        {"cron_expression": "minute 61 is not in 0-59"},
        {"cron_expression": "61 * * * *", "enabled": 0},
    ),
    "no-cron": ({"schedule_type": "cron"}, {"cron_expression": "refused"}, {"enabled": 0}),
    "past": (
        {"next_run_at": NOW_S - 86_400 * 365},
        {"next_run_at": "misfire policy"},
        {"next_run_at": NOW_S - 86_400 * 365, "enabled": 1, "misfire": "fire_once", "run_count": 0},
    ),
    "negative": ({"next_run_at": -1}, {"next_run_at": "is past (-1)"}, {"next_run_at": -1, "enabled": 1}),
    "soon": ({"next_run_at": "soon"}, {"next_run_at": "'soon', not a time"}, {"next_run_at": "soon", "enabled": 0}),
    "counts": (
        {"run_count": None, "max_runs": None},
        {"run_count": "set to 0", "max_runs": "set to 0"},
        {"run_count": 0, "max_runs": 0, "enabled": 1},
    ),
    "unplanned": (
        {"next_run_at": None},
        {"next_run_at": "its next run"},
        {"next_run_at": NOW_S + 60, "next_run_us": 250_000, "enabled": 1},
    ),
    "unplanned-cron": (
        {"schedule_type": "cron", "cron_expression": "0 0 1 1 *", "next_run_at": None},
        {"next_run_at": "its next run"},
        {"next_run_at": 1_767_225_600, "next_run_us": 0},  # 2026-01-01 in UTC, the zone of this test
    ),
    "unplanned-once": (
        {"schedule_type": "once", "execute_at": NOW_S + 7, "next_run_at": None},
        {"next_run_at": "its next run"},
        {"next_run_at": NOW_S + 7, "enabled": 1},
    ),
    "fired-once": (
        {"schedule_type": "once", "execute_at": NOW_S - 7, "next_run_at": None, "run_count": 1},
        {"next_run_at": "it is finished"},
        {"next_run_at": None, "enabled": 0},
    ),
    "all-runs": (
        {"next_run_at": None, "run_count": 5, "max_runs": 5},
        {"next_run_at": "it is finished"},
        {"next_run_at": None, "enabled": 0},
    ),
    "never": ({"schedule_type": "once", "next_run_at": None}, {"execute_at": "is NULL"}, {"enabled": 0}),
    "no-type": ({"task_type": ""}, {"task_type": "cannot fire"}, {"enabled": 0}),
}


def put_odd_schedules(path: Path) -> None:
    for task_id, (columns, _, _) in ODD_SCHEDULES.items():
        put(path, "scheduler_task", task_id, **columns)


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
import sqlalchemy as sa
from aiotaskq.backends.sql import migrations
from tests.backends.sql.migrations.legacy import sqlite_engine, NOW
engine = sqlite_engine(Path({path!r}))
def upgrade():
    with engine.begin() as connection:
        return migrations.upgrade(connection, NOW)
{code}
"""


def child(path: Path, code: str, popen: Callable[..., subprocess.Popen[str]] = nursery.Popen) -> subprocess.Popen[str]:
    script = CHILD.format(root=str(ROOT), path=str(path), code=code)
    # -S would be quicker, but the packages are in the site folder.
    return popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONWARNINGS": "error"},
    )
