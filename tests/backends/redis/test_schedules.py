"""Schedules in Redis: where they are by default, a full memory, gates, and rows that cannot be read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import aiotaskq
import aiotaskq.errors
import aiotaskq.sync
from aiotaskq import TaskQ
from aiotaskq.app import settings
from aiotaskq.app.internal import internal
from aiotaskq.backends.base import ScheduleChange
from aiotaskq.backends.redis.backend import RedisBackend
from aiotaskq.backends.redis.schedules import RedisSchedules
from aiotaskq.backends.sql.schedules import SqlSchedules
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core.gate import Bounds, Flow
from aiotaskq.core.ids import next_seq
from aiotaskq.core.parking import parked
from aiotaskq.core.schedule import Schedule, UndecodableSchedule
from aiotaskq.core.task import SECOND, Task, TaskFilter
from aiotaskq.errors import DatabaseUnavailable, QueueFull
from tests.backends.redis.stores import opened, own_server
from tests.support.rows import NOW, new, new_schedule
from tests.support.servers import Server


async def added(backend: RedisBackend, **fields: Any) -> Schedule:
    (schedule,) = await backend.schedules.add([new_schedule(**fields)])
    return schedule


async def row_of(backend: RedisBackend, schedule: Schedule) -> Schedule:
    (row,) = await backend.schedules.get([schedule.task_id])
    assert row is not None
    return row


def fired(schedule: Schedule, *tasks: Task) -> ScheduleChange:
    after = schedule.replace(next_run_at=(schedule.next_run_at or 0) + 60, run_count=schedule.run_count + 1)
    return ScheduleChange(schedule, after, tasks)


# ---- which store ----------------------------------------------------------------------------------------------------


async def test_schedules_are_beside_the_tasks_and_nothing_else_is_opened(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    clock = VirtualClock(NOW)
    async with TaskQ(url, clock=clock) as tq, TaskQ(url, clock=clock) as other:
        schedule_id = (await tq.schedules.add("n", "t", interval=5)).task_id
        assert [row.task_id for row in await other.schedules.list()] == [schedule_id]
        clock.step(5)
        await other._scheduler._look()
        assert [task.scheduler_task_id for task in await tq.find()] == [schedule_id]
        assert list(internal(tq).backends) == [url]
        assert internal(tq).open_schedules() is tq._scheduler.schedules is tq.queue.backend.schedules
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "variables", "kind", "own"),
    [
        ("", {}, RedisSchedules, True),
        ("", {"AIOTASKQ_DATABASE_URL": "redis://localhost:1/1"}, RedisSchedules, True),  # of the command line's --db
        ("redis://localhost:1/0", {"AIOTASKQ_DATABASE_URL": "sqlite:///s.db"}, RedisSchedules, True),
        ("redis://localhost:1/1", {}, RedisSchedules, False),
        ("sqlite:///s.db", {}, SqlSchedules, False),
        ("", {"AIOTASKQ_DATABASE_URL": "sqlite:///s.db"}, SqlSchedules, False),
        ("", {"AIOTASKQ_QUEUE_URL": "sqlite:///s.db"}, SqlSchedules, False),
    ],
)
async def test_a_database_that_is_named_holds_the_schedules(
    given: str, variables: dict[str, str], kind: type, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "_settings", None)  # as in a new process
    for name in ("AIOTASKQ_DATABASE_URL", "AIOTASKQ_QUEUE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    url = "redis://localhost:1/0"
    tq = TaskQ(url, schedules=given or None)
    assert (internal(tq).open_schedules() is not None) == own
    scheduler = aiotaskq.Scheduler(queue=aiotaskq.RedisQueue(url), url=given or None)
    assert [type(each.schedules) for each in (tq._scheduler, scheduler)] == [kind, kind]
    assert internal(tq).open_schedules() is tq._scheduler.schedules
    assert (tq.queue.backend.schedules is tq._scheduler.schedules) == own


# ---- the script of a firing -----------------------------------------------------------------------------------------


async def test_a_full_memory_refuses_a_firing_as_a_whole_and_takes_an_edit() -> None:
    with own_server() as full:
        async with opened(full.url("a")) as backend:
            once = await added(backend, schedule_type="once", execute_at=NOW // SECOND)
            full.ask("CONFIG SET maxmemory 1")
            ends = ScheduleChange(once, once.without_due().replace(run_count=1), (new(),))
            with pytest.raises(DatabaseUnavailable, match="memory is full, nothing was written"):
                await backend.schedules.change([ends])
            assert await backend.schedules.due(NOW, 5) == [once]
            edited = once.replace(priority=4, outbox=(new(),))  # it removes nothing
            assert await backend.schedules.change([ScheduleChange(once, edited)]) == [True]
            off = edited.replace(enabled=False, outbox=(), version=1)
            assert await backend.schedules.change([ScheduleChange(edited.replace(version=1), off)]) == [True]
            assert await backend.schedules.due(NOW, 5) == []
            assert await backend.schedules.delete([once.task_id]) == [True]


async def test_a_gate_with_no_room_refuses_a_firing_as_a_whole(backend: RedisBackend) -> None:
    def task() -> Task:
        return parked(new(flow=Flow(gates=(("g", Bounds(cap=1, max_waiting=1)),)), seq=next_seq(NOW)), NOW)

    schedules = [await added(backend) for _ in range(3)]
    assert [await backend.schedules.change([fired(each, task())]) for each in schedules[:2]] == [[True], [True]]
    with pytest.raises(QueueFull):
        await backend.schedules.change([fired(schedules[2], task())])
    assert await row_of(backend, schedules[2]) == schedules[2]
    assert len(await backend.find(TaskFilter(), 9)) == 2


# ---- rows that cannot be read ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        lambda row: row[:-20],
        lambda row: row.replace(b'"params":{}', b'"params":7'),
        lambda row: b"\xff\xfe",
        lambda row: b"[]",
        lambda row: b"",
    ],
)
async def test_a_damaged_row_is_disabled_and_can_be_deleted(
    backend: RedisBackend, server: Server, prefix: str, damage: Any
) -> None:
    schedule, good = await added(backend, name="broken"), await added(backend)
    key = f"{{{prefix}}}:schedules"
    damaged = damage(server.ask("HGET", key, schedule.task_id))
    server.ask("HSET", key, schedule.task_id, damaged)
    row = await row_of(backend, schedule)
    assert isinstance(row, UndecodableSchedule) and not row.enabled and row.params == {}
    assert good in await backend.schedules.all() and good in await backend.schedules.due(NOW, 5)
    clock = VirtualClock(NOW)
    async with TaskQ(backend._url, clock=clock) as tq:
        await tq._scheduler._look()
        assert [task.scheduler_task_id for task in await tq.find()] == [good.task_id]
        assert await backend.schedules.due(NOW, 5) == []  # nothing looks at it again and again
        if damaged:
            assert re.findall(rb'"params":..|\xff|\[]', damaged)[0] in server.ask("HGET", key, schedule.task_id)
        await tq.schedules.delete(schedule.task_id)
        assert [row.task_id for row in await tq.schedules.list()] == [good.task_id]


async def test_an_index_entry_without_a_row_is_passed_over(backend: RedisBackend, server: Server, prefix: str) -> None:
    schedule = await added(backend)
    server.ask("ZADD", f"{{{prefix}}}:schedules:due", 5, "ghost")
    assert await backend.schedules.due(NOW, 1) == [schedule]
    assert await backend.schedules.next_due() == NOW
