"""Migrations on PostgreSQL and MySQL: an empty database, the documented tables adopted, and many processes at once."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from aiotaskq.backends.base import Change, InvalidRow
from aiotaskq.backends.sql import migrations
from aiotaskq.backends.sql.backend import SqlBackend
from aiotaskq.backends.sql.dialects import dialect_of
from aiotaskq.backends.sql.engines import sync_engine
from aiotaskq.core.status import Status
from aiotaskq.errors import SchemaTooNew, ValidationError
from aiotaskq.models import OUR_TABLES, Base
from tests.backends.sql.migrations.legacy import NOW, NOW_S, found, made_on
from tests.support import nursery
from tests.support.documented import LEGACY
from tests.support.machine import within
from tests.support.rows import LEASE, new
from tests.support.schema import made_both_ways
from tests.support.servers import Server, mariadb, postgresql, postgresql_jit

ROOT = Path(__file__).resolve().parent.parent.parent.parent
SERVERS: dict[str, Callable[..., Server]] = {
    "postgresql": postgresql,
    "postgresql_jit": postgresql_jit,
    "mysql": mariadb,
}
_made = 0


@pytest.fixture(params=SERVERS)
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty database."""
    global _made
    server = SERVERS[request.param](durable=False)
    _made += 1
    yield server.create(f"migrate_{_made}")
    server.drop(f"migrate_{_made}")


def only(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("url", names, indirect=True)


@pytest.fixture
def engine(url: str) -> Iterator[sa.Engine]:
    made = sync_engine(url)
    yield made
    made.dispose()


def upgrade(engine: sa.Engine) -> list[InvalidRow]:
    with engine.begin() as connection:
        return migrations.upgrade(connection, NOW)


def run(engine: sa.Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def rows(engine: sa.Engine, query: str) -> list[tuple[Any, ...]]:
    with engine.begin() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(query)]


def legacy(engine: sa.Engine, more: str = "") -> None:
    """The guide's tables; ``more`` are options of MySQL's CREATE TABLE."""
    run(engine, *(f"{statement}{more}" for statement in LEGACY.strip().removesuffix(";").split(";")))


def assert_schema(engine: sa.Engine) -> None:
    """The database has what the models have, but for two differences that mean nothing in the guide's own tables."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    def ours(name: str | None, kind: str, parents: object) -> bool:
        return kind != "table" or name in OUR_TABLES

    with engine.begin() as connection:
        options = {
            "version_table": migrations.VERSION_TABLE,
            "compare_type": same_type,
            "include_name": ours,
            "include_object": made_on(engine),
        }
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, Base.metadata) == []
        assert migrations.current(connection) == migrations.HEAD


def same_type(context: Any, there: Any, ours: Any, there_type: Any, our_type: Any) -> bool:
    """Whether a type differs: as both are written, since that is where a collation shows."""
    dialect = context.dialect
    said, wanted = (str(kind.compile(dialect=dialect)).upper() for kind in (there_type, our_type))
    same = {"BOOL": "TINYINT(1)", "FLOAT(53)": ("DOUBLE", "DOUBLE PRECISION"), "INTEGER": ("INTEGER(11)", "INTEGER")}
    if dialect.name == "mysql":
        same |= {"BIGINT": ("BIGINT(20)", "BIGINT")}
        wanted = wanted.replace("CHARACTER SET UTF8MB4 ", "")
        said = said.replace("CHARACTER SET UTF8MB4 ", "")
    return said != wanted and said not in same.get(wanted, ())


# ---- the schema -----------------------------------------------------------------------------------------------------


def test_empty_database(engine: sa.Engine) -> None:
    assert upgrade(engine) == []
    assert_schema(engine)
    with engine.connect() as connection:
        assert not migrations.is_adopted(connection)


def test_an_empty_database_gets_what_the_revisions_make(engine: sa.Engine) -> None:
    by_revisions, by_upgrade = made_both_ways(engine, NOW)
    assert by_upgrade == by_revisions


def test_second_upgrade_is_one_look(engine: sa.Engine) -> None:
    upgrade(engine)
    statements: list[str] = []
    sa.event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    assert upgrade(engine) == []
    assert len(statements) == 2 and statements[-1] == "SELECT version_num FROM aiotaskq_version"


def test_create_all_first(engine: sa.Engine) -> None:
    Base.metadata.create_all(engine, tables=[Base.metadata.tables[name] for name in OUR_TABLES])
    assert upgrade(engine) == []
    assert_schema(engine)


def test_sql_ddl_is_the_schema(engine: sa.Engine) -> None:
    dialect = "postgresql" if engine.dialect.name == "postgresql" else "mariadb"
    # As the client of MySQL reads it, in which a statement with semicolons has another delimiter.
    pieces = re.split(r";\n\n|DELIMITER //\n(.*?)//\nDELIMITER ;\n\n", migrations.sql_ddl(dialect), flags=re.DOTALL)
    run(engine, *(each.replace("%", "%%") for each in pieces if each and each.strip()))
    call = (
        "SELECT aiotaskq_push('mail')" if dialect == "postgresql" else f"CALL aiotaskq_push('mail'{', NULL' * 9}, @id)"
    )
    run(engine, call)
    assert_schema(engine)
    assert upgrade(engine) == []


def test_newer_revision_is_refused(engine: sa.Engine) -> None:  # F19
    upgrade(engine)
    run(engine, "UPDATE aiotaskq_version SET version_num = '0099_future'")
    with pytest.raises(SchemaTooNew, match="0099_future"):
        upgrade(engine)


@pytest.mark.parametrize("table", ["task_queue", "scheduler_task"])
def test_a_table_of_another_program_is_refused(engine: sa.Engine, table: str) -> None:
    run(engine, f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, payload TEXT)")
    with pytest.raises(ValidationError, match=f"{table} has no column task_id"):
        upgrade(engine)
    assert sa.inspect(engine).get_table_names() == [table]  # nothing was made beside it


# ---- adoption -------------------------------------------------------------------------------------------------------


CRONS = (
    "SELECT task_id, cron_expression, next_run_at, enabled FROM scheduler_task "
    "WHERE schedule_type = 'cron' ORDER BY task_id"
)
ADOPTED = [
    ("cron-lost", "0 0 15W * 1", NOW_S + 5, False),
    ("cron-six", "0 0 12 * * mon-fri", NOW_S + 5, True),
    ("cron-wrap", "0 0 * * 0,5-6", NOW_S + 5, True),
]


def put_odd_rows(engine: sa.Engine) -> None:
    insert = sa.text(
        "INSERT INTO task_queue (task_id, task_type, params, status, priority, retry_count, max_retries, created_at) "
        "VALUES (:task_id, 'mail', :params, :status, :priority, 0, 3, :created_at)"
    )
    base: dict[str, Any] = {"params": '{"to": 1}', "status": "pending", "priority": 0, "created_at": NOW_S - 100}
    odd: dict[str, dict[str, Any]] = {
        "fine": {},
        "no-params": {"params": None},
        "bad-params": {"params": "{'a': 1}"},
        "no-status": {"status": None},
        "status": {"status": "奇怪"},
        "no-priority": {"priority": None},
        "millis": {"created_at": (NOW_S - 50) * 1_000},
        "negative": {"created_at": -5},
        "running": {"status": "running"},
    }
    schedule = sa.text(
        "INSERT INTO scheduler_task (task_id, name, task_type, params, schedule_type, interval_seconds, "
        "cron_expression, enabled, next_run_at, created_at, updated_at) "
        "VALUES (:task_id, 'n', 't', :params, :kind, :seconds, :cron, :enabled, :next_run_at, 1, 1)"
    )
    base_schedule: dict[str, Any] = {"params": None, "kind": "interval", "seconds": 60, "cron": None, "enabled": True}
    base_schedule |= {"next_run_at": NOW_S + 5}
    odd_schedules: dict[str, dict[str, Any]] = {
        "good": {},
        "null": {"enabled": None},
        "zero": {"seconds": 0},
        "past": {"next_run_at": NOW_S - 86_400},
        "unplanned": {"next_run_at": None},
        "cron-six": {"kind": "cron", "cron": "0 12 * * mon-fri 0"},  # seconds last, as croniter has them
        "cron-wrap": {"kind": "cron", "cron": "0 0 * * fri-sun"},
        "cron-lost": {"kind": "cron", "cron": "0 0 15W * 1"},
    }
    with engine.begin() as connection:
        connection.execute(insert, [{**base, "task_id": name, **more} for name, more in odd.items()])
        connection.execute(
            schedule, [{**base_schedule, "task_id": name, **more} for name, more in odd_schedules.items()]
        )


async def test_the_documented_tables_are_adopted(url: str, engine: sa.Engine) -> None:  # F21
    legacy(engine)
    put_odd_rows(engine)
    odd = upgrade(engine)
    with engine.connect() as connection:
        assert migrations.is_adopted(connection)
    assert_schema(engine)
    assert {name: set(found(odd, name)) for name in ("no-params", "bad-params", "status", "negative", "millis")} == {
        "no-params": {"params"},
        "bad-params": {"params"},
        "status": {"status"},
        "negative": {"created_at"},
        "millis": {"created_at"},
    }
    assert rows(engine, "SELECT count(*) FROM task_queue") == [(9,)]
    assert rows(engine, "SELECT created_at, run_at FROM task_queue WHERE task_id = 'millis'") == [
        (NOW_S - 50, (NOW_S - 50) * 1_000_000)
    ]
    enabled = dict(rows(engine, "SELECT task_id, enabled FROM scheduler_task"))
    assert {name: bool(value) for name, value in enabled.items()} == {
        "good": True, "null": False, "zero": False, "past": True, "unplanned": True,
        "cron-six": True, "cron-wrap": True, "cron-lost": False,
    }  # fmt: skip
    assert rows(engine, CRONS) == ADOPTED
    assert rows(engine, "SELECT next_run_at, next_run_us FROM scheduler_task WHERE task_id = 'unplanned'") == [
        (NOW_S + 60, 250_000)
    ]
    backend = SqlBackend(url)
    late = await backend.overdue(NOW, 10)
    assert [(task.task_id, task.lease_owner) for task in late] == [("running", "adopted")]
    claimed = await backend.claim("o", NOW, 100, lease_until=LEASE)
    names = {"fine", "no-params", "bad-params", "no-status", "no-priority", "millis", "negative"}
    assert {task.task_id for task in claimed} == names
    assert [task.task_id for task in claimed if task.undecodable] == ["bad-params"]
    await backend.close()


def test_old_writer_on_the_new_schema(engine: sa.Engine) -> None:  # F19, the reverse
    upgrade(engine)
    run(engine, "INSERT INTO task_queue (task_id, task_type, created_at) VALUES ('t', 'x', 5)")
    query = "SELECT status, queue, run_at, fence, cancel_requested FROM task_queue"
    assert rows(engine, query) == [("pending", "default", 0, 0, False)]


@only("mysql")
@pytest.mark.parametrize("charset", ["latin1", "utf8mb4 COLLATE utf8mb4_general_ci", "utf8mb4 COLLATE utf8mb4_bin"])
async def test_old_texts_get_their_size_and_exactness(url: str, engine: sa.Engine, charset: str) -> None:  # I10
    legacy(engine, f" DEFAULT CHARSET {charset}")
    run(
        engine,
        "ALTER TABLE task_queue MODIFY task_type VARCHAR(180) NOT NULL COMMENT '100%% of them: a type'",
        "ALTER TABLE task_queue MODIFY params MEDIUMTEXT COMMENT 'JSON'",
        "ALTER TABLE task_queue ADD COLUMN note VARCHAR(50) DEFAULT 'café'",
        "INSERT INTO task_queue (task_id, task_type, params, created_at) VALUES ('é', 'Mail', '{\"é\": 1}', 5)",
    )
    upgrade(engine)
    columns = {column["name"]: column for column in sa.inspect(engine).get_columns("task_queue")}
    collations = {
        name: column["type"].collation for name, column in columns.items() if hasattr(column["type"], "length")
    }
    note = collations.pop("note")
    assert set(collations.values()) == {"utf8mb4_nopad_bin"}
    assert note != "utf8mb4_nopad_bin"  # not ours
    assert (columns["task_type"]["type"].length, columns["task_type"]["comment"]) == (180, "100% of them: a type")
    assert (columns["task_type"]["nullable"], columns["status"]["default"]) == (False, "'pending'")
    assert (str(columns["params"]["type"]).split()[0], columns["params"]["comment"]) == ("LONGTEXT", "JSON")
    assert rows(engine, "SELECT task_id, note FROM task_queue") == [("é", "café")]
    backend = SqlBackend(url)
    (old,) = await backend.claim("o", NOW, 5, lease_until=LEASE)
    assert (old.task_id, old.type, old.params) == ("é", "Mail", {"é": 1})
    tasks = [new(task_id=name, params={"x": "😀" * 50_000}) for name in ("É", "é ", "e\u0301", "E")]
    assert await backend.push(tasks) == tasks
    assert await backend.get([task.task_id for task in tasks]) == tasks
    await backend.close()


@only("mysql")
def test_an_adopted_table_is_rebuilt_once(engine: sa.Engine) -> None:
    legacy(engine)
    statements: list[str] = []
    sa.event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    upgrade(engine)
    assert len([each for each in statements if " MODIFY " in each]) == 2  # one for each table
    run(engine, "DELETE FROM aiotaskq_version")
    statements.clear()
    upgrade(engine)
    assert not [each for each in statements if " MODIFY " in each]


class Stop(Exception):
    pass


@only("postgresql", "mysql")
def test_a_failure_at_any_statement_can_be_repeated(url: str, engine: sa.Engine) -> None:  # F21
    """PostgreSQL undoes all; on MySQL, where each step of a schema commits, the next try goes on from there."""
    statements = fail_at = 0

    @sa.event.listens_for(engine, "after_cursor_execute")
    def count(*args: Any) -> None:
        nonlocal statements
        statements += 1
        if statements == fail_at:
            raise Stop

    def start_anew() -> None:
        nonlocal fail_at
        fail_at = 0
        for table in sa.inspect(engine).get_table_names():
            run(engine, f"DROP TABLE {table}")
        legacy(engine)
        put_odd_rows(engine)

    def contents() -> list[Any]:
        query = "SELECT task_id, params, status, priority, created_at, run_at, seq, lease_owner FROM task_queue"
        schedules = "SELECT task_id, enabled, next_run_at, cron_expression, version FROM scheduler_task"
        return [rows(engine, f"{each} ORDER BY task_id") for each in (query, schedules)]

    start_anew()
    statements = 0
    upgrade(engine)
    total, expected = statements, contents()
    assert total > 50
    for each in range(3, total, 17):
        start_anew()
        statements, fail_at = 0, each
        with pytest.raises(Stop):
            upgrade(engine)
        if engine.dialect.name == "postgresql":
            assert sorted(sa.inspect(engine).get_table_names()) == ["scheduler_task", "task_queue"]
        fail_at = 0
        upgrade(engine)
        assert contents() == expected, each
        assert_schema(engine)


KILLED = """
import os, signal, sys
import sqlalchemy as sa
from aiotaskq.backends.sql import migrations
from aiotaskq.backends.sql.migrations.adopt import Report
from aiotaskq.backends.sql.engines import sync_engine

engine = sync_engine(sys.argv[1])
adopted = False

@sa.event.listens_for(engine, "after_cursor_execute")
def kill(connection, cursor, statement, *args):
    global adopted
    if adopted and ("CREATE INDEX" in statement) == (sys.argv[2] == "index"):
        os.kill(os.getpid(), signal.SIGKILL)
    adopted = adopted or "SET cron_expression" in statement

with engine.begin() as connection:
    migrations.upgrade(connection, int(sys.argv[3]))
"""


@pytest.mark.parametrize("at", ["next", "index"])
def test_kill_in_the_middle_of_an_adoption(url: str, engine: sa.Engine, at: str) -> None:  # F21
    """No row is rewritten twice; on MySQL the index has committed what was written before it."""
    legacy(engine)
    put_odd_rows(engine)
    process = nursery.run(
        [sys.executable, "-c", KILLED, url, at, str(NOW)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=within(50),
        check=False,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    upgrade(engine)
    assert_schema(engine)
    assert rows(engine, CRONS) == ADOPTED


CHILD = """
import asyncio, sys, threading
from aiotaskq.backends.sql.backend import SqlBackend

answers = []

async def main():
    backend = SqlBackend(sys.argv[1])
    await backend.open()
    answers.append("odd" if backend.invalid_rows else "none")
    await backend.close()

threads = [threading.Thread(target=lambda: asyncio.run(main())) for _ in range(4)]
print("ready", flush=True)
sys.stdin.readline()
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(*answers)
"""


@only("postgresql", "mysql")
@pytest.mark.parametrize("adopting", [False, True])
def test_many_processes_make_one_schema(url: str, engine: sa.Engine, adopting: bool) -> None:  # F18
    if adopting:
        legacy(engine)
        put_odd_rows(engine)
    children = [
        nursery.Popen(
            [sys.executable, "-c", CHILD, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"},
        )
        for _ in range(4)  # with four loops each
    ]
    for child in children:
        assert child.stdout is not None and child.stdout.readline() == "ready\n", child.communicate()
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    answers: list[str] = []
    errors: list[str] = []
    for child in children:
        out, err = child.communicate(timeout=within(50))
        assert child.returncode == 0, err
        answers += out.split()
        errors += [line for line in err.splitlines() if line.startswith("ERROR ")]
    # The schedules that could not be kept, said once.
    assert sorted(line.split("'")[3] for line in errors) == ["cron-lost", "zero"] * adopting
    assert sorted(answers) == ["none"] * (15 if adopting else 16) + ["odd"] * adopting
    assert_schema(engine)
    assert rows(engine, "SELECT count(*) FROM aiotaskq_version") == [(1,)]


async def test_a_status_of_an_adopted_task_ends(url: str, engine: sa.Engine) -> None:
    """What the guide's own code pushed is run and settled like any other."""
    legacy(engine)
    run(engine, "INSERT INTO task_queue (task_id, task_type, created_at) VALUES ('a', 'mail', 5)")
    backend = SqlBackend(url)
    await backend.open()
    (task,) = await backend.claim("o", NOW, 1, lease_until=LEASE)
    assert await backend.update([Change(task, task.replace(status=Status.COMPLETED, result=1))]) == [True]
    assert rows(engine, "SELECT status, result FROM task_queue") == [("completed", "1")]
    await backend.close()


@only("postgresql")
def test_vacuum_settings_of_an_adopted_table_are_kept(engine: sa.Engine) -> None:
    legacy(engine, " WITH (autovacuum_vacuum_threshold = 7)")
    upgrade(engine)
    query = "SELECT reloptions FROM pg_class WHERE relname = 'task_queue'"
    assert rows(engine, query) == [(["autovacuum_vacuum_threshold=7"],)]


@only("mysql")
def test_the_migration_lock_ends_transactions(engine: sa.Engine) -> None:  # F18
    """What was committed before the lock is seen in it, and what was written in it is seen after it."""
    run(engine, "CREATE TABLE seen (n INTEGER)")
    count = sa.text("SELECT count(*) FROM seen")
    options = {"isolation_level": "REPEATABLE READ"}  # of MySQL's own, as an application's connection may be
    with engine.connect().execution_options(**options) as migrating, engine.connect() as other:
        assert migrating.scalar(count) == 0
        run(engine, "INSERT INTO seen VALUES (1)")
        with dialect_of(migrating).migration_lock(migrating):
            assert migrating.scalar(count) == 1, "a snapshot from before the lock"
            migrating.exec_driver_sql("INSERT INTO seen VALUES (2)")
        assert other.scalar(count) == 2, "released before the commit"
