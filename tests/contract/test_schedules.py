"""Schedules: the compare-and-swap and the tasks that it fires, in one transaction."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from aiotaskq.backends.base import ScheduleChange, Schedules
from aiotaskq.backends.listeners import READY
from aiotaskq.backends.sql.backend import SqlBackend
from aiotaskq.core.gate import Bounds
from aiotaskq.core.schedule import Schedule
from aiotaskq.core.task import SECOND, TaskFilter
from aiotaskq.errors import QueueFull
from tests.support.backends import Store
from tests.support.gated import gated
from tests.support.rows import NOW, ended, new, new_schedule, pushed

NOW_S = NOW // SECOND


async def added(schedules: Schedules, **fields: Any) -> Schedule:
    (schedule,) = await schedules.add([new_schedule(**fields)])
    return schedule


async def row_of(schedules: Schedules, schedule: Schedule) -> Schedule:
    (row,) = await schedules.get([schedule.task_id])
    assert row is not None
    return row


def fired(schedule: Schedule, *tasks: Any) -> ScheduleChange:
    after = schedule.replace(next_run_at=(schedule.next_run_at or 0) + 60, run_count=schedule.run_count + 1)
    return ScheduleChange(schedule, after, tasks)


# ---- add, get, all, delete ----------------------------------------------------------------------------------------


async def test_add_returns_rows_like_push(schedules: Schedules) -> None:
    first = new_schedule()
    assert (await schedules.add([first]))[0] is first
    other = new_schedule(task_id=first.task_id, name="other")
    assert await schedules.add([other]) == [first]
    a = new_schedule(task_id="same")
    b = new_schedule(task_id="same", name="later in the same call")
    c = new_schedule()
    assert await schedules.add([a, b, c]) == [a, a, c]
    assert await schedules.get([first.task_id, "same", c.task_id]) == [first, a, c]
    assert await schedules.add([]) == []


async def test_concurrent_adds_have_one_winner(schedules: Schedules, shared_store: Store) -> None:  # F18
    other = (await shared_store.another()).schedules
    assert other is not None
    rivals = [new_schedule(task_id="static", name=f"n{n}") for n in range(16)]
    stores = [schedules, other] * 8
    answers = await asyncio.gather(*(s.add([rival]) for s, rival in zip(stores, rivals, strict=True)))
    (winner,) = [rival for rival, (stored,) in zip(rivals, answers, strict=True) if stored is rival]
    assert {stored.name for (stored,) in answers} == {winner.name}


async def test_get_answers_in_order(schedules: Schedules) -> None:
    many = await schedules.add([new_schedule() for _ in range(600)])
    assert await schedules.get([many[599].task_id, "missing", many[0].task_id]) == [many[599], None, many[0]]
    assert await schedules.get([]) == []


async def test_all_lists_the_oldest_first(schedules: Schedules) -> None:
    late = await added(schedules, created_at=NOW_S + 1, enabled=False)
    early = await added(schedules, created_at=NOW_S - 1)
    same = await schedules.add([new_schedule(task_id=name) for name in ("b", "a")])
    assert await schedules.all() == [early, same[1], same[0], late]
    assert await schedules.all(enabled_only=True) == [early, same[1], same[0]]


async def test_delete_keeps_the_fired_tasks(schedules: Schedules, store: Store) -> None:
    schedule = await added(schedules)
    task = new(scheduler_task_id=schedule.task_id)
    assert await schedules.change([fired(schedule, task)]) == [True]
    assert await schedules.delete([schedule.task_id, "missing"]) == [True, False]
    assert await schedules.delete([schedule.task_id]) == [False]
    assert await schedules.get([schedule.task_id]) == [None]
    assert await store.backend.get([task.task_id]) == [task]


async def test_a_refused_push_changes_no_schedule(schedules: Schedules, store: Store) -> None:
    full = Bounds(cap=0, max_waiting=0)
    first, second = await added(schedules), await added(schedules)
    with pytest.raises(QueueFull):
        await schedules.change([fired(first, new()), fired(second, gated(("full", full)))])
    assert await schedules.get([first.task_id, second.task_id]) == [first, second]
    assert await store.backend.find(TaskFilter(), 10) == []
    assert await schedules.change([fired(first, new())]) == [True]


# ---- due ------------------------------------------------------------------------------------------------------------


async def test_due_is_exact_and_the_earliest_comes_first(schedules: Schedules) -> None:  # F17
    dues = [NOW + 5, NOW + 999_999, NOW + 1_000_000, NOW, NOW - 3_000_001, NOW + 1_000_001]
    rows = [new_schedule(next_run_at=due // SECOND, next_run_us=due % SECOND) for due in dues]
    await schedules.add(rows)
    await schedules.add([new_schedule(enabled=False), new_schedule(next_run_at=None)])
    assert await schedules.next_due() == NOW - 3_000_001
    for now in sorted({due + shift for due in dues for shift in (-1, 0, 1)}):
        expected = sorted(due for due in dues if due <= now)
        found = await schedules.due(now, 100)
        assert [schedule.due for schedule in found] == expected
        assert [schedule.due for schedule in await schedules.due(now, 2)] == expected[:2]


async def test_due_of_very_many(schedules: Schedules) -> None:  # C26
    await schedules.add([new_schedule(next_run_us=n) for n in range(1_000)])
    found = await schedules.due(NOW + SECOND, 1_000)
    assert [schedule.next_run_us for schedule in found] == list(range(1_000))
    assert await schedules.change([fired(schedule, new()) for schedule in found]) == [True] * 1_000
    assert await schedules.due(NOW + SECOND, 1_000) == []


async def test_next_due(schedules: Schedules) -> None:
    assert await schedules.next_due() is None
    await added(schedules, enabled=False)
    await added(schedules, next_run_at=None)
    assert await schedules.next_due() is None
    await added(schedules, next_run_at=NOW_S + 5, next_run_us=7)
    assert await schedules.next_due() == NOW + 5 * SECOND + 7


# ---- change ---------------------------------------------------------------------------------------------------------


async def test_change_writes_after_and_counts_the_version(schedules: Schedules) -> None:
    schedule = await added(schedules)
    after = new_schedule(
        task_id=schedule.task_id,
        name="new",
        task_type="u",
        params={"p": 1},
        schedule_type="cron",
        interval_seconds=None,
        cron_expression="* * * * *",
        last_run_at=NOW_S,
        next_run_at=NOW_S + 60,
        next_run_us=9,
        run_count=4,
        max_runs=5,
        enabled=False,
        updated_at=NOW_S + 3,
        description="d",
        timezone="Europe/Berlin",
        misfire="skip",
        overlap="skip",
        catch_up=3,
        priority=-1,
        queue="q",
        max_retries=7,
        timeout=1.5,
        declared=True,
        version=schedule.version + 1,
    )
    assert await schedules.change([ScheduleChange(schedule, after)]) == [True]
    assert await row_of(schedules, schedule) == after
    assert await schedules.change([]) == []


async def test_the_tasks_are_pushed_with_it(schedules: Schedules, store: Store) -> None:  # C9
    schedule = await added(schedules)
    tasks = [new(scheduler_task_id=schedule.task_id), new()]
    heard: list[str] = []
    store.backend.listeners.listen(lambda kind, names: heard.append(kind))
    assert await schedules.change([fired(schedule, *tasks)]) == [True]
    assert heard == [READY]
    assert await store.backend.get([task.task_id for task in tasks]) == tasks
    assert await store.backend.active([schedule.task_id]) == {schedule.task_id: 1}


async def test_both_or_neither(schedules: Schedules, store: Store) -> None:  # C9
    first, second = await added(schedules), await added(schedules)
    bad = new(params={"a": object()})
    good = new()
    with pytest.raises(Exception, match=r"."):
        await schedules.change([fired(first, good), fired(second, bad)])
    assert await schedules.get([first.task_id, second.task_id]) == [first, second]
    assert await store.backend.find(TaskFilter(), 10) == []


async def test_a_failure_at_the_last_statement_undoes_all(schedules: Schedules, sql_store: Store) -> None:  # C9
    schedule = await added(schedules)
    task = new(type=None)  # the row is refused by the database itself, after the schedule was written
    with pytest.raises(Exception, match=r"."):
        await schedules.change([fired(schedule, new(), task)])
    assert await row_of(schedules, schedule) == schedule
    assert sql_store.execute("SELECT count(*) FROM task_queue") == [(0,)]


async def test_a_fired_id_is_not_doubled(schedules: Schedules, store: Store) -> None:  # C1, C8
    schedule = await added(schedules)
    there = await pushed(store.backend, task_id="derived")
    assert await schedules.change([fired(schedule, new(task_id="derived", type="again"))]) == [True]
    assert await store.backend.get(["derived"]) == [there]
    over = await ended(store.backend, task_id="derived-2", priority=-1)
    row = await row_of(schedules, schedule)
    assert await schedules.change([fired(row, new(task_id="derived-2"))]) == [True]
    assert await store.backend.get(["derived-2"]) == [over]


async def test_one_of_many_schedulers_fires(schedules: Schedules, shared_store: Store) -> None:  # C1, C5
    other = (await shared_store.another()).schedules
    assert other is not None
    for _ in range(10):
        schedule = await added(schedules)
        tasks = [new() for _ in range(16)]
        stores = [schedules, other] * 8
        answers = await asyncio.gather(
            *(s.change([fired(schedule, task)]) for s, task in zip(stores, tasks, strict=True))
        )
        assert sorted(held for (held,) in answers) == [False] * 15 + [True]
        there = await shared_store.backend.get([task.task_id for task in tasks])
        assert [row is not None for row in there] == [held for (held,) in answers]


async def test_of_two_changes_of_one_row_in_one_call_the_second_loses(schedules: Schedules, store: Store) -> None:  # C1
    schedule = await added(schedules)
    a, b = new(), new()
    assert await schedules.change([fired(schedule, a), fired(schedule, b)]) == [True, False]
    assert await store.backend.get([a.task_id, b.task_id]) == [a, None]
    assert (await row_of(schedules, schedule)).run_count == 1


async def test_one_that_does_not_hold_does_not_stop_the_others(schedules: Schedules, store: Store) -> None:
    rows = await schedules.add([new_schedule() for _ in range(3)])
    assert await schedules.change([fired(rows[1])]) == [True]
    tasks = [new() for _ in rows]
    changes = [fired(schedule, task) for schedule, task in zip(rows, tasks, strict=True)]
    assert await schedules.change(changes) == [True, False, True]
    assert await store.backend.get([task.task_id for task in tasks]) == [tasks[0], None, tasks[2]]


GUARDS: list[dict[str, Any]] = [
    {"version": 1},
    {"next_run_at": NOW_S - 1},
    {"next_run_at": None},
    {"next_run_us": 1},
    {"run_count": 1},
    {"enabled": False},
]


@pytest.mark.parametrize("edit", GUARDS, ids=[f"{k}={v}" for guard in GUARDS for k, v in guard.items()])
async def test_each_guard_alone_refuses(schedules: Schedules, store: Store, edit: dict[str, Any]) -> None:
    schedule = await added(schedules)
    task = new()
    assert await schedules.change([fired(schedule.replace(**edit), task)]) == [False]
    assert await row_of(schedules, schedule) == schedule
    assert await store.backend.get([task.task_id]) == [None]


@pytest.mark.parametrize("edit", GUARDS[1:], ids=[f"{k}={v}" for guard in GUARDS[1:] for k, v in guard.items()])
async def test_an_edit_by_another_program_refuses(  # C10: one that knows only the documented columns
    schedules: Schedules, sql_store: Store, edit: dict[str, Any]
) -> None:
    schedule = await added(schedules)
    ((column, value),) = edit.items()
    sql_store.execute(f"UPDATE scheduler_task SET {column} = :value", value=value)
    task = new()
    assert await schedules.change([fired(schedule, task)]) == [False]
    assert await sql_store.backend.get([task.task_id]) == [None]
    row = await row_of(schedules, schedule)
    assert getattr(row, column) == value
    assert await schedules.change([fired(row, task)]) == [True]


async def test_a_deleted_one_does_not_fire(schedules: Schedules, store: Store) -> None:
    schedule = await added(schedules)
    await schedules.delete([schedule.task_id])
    assert await schedules.change([fired(schedule, new())]) == [False]
    assert await schedules.all() == []
    assert await store.backend.find(TaskFilter(), 10) == []


@pytest.mark.parametrize("params", [None, ""], ids=["NULL", "empty"])
async def test_rows_of_a_program_that_knows_only_the_documented_columns(
    schedules: Schedules, sql_store: Store, params: str | None
) -> None:
    sql_store.execute(
        "INSERT INTO scheduler_task (task_id, name, task_type, schedule_type, interval_seconds, next_run_at, "
        "created_at, updated_at, params) VALUES ('old', 'n', 't', 'interval', 5, :now, :now, :now, :params)",
        now=NOW_S,
        params=params,
    )
    (schedule,) = await schedules.due(NOW, 5)
    assert (schedule.params, schedule.enabled, schedule.run_count, schedule.queue) == ({}, True, 0, "default")
    assert await schedules.change([fired(schedule, new())]) == [True]


async def test_one_with_undecodable_params_is_not_fired(schedules: Schedules, sql_store: Store) -> None:  # F21
    schedule = await added(schedules, params={"a": 1})
    sql_store.execute("UPDATE scheduler_task SET params = '{'")
    assert not (await row_of(schedules, schedule)).enabled


async def test_the_outbox_is_kept_and_found(schedules: Schedules) -> None:  # C9
    plain, full = new_schedule(), new_schedule()
    await schedules.add([plain, full])
    tasks = (new(params={"n": 2**60}, scheduler_task_id=full.task_id), new(scheduler_task_id=full.task_id))
    after = full.replace(outbox=tasks)
    assert await schedules.change([ScheduleChange(full, after)]) == [True]
    (found,) = await schedules.undelivered(10)
    assert found == after.replace(version=1)
    assert await schedules.undelivered(0) == []
    assert await schedules.change([ScheduleChange(found, found.replace(outbox=()))]) == [True]
    assert await schedules.undelivered(10) == []


# ---- asynchronous sessions ------------------------------------------------------------------------------------------


async def test_each_verb_awaits_its_statements_of_one_asynchronous_session(
    schedules: Schedules, sql_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written, the fired task with it, is committed by that session; and without it there is nothing."""
    sessions: list[AsyncSession] = []
    commits: list[Session] = []
    executing: list[bool] = [False]
    others: list[str] = []  # statements on schedules that no method of a session is for
    real = {name: getattr(AsyncSession, name) for name in ("execute", "run_sync")}

    def noted(name: str) -> Any:
        async def method(self: AsyncSession, *args: Any, **options: Any) -> Any:
            sessions.append(self)
            executing[0] = True
            try:
                return await real[name](self, *args, **options)
            finally:
                executing[0] = False

        return method

    async def refused(self: AsyncSession, *args: Any, **options: Any) -> Any:
        raise ZeroDivisionError

    before = await added(schedules)
    backend = sql_store.backend
    assert isinstance(backend, SqlBackend)
    engine = (await backend.database.connections()).sync_engine

    def committed(session: Session) -> None:
        commits.append(session)

    def executed(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "scheduler_task" in statement and "task_queue" not in statement and not executing[0]:
            others.append(statement)

    verbs: dict[str, tuple[int, Callable[[], Awaitable[Any]]]] = {
        "add": (1, lambda: schedules.add([new_schedule(), new_schedule()])),
        "change": (1, lambda: schedules.change([fired(before, new(type="fired"))])),
        "get": (0, lambda: schedules.get([before.task_id])),
        "all": (0, schedules.all),
        "due": (0, lambda: schedules.due(NOW, 5)),
        "undelivered": (0, lambda: schedules.undelivered(5)),
        "written_after": (0, lambda: schedules.written_after(NOW)),
        "next_due": (0, schedules.next_due),
        "delete": (1, lambda: schedules.delete([before.task_id])),
    }
    public = {name for name, verb in vars(Schedules).items() if inspect.iscoroutinefunction(verb) and name[0] != "_"}
    assert verbs.keys() == public - {"recode"}  # which needs a codec

    def count() -> tuple[int, int]:
        tables = "task_queue", "scheduler_task"
        first, second = (sql_store.execute(f"SELECT count(*) FROM {table}")[0][0] for table in tables)
        return first, second

    for name, (writes, verb) in verbs.items():
        # What goes by ids is compiled once, as statements on tasks are, and runs inside of the session.
        needed = "run_sync" if name in ("add", "change", "get", "delete") else "execute"
        monkeypatch.setattr(AsyncSession, needed, refused)
        there = count()
        with pytest.raises(ZeroDivisionError):
            await verb()
        assert count() == there, name
        for method in real:
            monkeypatch.setattr(AsyncSession, method, noted(method))
        event.listen(Session, "after_commit", committed)
        event.listen(engine, "before_cursor_execute", executed)
        try:
            await verb()
        finally:
            event.remove(Session, "after_commit", committed)
            event.remove(engine, "before_cursor_execute", executed)
        assert (name, len(set(sessions)), len(commits)) == (name, 1, writes)
        assert not others, name
        for seen in (sessions, commits, others):
            seen.clear()
    assert len(await backend.find(TaskFilter(type="fired"), 5)) == 1


async def test_written_after_a_time_that_a_clock_was_set_back_to(schedules: Schedules) -> None:
    late = {"updated_at": NOW_S + 10, "next_run_at": NOW_S + 20}
    wanted = await added(schedules, **late)
    await added(schedules, **late, enabled=False)
    await added(schedules, **{**late, "updated_at": NOW_S})
    await added(schedules, **{**late, "next_run_at": NOW_S})
    await added(schedules, **{**late, "next_run_at": None})
    assert await schedules.written_after(NOW) == [wanted]
    assert await schedules.written_after(NOW + 9 * SECOND) == [wanted]
    assert await schedules.written_after(NOW + 10 * SECOND) == []
