"""Migrations: an empty database, the documented tables adopted with every odd row, and many processes at once."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from loguru import logger
from sqlalchemy.ext.asyncio import create_async_engine

from aiotaskq.backends.base import OddRow
from aiotaskq.backends.sql import migrations
from aiotaskq.errors import SchemaTooNew, ValidationError
from aiotaskq.models import Base
from tests.support.machine import within

NOW_S = 1_750_000_000
NOW = NOW_S * 1_000_000 + 250_000
ROOT = Path(__file__).resolve().parent.parent.parent.parent

# As the guide had it, word for word.
LEGACY = """
CREATE TABLE scheduler_task (
    task_id VARCHAR(36) PRIMARY KEY,
    name VARCHAR(255) NOT NULL,
    task_type VARCHAR(100) NOT NULL,
    params TEXT,
    schedule_type VARCHAR(20) NOT NULL,
    interval_seconds INT,
    cron_expression VARCHAR(100),
    execute_at BIGINT,
    last_run_at BIGINT,
    next_run_at BIGINT,
    run_count INT DEFAULT 0,
    max_runs INT DEFAULT 0,
    enabled BOOLEAN DEFAULT TRUE,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    description TEXT
);
CREATE TABLE task_queue (
    task_id VARCHAR(36) PRIMARY KEY,
    task_type VARCHAR(100) NOT NULL,
    params TEXT,
    status VARCHAR(20) DEFAULT 'pending',
    priority INT DEFAULT 0,
    retry_count INT DEFAULT 0,
    max_retries INT DEFAULT 3,
    created_at BIGINT NOT NULL,
    started_at BIGINT,
    completed_at BIGINT,
    error_message TEXT,
    scheduler_task_id VARCHAR(36)
);
"""


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


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db"


@pytest.fixture
def engine(path: Path) -> Iterator[sa.Engine]:
    made = sqlite_engine(path)
    yield made
    made.dispose()


@pytest.fixture
def logged() -> Iterator[list[str]]:
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(str(message)), format="{level} {message}", level="DEBUG")
    yield lines
    logger.remove(sink)


def upgrade(engine: sa.Engine, now: int = NOW) -> list[OddRow]:
    with engine.begin() as connection:
        return migrations.upgrade(connection, now)


def check(engine: sa.Engine, **options: Any) -> list[OddRow]:
    with engine.begin() as connection:
        return migrations.odd_rows(connection, now=NOW, **options)


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


def found(odd: list[OddRow], task_id: str) -> dict[str, tuple[str, str]]:
    return {each.column: (each.problem, each.action) for each in odd if each.id == task_id}


NULLABLE = {table: ("modify_nullable", None, table, "task_id") for table in ("task_queue", "scheduler_task")}


def assert_schema(engine: sa.Engine) -> None:
    """The database has what the models have: nothing more, nothing less, nothing else.

    Except that in the guide's own tables a ``VARCHAR(36) PRIMARY KEY`` may be NULL (SQLite cannot alter that), and TRUE
    is written where ours write 1.
    """
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    def ours(name: str | None, kind: str, parents: object) -> bool:
        return kind != "table" or name in migrations.OUR_TABLES

    with engine.begin() as connection:
        schema = connection.execute(sa.text("SELECT sql FROM sqlite_master WHERE name = 'task_queue'")).scalar()
        guide = "task_id VARCHAR(36) PRIMARY KEY" in str(schema)
        options = {
            "version_table": migrations.VERSION_TABLE,
            "compare_type": True,
            "compare_server_default": not guide,
            "include_name": ours,
        }
        context = MigrationContext.configure(connection, opts=options)
        differences = compare_metadata(context, Base.metadata)
        assert [each for each in differences if not (guide and each[0][:4] == NULLABLE[each[0][2]])] == []
        assert migrations.current(connection) == migrations.HEAD


# ---- the schema -----------------------------------------------------------------------------------------------------


def test_empty_database(engine: sa.Engine) -> None:
    assert upgrade(engine) == []
    assert_schema(engine)


def test_second_upgrade_is_one_look(engine: sa.Engine) -> None:
    upgrade(engine)
    statements: list[str] = []
    sa.event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    assert upgrade(engine) == []
    assert [each for each in statements if "PRAGMA" not in each and "BEGIN" not in each] == [
        "SELECT version_num FROM aiotaskq_version"
    ]


def test_up_to_date_needs_no_alembic(path: Path, engine: sa.Engine) -> None:
    upgrade(engine)
    run(path, "import sys; upgrade(); print('alembic' in sys.modules)", expect="False")


def test_create_all_first(engine: sa.Engine) -> None:
    ours = [Base.metadata.tables[name] for name in migrations.OUR_TABLES]
    Base.metadata.create_all(engine, tables=ours)
    with engine.begin() as connection:
        columns = "task_id, task_type, params, created_at, run_at, seq"
        connection.execute(sa.text(f"INSERT INTO task_queue ({columns}) VALUES ('a', 't', '{{}}', 5, 7, 9)"))
    assert upgrade(engine) == []
    assert_schema(engine)
    with engine.begin() as connection:
        # A row that aiotaskq itself wrote keeps its times.
        assert connection.execute(sa.text("SELECT run_at, seq FROM task_queue")).one() == (7, 9)


def test_half_made_tables_are_completed(path: Path, engine: sa.Engine) -> None:
    # What a kill leaves on MySQL, where each step commits by itself; or an older guide without `description`.
    legacy(path)
    with raw(path) as connection:
        connection.execute("ALTER TABLE scheduler_task DROP COLUMN description")
        connection.execute("ALTER TABLE task_queue ADD COLUMN queue VARCHAR(100) NOT NULL DEFAULT 'default'")
        connection.execute("CREATE INDEX ix_task_queue_due ON task_queue (status)")
        connection.execute("CREATE TABLE aiotaskq_queue (name VARCHAR(100) NOT NULL PRIMARY KEY, "
                           "paused BOOLEAN NOT NULL DEFAULT 0)")  # fmt: skip
        connection.execute("DROP INDEX ix_task_queue_due")
    assert upgrade(engine) == []
    assert_schema(engine)


def test_from_the_first_revision(path: Path, engine: sa.Engine) -> None:
    legacy(path)
    with raw(path) as connection:
        connection.execute("CREATE TABLE aiotaskq_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
        connection.execute("INSERT INTO aiotaskq_version VALUES ('0001_documented')")
    upgrade(engine)
    assert_schema(engine)


def test_revisions_are_those_in_the_folder() -> None:
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory(str(Path(migrations.__file__).parent))
    assert tuple(each.revision for each in scripts.walk_revisions())[::-1] == migrations.REVISIONS
    assert scripts.get_heads() == [migrations.HEAD]


def test_template_makes_a_revision(tmp_path: Path) -> None:
    import shutil

    from alembic.script import ScriptDirectory

    folder = shutil.copytree(
        Path(migrations.__file__).parent, tmp_path / "m", ignore=shutil.ignore_patterns("__pycache__")
    )
    made = ScriptDirectory(str(folder)).generate_revision("0003_more", "adds more")
    assert made is not None and made.down_revision == migrations.HEAD
    assert "def upgrade(op: Operations, report: Report, now: int)" in Path(made.path).read_text()


def test_newer_revision_is_refused(path: Path, engine: sa.Engine) -> None:  # F19
    upgrade(engine)
    with raw(path) as connection:
        connection.execute("UPDATE aiotaskq_version SET version_num = '0099_future'")
    before = contents(path)
    with pytest.raises(SchemaTooNew, match=r"0099_future.*Upgrade aiotaskq"):
        upgrade(engine)
    assert contents(path) == before
    with engine.begin() as connection:
        assert migrations.current(connection) == "0099_future"


def test_old_writer_on_the_new_schema(path: Path, engine: sa.Engine) -> None:  # F19, the reverse
    upgrade(engine)
    put(path, "task_queue", "t")
    put(path, "scheduler_task", "s")
    task, schedule = row(path, "task_queue", "t"), row(path, "scheduler_task", "s")
    assert (task["status"], task["queue"], task["run_at"], task["fence"]) == ("pending", "default", 0, 0)
    assert (schedule["enabled"], schedule["misfire"], schedule["next_run_us"]) == (1, "fire_once", 0)
    assert check(engine) == []


def test_somebody_elses_table_is_refused(path: Path, engine: sa.Engine) -> None:
    with raw(path) as connection:
        connection.execute("CREATE TABLE task_queue (id INTEGER PRIMARY KEY, payload TEXT)")
    before = contents(path)
    with pytest.raises(ValidationError, match="task_queue has no column task_id, task_type, created_at"):
        upgrade(engine)
    assert contents(path) == before


def test_an_applications_own_alembic_is_left_alone(path: Path, engine: sa.Engine) -> None:
    with raw(path) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        connection.execute("INSERT INTO alembic_version VALUES ('app')")
        connection.execute("CREATE TABLE users (id INTEGER PRIMARY KEY)")
    upgrade(engine)
    with raw(path) as connection:
        assert connection.execute("SELECT * FROM alembic_version").fetchall() == [("app",)]
    assert_schema(engine)


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql", "mysql", "mariadb"])
def test_sql_ddl(dialect: str) -> None:
    sql = migrations.sql_ddl(dialect)
    assert sql.count("CREATE TABLE") == 5 and sql.count("INDEX") == 11
    assert f"VALUES ('{migrations.HEAD}')" in sql


def test_sql_ddl_is_the_schema(path: Path, engine: sa.Engine) -> None:
    with raw(path) as connection:
        connection.executescript(migrations.sql_ddl("sqlite"))
    assert_schema(engine)
    assert upgrade(engine) == []


def test_sql_ddl_refuses_others() -> None:
    with pytest.raises(ValidationError, match="sqlite, postgresql, mysql or mariadb"):
        migrations.sql_ddl("oracle")


# ---- adoption -------------------------------------------------------------------------------------------------------


def test_ordinary_rows_are_not_odd(path: Path, engine: sa.Engine) -> None:
    legacy(path)
    put(path, "task_queue", "old", created_at=NOW_S - 200)
    put(path, "task_queue", "new", created_at=NOW_S - 100, status="completed", started_at=NOW_S, completed_at=NOW_S)
    put(path, "scheduler_task", "s", name="same")
    put(
        path, "scheduler_task", "s2", name="same", schedule_type="cron", cron_expression="0 2 * * *"
    )  # names may repeat
    put(path, "scheduler_task", "s3", schedule_type="once", execute_at=NOW_S + 5, next_run_at=NOW_S + 5)
    before = row(path, "scheduler_task", "s")
    assert upgrade(engine) == []
    assert_schema(engine)
    task = row(path, "task_queue", "old")
    assert task["run_at"] == task["seq"] == (NOW_S - 200) * 1_000_000
    assert before.items() <= row(path, "scheduler_task", "s").items()
    assert row(path, "scheduler_task", "s2")["timezone"] is None


# id: the columns, what is said about which column, and what they are afterwards
ODD_TASKS: dict[str, tuple[dict[str, Any], dict[str, str], dict[str, Any]]] = {
    "null-params": ({"params": None}, {"params": "is NULL; kept as it is, which means {}"}, {"params": None}),
    "bad-json": ({"params": "{'to': 1}"}, {"params": "is not JSON"}, {"params": "{'to': 1}"}),
    "nan": ({"params": '{"x": NaN}'}, {"params": "undecodable"}, {"params": '{"x": NaN}', "status": "pending"}),
    "list": ({"params": "[1]"}, {"params": "is JSON, but no object"}, {"params": "[1]"}),
    "empty": ({"params": ""}, {"params": "is not JSON"}, {"params": ""}),
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


def test_odd_tasks(path: Path, engine: sa.Engine) -> None:  # F21
    legacy(path)
    put_odd_tasks(path)
    odd = upgrade(engine)
    assert_schema(engine)
    for task_id, (_, said, after) in ODD_TASKS.items():
        told = {column: "; ".join(words) for column, words in found(odd, task_id).items()}
        if task_id == "error":
            said = {"error_message": "is no text (byte 2 of 5); kept as it is"}
        assert told.keys() == said.keys(), task_id
        for column, words in said.items():
            assert words in told[column]
        assert after.items() <= row(path, "task_queue", task_id).items(), task_id
    assert found(odd, "") == {"task_id": ("is NULL, not text", "kept as it is")}
    assert found(odd, r"\xfe\xff") == {"task_id": ("is no text (byte 0 of 2)", "kept as it is")}
    with raw(path) as connection:
        assert connection.execute("SELECT count(*) FROM task_queue").fetchone() == (len(ODD_TASKS) + 2,)
    assert all(each.table == "task_queue" for each in odd)


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


def test_odd_schedules(path: Path, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:  # F21
    monkeypatch.setenv("TZ", "UTC")
    legacy(path)
    put_odd_schedules(path)
    before = {task_id: row(path, "scheduler_task", task_id) for task_id in ODD_SCHEDULES}
    odd = upgrade(engine)
    assert_schema(engine)
    for task_id, (_, said, after) in ODD_SCHEDULES.items():
        told: dict[str, str] = {}
        for each in odd:
            if each.id == task_id:
                told[each.column] = f"{told.get(each.column, '')} {each.problem}; {each.action}"
        assert told.keys() == said.keys(), task_id
        for column, words in said.items():
            assert words in told[column]
        now = row(path, "scheduler_task", task_id)
        assert after.items() <= now.items(), task_id
        # Nothing but what is named above has changed.
        changed = {name for name, value in before[task_id].items() if now[name] != value}
        assert changed <= said.keys() | {"enabled"}, task_id


def test_bad_timezone_of_an_added_column(path: Path, engine: sa.Engine) -> None:
    upgrade(engine)
    put(path, "scheduler_task", "z", schedule_type="cron", cron_expression="0 2 * * *", timezone="Mars/Base")
    problem, action = found(check(engine), "z")["timezone"]
    assert "Mars/Base" in problem and "unchanged by this check; adoption does this" in action


def test_a_zone_that_is_unknown_just_now_disables_nothing(
    path: Path, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown() -> str:
        raise ValidationError("timezone: the system's local time zone has no IANA name")

    monkeypatch.setattr("aiotaskq.core.cron.local_timezone", unknown)
    legacy(path)
    put(path, "scheduler_task", "a", schedule_type="cron", cron_expression="0 2 * * *")
    put(path, "scheduler_task", "b", schedule_type="cron", cron_expression="0 2 * * *", next_run_at=None)
    odd = upgrade(engine)
    assert found(odd, "a") == {}
    assert "resume_task" in found(odd, "b")["next_run_at"][1]
    assert [row(path, "scheduler_task", each)["enabled"] for each in "ab"] == [1, 1]


def test_check_is_the_rehearsal_and_writes_nothing(path: Path, engine: sa.Engine) -> None:  # F21
    legacy(path)
    put_odd_tasks(path)
    put_odd_schedules(path)
    before = contents(path)
    rehearsed = check(engine)
    assert contents(path) == before
    adopted = upgrade(engine)

    def told(odd: list[OddRow]) -> set[tuple[str, ...]]:
        return {(each.table, each.id, each.column, each.problem) for each in odd if "is past" not in each.problem}

    assert told(rehearsed) == told(adopted)
    # What was repaired is not odd any more; what was kept is told again, and its schedule is disabled now.
    again = check(engine)
    assert told(again) < told(adopted)
    assert not [each for each in again if "adoption does" in each.action]


def test_check_without_tables(engine: sa.Engine) -> None:
    assert check(engine) == []


def test_report_and_log_are_bounded(path: Path, engine: sa.Engine, logged: list[str]) -> None:
    legacy(path)
    with raw(path) as connection:
        rows = [(f"t{i:05}", "x", '{"password": "hunter2"', 1) for i in range(2_500)]
        connection.executemany(
            "INSERT INTO task_queue (task_id, task_type, params, created_at) VALUES (?, ?, ?, ?)", rows
        )
    put(path, "scheduler_task", "evil\n2099-01-01 ERROR forged", schedule_type="\x1b[2J")
    assert len(check(engine, limit=10)) == 11
    odd = upgrade(engine)
    assert odd[0].table == "scheduler_task"
    assert len(odd) == 1_001 and odd[-1].problem == "1,501 more findings" and odd[-1].table == ""
    assert len(logged) == 22 and "2501 odd values, no row was dropped" in logged[-1]
    assert logged[0].startswith("ERROR schedule 'nightly' (id 'evil")  # it is disabled
    assert all(line.startswith("WARNING ") for line in logged[1:])
    assert all(line[:-1].isprintable() for line in logged)
    assert "hunter2" not in "".join(logged) and "hunter2" not in repr(odd)


def test_utf16_database(path: Path, engine: sa.Engine) -> None:
    with raw(path) as connection:
        connection.execute("PRAGMA encoding = 'UTF-16'")
    legacy(path)
    put(path, "task_queue", "中文", params='{"名": "值"}', status="奇怪")
    assert [(each.id, each.column, each.problem) for each in upgrade(engine)] == [
        ("中文", "status", "is unknown ('奇怪')")
    ]


def test_table_without_rowid(path: Path, engine: sa.Engine) -> None:
    with raw(path) as connection:
        connection.executescript(LEGACY.replace(");", ") WITHOUT ROWID;"))
        rows = [(f"t{i:05}", "x", "{}", 1, None) for i in range(1_500)]
        connection.executemany("INSERT INTO task_queue (task_id, task_type, params, created_at, priority) "
                               "VALUES (?, ?, ?, ?, ?)", rows)  # fmt: skip
    upgrade(engine)
    assert check(engine) == []


def test_overdue_schedules_do_not_flood(path: Path, engine: sa.Engine) -> None:  # F21
    legacy(path)
    for i in range(50):
        put(path, "scheduler_task", f"s{i}", interval_seconds=1, next_run_at=NOW_S - 86_400 * 30)
    upgrade(engine)
    with raw(path) as connection:
        assert connection.execute("SELECT count(*) FROM task_queue").fetchone() == (0,)
        assert connection.execute("SELECT DISTINCT misfire, enabled FROM scheduler_task").fetchall() == [
            ("fire_once", 1)
        ]

    from aiotaskq.core.schedule import Schedule, fire

    schedule = Schedule(
        task_id="s0", name="n", task_type="t", schedule_type="interval", interval_seconds=1, created_at=1, updated_at=1,
        next_run_at=row(path, "scheduler_task", "s0")["next_run_at"],
    )  # fmt: skip
    assert len(fire(schedule, NOW).tasks) == 1


def test_100_000_rows(path: Path, engine: sa.Engine) -> None:
    legacy(path)
    with raw(path) as connection:
        rows = [
            (
                f"t{i:06}",
                "mail",
                json.dumps({"to": i}),
                "pending",
                (NOW_S - i) * (1000 if i % 2 else 1),
                None if i % 10 else 0,
            )
            for i in range(100_000)
        ]
        connection.executemany(
            "INSERT INTO task_queue (task_id, task_type, params, status, created_at, priority) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            rows,
        )
    start = time.perf_counter()
    odd = upgrade(engine)
    assert time.perf_counter() - start < within(10)
    assert len(odd) == 1_001
    with raw(path) as connection:
        wrong = "run_at != created_at * 1000000 OR created_at > 100000000000 OR priority IS NULL OR seq != run_at"
        assert connection.execute(f"SELECT count(*) FROM task_queue WHERE {wrong}").fetchone() == (0,)


# ---- crashes and company --------------------------------------------------------------------------------------------

CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
import sqlalchemy as sa
from aiotaskq.backends.sql import migrations
from tests.backends.sql.test_migrations import sqlite_engine, NOW
engine = sqlite_engine(Path({path!r}))
def upgrade():
    with engine.begin() as connection:
        return migrations.upgrade(connection, NOW)
{code}
"""


def child(path: Path, code: str) -> subprocess.Popen[str]:
    script = CHILD.format(root=str(ROOT), path=str(path), code=code)
    # -S would be quicker, but the packages are in the site folder.
    return subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONWARNINGS": "error"},
    )


def run(path: Path, code: str, expect: str) -> None:
    out, err = child(path, code).communicate(timeout=within(50))
    assert out.strip() == expect, err


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


@pytest.mark.parametrize("adopting", [False, True])
def test_sixteen_processes_make_one_schema(path: Path, engine: sa.Engine, adopting: bool) -> None:  # F18
    if adopting:
        legacy(path)
        put_odd_tasks(path)
    children = [
        child(path, "print('ready', flush=True); sys.stdin.readline(); print('odd' if upgrade() else 'none')")
        for _ in range(16)
    ]
    for each in children:
        assert each.stdout is not None and each.stdout.readline() == "ready\n", each.communicate()
    for each in children:
        assert each.stdin is not None
        each.stdin.write("\n")
        each.stdin.flush()
    answers = []
    for each in children:
        out, err = each.communicate(timeout=within(50))
        assert each.returncode == 0, err
        answers.append(out.strip())
    # One has adopted and tells; the others found it done.
    assert sorted(answers) == ["none"] * (15 if adopting else 16) + ["odd"] * adopting
    assert_schema(engine)
    with raw(path) as connection:
        assert connection.execute("SELECT count(*) FROM aiotaskq_version").fetchone() == (1,)


async def test_databases_opened_by_one_loop_do_not_meet(tmp_path: Path) -> None:
    import asyncio

    async def one(number: int) -> list[OddRow]:
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
