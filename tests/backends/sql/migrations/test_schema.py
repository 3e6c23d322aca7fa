"""Migrations make the schema of the models from any earlier state, and refuse what is newer or foreign."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import sqlalchemy as sa

from aiotaskq.backends.sql import migrations
from aiotaskq.errors import SchemaTooNew, ValidationError
from aiotaskq.models import OUR_TABLES, WHOLE, Base
from tests.backends.sql.migrations.legacy import (
    NOW,
    assert_schema,
    check,
    child,
    contents,
    legacy,
    put,
    raw,
    row,
    upgrade,
)
from tests.support.machine import within
from tests.support.schema import made_both_ways

# ---- the schema -----------------------------------------------------------------------------------------------------


def test_empty_database(engine: sa.Engine) -> None:
    assert upgrade(engine) == []
    assert_schema(engine)


def test_an_empty_database_gets_what_the_revisions_make(engine: sa.Engine) -> None:
    by_revisions, by_upgrade = made_both_ways(engine, NOW)
    assert by_upgrade == by_revisions


def test_second_upgrade_is_one_look(engine: sa.Engine) -> None:
    upgrade(engine)
    statements: list[str] = []
    sa.event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    assert upgrade(engine) == []
    assert [each for each in statements if "PRAGMA" not in each and "BEGIN" not in each] == [
        "SELECT version_num FROM aiotaskq_version"
    ]


@pytest.mark.parametrize("made", [True, False])
def test_an_empty_database_and_one_up_to_date_need_no_alembic(path: Path, engine: sa.Engine, made: bool) -> None:
    if made:
        upgrade(engine)
    run(path, "import sys; upgrade(); print('alembic' in sys.modules)", expect="False")


def test_create_all_first(engine: sa.Engine) -> None:
    ours = [Base.metadata.tables[name] for name in OUR_TABLES]
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
        connection.execute("CREATE TABLE aiotaskq_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY, "
                           "adopted BOOLEAN NOT NULL DEFAULT 0)")  # fmt: skip
        connection.execute("INSERT INTO aiotaskq_version (version_num) VALUES ('0001_documented')")
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


def test_a_table_of_another_program_is_refused(path: Path, engine: sa.Engine) -> None:
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


KINDS = {"sqlite": "VIEW", "postgresql": "FUNCTION"}


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql", "mysql", "mariadb"])
def test_sql_ddl(dialect: str) -> None:
    sql = migrations.sql_ddl(dialect)
    assert sql.count("CREATE TABLE") == 9 and len(re.findall("CREATE( UNIQUE)? INDEX", sql)) == (
        15 if dialect in WHOLE else 17
    )
    assert f"VALUES ('{migrations.HEAD}')" in sql
    assert re.findall(r"CREATE (?:OR REPLACE )?(\w+) aiotaskq_push\W", sql) == [KINDS.get(dialect, "PROCEDURE")]


def test_sql_ddl_is_the_schema(path: Path, engine: sa.Engine) -> None:
    with raw(path) as connection:
        connection.executescript(migrations.sql_ddl("sqlite"))
        connection.execute("INSERT INTO aiotaskq_push (type) VALUES ('mail')")
    assert_schema(engine)
    assert upgrade(engine) == []


def test_sql_ddl_refuses_others() -> None:
    with pytest.raises(ValidationError, match="use one of sqlite, postgresql, postgres, mysql, mariadb"):
        migrations.sql_ddl("oracle")


# ---- crashes and company --------------------------------------------------------------------------------------------


def run(path: Path, code: str, expect: str) -> None:
    out, err = child(path, code, subprocess.Popen).communicate(timeout=within(50))  # what it imports is asked for
    assert out.strip() == expect, err
