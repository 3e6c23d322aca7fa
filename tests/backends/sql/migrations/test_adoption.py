"""The documented tables are adopted with all of their rows; invalid rows are reported, never lost."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from aiotaskq.backends.base import InvalidRow
from aiotaskq.errors import ValidationError
from tests.backends.sql.migrations.legacy import (
    NOW,
    NOW_S,
    ODD_SCHEDULES,
    ODD_TASKS,
    assert_schema,
    check,
    contents,
    found,
    legacy,
    put,
    put_odd_schedules,
    put_odd_tasks,
    raw,
    row,
    upgrade,
)
from tests.support.documented import LEGACY
from tests.support.logs import logged
from tests.support.machine import working


@pytest.fixture
def log() -> Iterator[list[str]]:
    with logged("DEBUG", "{level} {message}") as lines:
        yield lines


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


def test_check_predicts_the_adoption_and_writes_nothing(path: Path, engine: sa.Engine) -> None:  # F21
    legacy(path)
    put_odd_tasks(path)
    put_odd_schedules(path)
    before = contents(path)
    rehearsed = check(engine)
    assert contents(path) == before
    adopted = upgrade(engine)

    def told(odd: list[InvalidRow]) -> set[tuple[str, ...]]:
        return {(each.table, each.id, each.column, each.problem) for each in odd if "is past" not in each.problem}

    assert told(rehearsed) == told(adopted)
    # What was repaired is not odd any more; what was kept is told again, and its schedule is disabled now.
    again = check(engine)
    assert told(again) < told(adopted)
    assert not [each for each in again if "adoption does" in each.action]


def test_check_without_tables(engine: sa.Engine) -> None:
    assert check(engine) == []


def test_report_and_log_are_bounded(path: Path, engine: sa.Engine, log: list[str]) -> None:
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
    assert len(log) == 22 and "2501 invalid values, no row was dropped" in log[-1]
    assert log[0].startswith("ERROR schedule 'nightly' (id 'evil")  # it is disabled
    assert all(line.startswith("WARNING ") for line in log[1:])
    assert all(line.isprintable() for line in log)
    assert "hunter2" not in "".join(log) and "hunter2" not in repr(odd)


def test_empty_params_mean_none(path: Path, engine: sa.Engine, log: list[str]) -> None:
    legacy(path)
    put(path, "scheduler_task", "s", params="", next_run_at=NOW_S + 60)
    put(path, "task_queue", "t", params="")
    assert [(each.id, each.column, each.problem, each.action) for each in upgrade(engine)] == [
        (name, "params", "is empty", "kept as it is, which means {}") for name in ("s", "t")
    ]
    assert row(path, "scheduler_task", "s")["enabled"] == 1


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

    from aiotaskq.core.firing import fire
    from aiotaskq.core.schedule import Schedule

    schedule = Schedule(
        task_id="s0", name="n", task_type="t", schedule_type="interval", interval_seconds=1, created_at=1, updated_at=1,
        next_run_at=row(path, "scheduler_task", "s0")["next_run_at"],
    )  # fmt: skip
    assert len(fire(schedule, NOW).tasks) == 1


@pytest.mark.no_cover  # it would take several times as long
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
    start = time.process_time()
    odd = upgrade(engine)
    assert time.process_time() - start < working(10)
    assert len(odd) == 1_001
    with raw(path) as connection:
        wrong = "run_at != created_at * 1000000 OR created_at > 100000000000 OR priority IS NULL OR seq != run_at"
        assert connection.execute(f"SELECT count(*) FROM task_queue WHERE {wrong}").fetchone() == (0,)
