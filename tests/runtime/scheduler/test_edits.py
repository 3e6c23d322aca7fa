"""Schedules that are edited, paused, deleted or broken while the scheduler runs."""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from aiotaskq import Limit, TaskQ
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core.task import SECOND
from aiotaskq.errors import NotFound, ValidationError
from tests.runtime.scheduler.passing import START, fired, passes


async def test_edits_never_fire_at_once(tq: TaskQ, clock: VirtualClock) -> None:  # C10
    noon = 1_700_049_600_000_000  # 12:00 UTC
    clock.step((noon - clock.now()) / SECOND)
    schedule_id = (await tq.schedules.add("s", "t", cron="0 9 * * *", timezone="UTC")).task_id
    await tq.schedules.update(schedule_id, cron="0 16 * * *")
    await tq._scheduler._look()
    assert await fired(tq) == []
    assert (await tq.schedules.get(schedule_id)).next_run_at == noon // SECOND + 4 * 3600
    await tq.schedules.update(schedule_id, timezone="Asia/Shanghai")
    assert (await tq.schedules.get(schedule_id)).next_run_at == noon // SECOND + 20 * 3600
    with pytest.raises(ValidationError, match="cron_expression: hour 61 is not in 0-23"):
        await tq.schedules.update(schedule_id, cron="0 61 * * *")


async def test_another_type_is_held_against_the_params(tq: TaskQ) -> None:
    @tq.task
    async def count(number: int) -> None: ...

    @tq.task
    async def greet(name: str) -> None: ...

    schedule_id = (await tq.schedules.add("s", "count", interval=10, params={"number": 3})).task_id
    with pytest.raises(ValidationError, match="name"):
        await tq.schedules.update(schedule_id, task="greet")
    await tq.schedules.update(schedule_id, task="greet", params={"name": "x"})
    row = await tq.schedules.get(schedule_id)
    assert (row.task_type, row.params) == ("greet", {"name": "x"})


async def test_pause_means_pause_and_resume_follows_the_policy(tq: TaskQ, clock: VirtualClock) -> None:  # C10
    schedule_id = (await tq.schedules.add("s", "t", interval=10)).task_id
    await tq.schedules.pause(schedule_id)
    await passes(tq, clock, 86_400, step=3600)
    assert await fired(tq) == []
    await tq.schedules.resume(schedule_id)
    await tq._scheduler._look()
    assert len(await fired(tq)) == 1  # once, not 8,640 times


async def test_run_now_and_delete(tq: TaskQ, clock: VirtualClock) -> None:
    schedule_id = (await tq.schedules.add("s", "t", interval=1000)).task_id
    due = (await tq.schedules.get(schedule_id)).next_run_at
    handle = await tq.schedules.run_now(schedule_id)
    assert [task.task_id for task in await fired(tq)] == [handle.task_id]
    row = await tq.schedules.get(schedule_id)
    assert (row.run_count, row.next_run_at) == (1, due)
    await tq.schedules.delete(schedule_id)
    for verb in (tq.schedules.get, tq.schedules.pause, tq.schedules.run_now, tq.schedules.delete):
        with pytest.raises(NotFound, match="there is no schedule"):
            await verb(schedule_id)


async def test_a_schedule_that_cannot_fire_is_disabled_and_stops_no_other(
    tq: TaskQ, clock: VirtualClock, tmp_path: Path
) -> None:  # C24
    bad = (await tq.schedules.add("bad", "t", interval=1)).task_id
    good = (await tq.schedules.add("good", "good", interval=1)).task_id
    disabled: list[str] = []
    tq.on("disabled", lambda event: disabled.append(event.detail["schedule"].task_id))
    with contextlib.closing(sqlite3.connect(tmp_path / "schedules.db")) as raw:
        raw.execute("UPDATE scheduler_task SET interval_seconds = 0 WHERE task_id = ?", (bad,))
        raw.commit()
    await passes(tq, clock, 5)
    assert [task.type for task in await fired(tq)] == ["good"] * 5
    assert disabled == [bad]
    stopped = await tq.schedules.get(bad)
    assert (stopped.enabled, stopped.state) == (False, "disabled")
    assert (await tq.schedules.get(good)).run_count == 5


@pytest.mark.parametrize("stores", ["together", "queue in memory", "outbox"])
async def test_a_schedule_whose_gate_is_full_stops_no_other(
    stores: str, tmp_path: Path, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    schedules = f"sqlite:///{tmp_path}/schedules.db"
    url = {"together": schedules, "queue in memory": "memory://"}.get(stores, f"sqlite:///{tmp_path}/tasks.db")
    async with TaskQ(url, schedules=schedules, clock=clock) as tq:

        @tq.task(name="slow", limit=Limit(1, max_waiting=1))
        async def slow() -> None: ...

        tq.elsewhere("good")
        ids = [(await tq.schedules.add(name, name, interval=1)).task_id for name in ("slow", "good")]
        await passes(tq, clock, 5)
        assert Counter(task.type for task in await fired(tq)) == {"slow": 2, "good": 5}
        rows = [await tq.schedules.get(schedule_id) for schedule_id in ids]
        assert [len(row.outbox) for row in rows] == ([3, 0] if stores == "outbox" else [0, 0])
        assert [row.run_count for row in rows] == ([2, 5] if stores == "together" else [5, 5])
        assert "limit 'slow': more than max_waiting=1" in caplog.text


async def test_a_schedule_whose_gate_is_full_makes_no_other_late(taskq_virtual: Any, tmp_path: Path) -> None:
    """A pause of the scheduler would let the others miss their due times."""
    tq, ran = TaskQ(f"sqlite:///{tmp_path}/real.db"), Counter[str]()

    @tq.schedule(interval=60)
    @tq.task(limit=Limit(1, max_waiting=0))
    async def slow() -> None:
        ran["slow"] += 1

    @tq.schedule(interval=1)
    @tq.task
    async def good() -> None:
        ran["good"] += 1

    async with taskq_virtual(tq, f"sqlite:///{tmp_path}/schedules.db") as kit:
        await tq.limits.pause("slow")
        await kit.advance(90.5)
        assert ran == {"good": 90}
        await tq.limits.resume("slow")
        await kit.advance(5)
        assert ran == {"good": 95, "slow": 1}


async def test_an_outbox_does_not_grow_while_a_gate_is_full(tmp_path: Path, clock: VirtualClock) -> None:
    async with TaskQ(f"sqlite:///{tmp_path}/tasks.db", schedules=f"sqlite:///{tmp_path}/s.db", clock=clock) as tq:

        @tq.task(limit=Limit(1, max_waiting=0))
        async def slow() -> None: ...

        await tq.limits.set("slow", 0, max_waiting=0)
        schedule_id = (await tq.schedules.add("slow", "slow", interval=1)).task_id
        for _ in range(30):
            await clock.advance(1)
            await tq._scheduler._look()
        assert 5 <= len((await tq.schedules.get(schedule_id)).outbox) <= 6
        await tq.limits.set("slow", max_waiting=100)
        for _ in range(10):
            await clock.advance(1)
            await tq._scheduler._look()
        row = await tq.schedules.get(schedule_id)
        assert row.outbox == ()
        assert row.run_count == len(await fired(tq)) >= 8


async def test_more_schedules_at_full_gates_than_one_read_are_no_reason_to_spin(
    tq: TaskQ, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    @tq.task(limit=Limit(1, max_waiting=0))
    async def slow() -> None: ...

    await tq.limits.set("slow", 0, max_waiting=0)
    for number in range(3):
        await tq.schedules.add(f"s{number}", "slow", interval=1)
    for name in ("READ", "LIMIT"):
        monkeypatch.setattr(f"aiotaskq.runtime.scheduler.scheduler.{name}", 2)
    clock.step(1)
    assert [await tq._scheduler._look(), await tq._scheduler._look()] == [0.0, 1.0]


async def test_no_task_is_made_of_a_schedule_whose_params_cannot_be_decoded(
    tq: TaskQ, clock: VirtualClock, tmp_path: Path
) -> None:
    schedule_id = (await tq.schedules.add("s", "t", params={"n": 1}, interval=60)).task_id
    with contextlib.closing(sqlite3.connect(tmp_path / "schedules.db")) as raw:
        raw.execute("UPDATE scheduler_task SET params = '{bad'")
        raw.commit()
    clock.step(5)
    with pytest.raises(ValidationError, match=r"^schedule: its row"):
        await tq.schedules.run_now(schedule_id)
    with pytest.raises(ValidationError, match=r"^schedule: its row"):
        await tq.schedules.backfill(schedule_id, START // SECOND - 130, START // SECOND)
    assert await fired(tq) == []
    await tq.schedules.update(schedule_id, params={"n": 2})
    await tq.schedules.run_now(schedule_id)
    assert [task.params for task in await fired(tq)] == [{"n": 2}]


async def test_outside_edits_are_seen_and_not_overwritten(tq: TaskQ, clock: VirtualClock, tmp_path: Path) -> None:
    schedule_id = (await tq.schedules.add("s", "t", interval=100)).task_id
    with contextlib.closing(sqlite3.connect(tmp_path / "schedules.db")) as raw:
        raw.execute("UPDATE scheduler_task SET next_run_at = ?", (START // SECOND + 1,))
        raw.commit()
    await passes(tq, clock, 2)
    assert len(await fired(tq)) == 1
    assert (await tq.schedules.get(schedule_id)).run_count == 1


async def test_what_others_do_meanwhile_is_seen_when_it_fires(  # C10: it was read ahead, before they did it
    tq: TaskQ, clock: VirtualClock, tmp_path: Path
) -> None:
    ids = {
        name: (await tq.schedules.add(name, "t", params={"of": name}, interval=5)).task_id
        for name in ("paused", "put off", "described", "untouched", "deleted")
    }
    clock.step(4.5)
    await tq._scheduler._look()
    changes = {
        "paused": "enabled = 0",
        "put off": f"next_run_at = {START // SECOND + 60}",
        "described": "description = 'theirs', version = version + 1",
        "untouched": "description = 'theirs'",  # nothing that the guard knows
    }
    with contextlib.closing(sqlite3.connect(tmp_path / "schedules.db")) as raw:
        for name, change in changes.items():
            raw.execute(f"UPDATE scheduler_task SET {change} WHERE task_id = ?", (ids[name],))
        raw.execute("DELETE FROM scheduler_task WHERE task_id = ?", (ids["deleted"],))
        raw.commit()
    clock.step(0.5)
    await tq._scheduler._look()
    await tq._scheduler._look()
    assert sorted(task.params["of"] for task in await fired(tq)) == ["described", "untouched"]
    rows = {row.name: row for row in await tq.schedules.list()}
    assert [rows[name].run_count for name in ("paused", "put off", "described", "untouched")] == [0, 0, 1, 1]
    assert rows["described"].description == rows["untouched"].description == "theirs"


async def test_a_schedule_without_a_time_zone_has_that_of_the_task_queue(tmp_path: Path) -> None:
    tq = TaskQ(f"sqlite:///{tmp_path}/zone.db", timezone="Asia/Shanghai")
    async with tq:
        add = tq.schedules.add
        mine = await tq.schedules.get((await add("a", "t", cron="0 9 * * *")).task_id)
        other = await tq.schedules.get((await add("b", "t", cron="0 9 * * *", timezone="UTC")).task_id)
        assert (mine.timezone, other.timezone) == ("Asia/Shanghai", "UTC")
        with pytest.raises(ValidationError, match="timezone"):
            await add("c", "t", cron="0 9 * * *", timezone="")
