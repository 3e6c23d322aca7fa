"""``tq.schedules``: schedules by their ids and names, of task functions and of types."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import aiotaskq.app.settings
from aiotaskq import TaskQ
from aiotaskq.app.settings import Settings
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core.task import SECOND
from aiotaskq.errors import NotFound, TaskConflict, UnknownHandler, ValidationError
from tests.runtime.scheduler.passing import START, fired
from tests.support.machine import within


async def test_a_schedule_of_a_task_function_has_its_options(tq: TaskQ) -> None:
    @tq.task(queue="mail", priority=2, max_retries=1, timeout=30)
    async def remind(user: str) -> None: ...

    added = await tq.schedules.add("remind ann", remind, cron="0 9 * * *", timezone="UTC", params={"user": "ann"})
    assert (added.task_type, added.queue, added.priority, added.max_retries, added.timeout) == (
        "remind",
        "mail",
        2,
        1,
        30,
    )
    own = await tq.schedules.add("own", "remind", interval=60, params={"user": "ann"}, queue="slow", timeout=5)
    assert (own.queue, own.priority, own.timeout) == ("slow", 2, 5)
    with pytest.raises(ValidationError, match=r"^params: remind\(\) needs 'user'"):
        await tq.schedules.add("bad", remind, interval=60)
    for wrong in (None, 5, print, remind.options(queue="x")):
        with pytest.raises(ValidationError, match=r"^task: a task function or the name of a type is needed"):
            await tq.schedules.add("bad", wrong, interval=60)  # type: ignore[arg-type]


async def test_a_type_that_is_not_known_is_refused_where_handlers_are(tq: TaskQ) -> None:
    anything = await tq.schedules.add("before", "nope", interval=60)

    @tq.task
    async def remind() -> None: ...

    tq.elsewhere("theirs")
    await tq.schedules.add("there", "theirs", interval=60)
    with pytest.raises(UnknownHandler, match=r"task: no handler is registered for 'remnd'; did you mean 'remind'"):
        await tq.schedules.add("bad", "remnd", interval=60)
    with pytest.raises(UnknownHandler, match=r"^task: no handler is registered for 'nope'"):
        await tq.schedules.update("there", task="nope")
    assert [each.name for each in await tq.schedules.list()] == ["before", "there"]
    assert await tq.schedules.get("there") and (await tq.schedules.update("before", task=remind)).task_type == "remind"
    assert anything.task_type == "nope"


async def test_each_verb_takes_an_id_and_a_name(tq: TaskQ, clock: VirtualClock) -> None:
    schedules = tq.schedules
    added = await schedules.add("nightly", "t", interval=100, schedule_id="n1", start_at=START // SECOND + 50)
    for name in ("nightly", "n1"):
        assert (await schedules.get(name)).task_id == added.task_id == "n1"
        assert (await schedules.pause(name)).enabled is False
        assert (await schedules.resume(name)).enabled is True
        changed = await schedules.update(name, cron="0 2 * * *", timezone="UTC")
        assert (changed.schedule_type, changed.cron_expression, changed.interval_seconds) == ("cron", "0 2 * * *", None)
        assert await schedules.preview(name, 1) == [datetime(2023, 11, 15, 2, tzinfo=UTC)]
        assert (await schedules.update(name, interval=10)).schedule_type == "interval"
        handle = await schedules.run_now(name)
        assert (await handle.task()).scheduler_task_id == "n1"
        assert len(await schedules.backfill(name, START // SECOND - 30, START // SECOND, dry_run=True)) == 3
        assert (await schedules.history(name))[0].outcome == "run_now"
    assert len(await fired(tq)) == 2
    await schedules.delete("nightly")
    assert await schedules.list() == []


async def test_a_name_that_several_have_and_one_that_none_has(tq: TaskQ) -> None:
    for schedule_id in ("a", "b"):
        await tq.schedules.add("twice", "t", interval=60, schedule_id=schedule_id)
    with pytest.raises(TaskConflict, match=r"^schedule: several have the name twice; use an id: a, b$"):
        await tq.schedules.pause("twice")
    assert (await tq.schedules.pause("a")).enabled is False
    with pytest.raises(NotFound, match=r"^there is no schedule twic; did you mean 'twice'"):
        await tq.schedules.get("twic")
    for wrong in (None, 5, "", "a\x00b"):
        bad: Any = wrong
        with pytest.raises(ValidationError, match=r"^schedule: "):
            await tq.schedules.get(bad)


async def test_an_id_that_is_there_stays_as_it_is(tq: TaskQ) -> None:
    first = await tq.schedules.add("n", "t", interval=60, schedule_id="mine")
    assert await tq.schedules.add("n", "t", interval=90, schedule_id="mine") == first


async def test_misspelt_options_are_refused(tq: TaskQ) -> None:
    await tq.schedules.add("n", "t", interval=60)
    for where, call in (
        ("schedules.add", tq.schedules.add("m", "t", interval=60, overlaps="skip")),  # type: ignore[call-arg]
        ("schedules.update", tq.schedules.update("n", overlaps="skip")),  # type: ignore[call-arg]
    ):
        with pytest.raises(ValidationError, match=rf"^{where}: unknown option overlaps; did you mean overlap"):
            await call
    with pytest.raises(ValidationError, match=r"^schedule: exactly one of cron, interval and at is needed"):
        await tq.schedules.update("n", cron="0 2 * * *", interval=5)
    with pytest.raises(ValidationError, match=r"^schedule: unknown option overlaps; did you mean overlap"):
        tq.schedule(interval=5, overlaps="skip")  # type: ignore[call-arg]


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("fires", [True, False])
async def test_the_first_schedule_of_a_running_queue_in_memory_is_fired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fires: bool, named: bool
) -> None:
    """Where nothing was declared and a database is named, none was opened for schedules at the start."""
    monkeypatch.chdir(tmp_path)
    if named:
        url = f"sqlite:///{tmp_path}/schedules.db"
        monkeypatch.setattr(aiotaskq.app.settings, "_settings", Settings(url, url, True, "memory://"))
    tq, ran = TaskQ("memory://"), asyncio.Event()

    @tq.task
    async def tick() -> None:
        ran.set()

    async with tq.running(scheduler=fires):
        await tq.schedules.add("now", tick, at=0)
        assert tq._scheduler.running is fires
        if fires:
            async with asyncio.timeout(within(10)):
                await ran.wait()
    assert not tq._scheduler.running
    assert [path.name for path in tmp_path.glob("*.db")] == (["schedules.db"] if named else [])


async def test_the_options_of_a_change_are_named_once(tmp_path: Path) -> None:
    async with TaskQ(f"sqlite:///{tmp_path}/x.db") as tq:
        await tq.schedules.add("a", "t", interval=60)
        with pytest.raises(ValidationError) as error:
            await tq.schedules.update("a", nonsense_of_ours=1)  # type: ignore[call-arg]
    assert str(error.value).count("misfire") == 1
