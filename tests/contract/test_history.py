"""The history on each store: what is added under one key is the sum, over all processes and ages."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest

from aiotaskq.app.taskq import TaskQ
from aiotaskq.backends.base import Backend
from aiotaskq.backends.history import KIND
from aiotaskq.backends.side_rows import Range, SideRow
from aiotaskq.core.history import (
    DAY,
    HOUR,
    MINUTE,
    QUARTER,
    Period,
    Roll,
    Sums,
    added_up,
    begin_of,
    hours_from,
    rolls,
    widened,
)
from aiotaskq.core.task import SECOND
from aiotaskq.errors import TaskFailed
from aiotaskq.runtime.context import current_task
from tests.support.backends import Store
from tests.support.logs import logged
from tests.support.machine import within

NOW = begin_of(1_790_000_000 * SECOND, DAY)


def period(
    at: int = NOW,
    *,
    queue: str = "default",
    type: str = "mail",
    kind: str = "completed",
    runs: tuple[int, ...] = (1_000,),
) -> Period:
    sums = Sums()
    sums.add_runs(list(runs), [run * 7 for run in runs])
    return sums.period((at, MINUTE, queue, type, kind, ""))


async def everything(backend: Backend) -> list[Period]:
    return await backend.history.read(0, NOW * 2, hours_from(NOW))


async def test_what_is_added_is_read(backend: Backend) -> None:
    await backend.history.add([])
    assert await everything(backend) == []
    lost = Period(NOW, MINUTE, "Mail ", "übersetzen|a b", "lost", 2)
    given = [period(NOW + 60 * SECOND, runs=(5, 900, 10**9)), period(), lost]
    await backend.history.add(given)
    assert await everything(backend) == sorted(given, key=lambda period: period.key)


async def test_equal_keys_are_summed_and_others_are_not(backend: Backend) -> None:
    await backend.history.add([period(runs=(10, 20)), period(runs=(20, 10**7))])
    await backend.history.add([period(runs=(3, 10**12))])
    others = [period(queue="other"), period(type="Mail"), period(kind="failed"), period(NOW + 60 * SECOND)]
    await backend.history.add(others)
    expected = added_up([period(runs=(10, 20, 20, 10**7, 3, 10**12)), *others])
    found = await everything(backend)
    assert found == expected
    (mail,) = [p for p in found if p.key == period().key]
    assert (mail.n, mail.run_us) == (6, 10**12 + 10**7 + 53)


async def test_a_range_a_queue_and_a_type_restrict(backend: Backend) -> None:
    minutes = [NOW + minute * 60 * SECOND for minute in range(5)]
    await backend.history.add([period(at, queue=queue, type=type) for at in minutes for queue in "ab" for type in "xy"])
    assert {p.at for p in await backend.history.read(minutes[1], minutes[3], 0)} == {minutes[1], minutes[2]}
    found = await backend.history.read(minutes[0], minutes[2], 0, queue="a", type="y")
    assert [p.key for p in found] == [(at, MINUTE, "a", "y", "completed", "") for at in minutes[:2]]
    assert len(await backend.history.read(0, NOW * 2, 0, type="x")) == 10
    assert await backend.history.read(minutes[1], minutes[1], 0) == []


async def test_many_minutes_are_read_in_order(backend: Backend) -> None:
    given = [period(NOW + minute * 60 * SECOND) for minute in range(250)]
    await backend.history.add(random.sample(given, len(given)))
    assert await everything(backend) == given


async def test_old_periods_are_rolled_into_longer_ones(backend: Backend) -> None:
    minutes = [period(NOW + minute * 60 * SECOND, runs=(minute + 1,)) for minute in range(125)]
    await backend.history.add(minutes)
    roll = Roll(MINUTE, (HOUR, DAY), NOW + 2 * HOUR * SECOND)
    assert await _roll(backend, roll, 50) == 120
    hours = added_up([*_as_hours(minutes[:120]), *minutes[120:]])
    assert await everything(backend) == hours
    assert [p.n for p in hours] == [60, 60, 1, 1, 1, 1, 1]
    late = period(NOW, runs=(77,))  # by a worker that could not write for days
    await backend.history.add([late])
    assert await _roll(backend, roll, 50) == 1
    hours = added_up([*_as_hours([*minutes[:120], late]), *minutes[120:]])
    assert await everything(backend) == hours
    assert await _roll(backend, Roll(HOUR, (), NOW + HOUR * SECOND), 50) == 3  # of this hour, one for each roll
    assert await everything(backend) == hours[1:]


async def test_days_are_the_sums_of_hours_as_long_as_these_are_there_and_after(backend: Backend) -> None:
    end = NOW + 3 * DAY * SECOND
    await backend.history.add([period(at, runs=(at % 97,)) for at in range(NOW, end, 2_000 * SECOND)])
    assert await _roll(backend, Roll(MINUTE, (HOUR, DAY), NOW + DAY * SECOND), 50) == 44
    await backend.history.add([period(NOW, runs=(77,))])  # by a worker that could not write for days
    assert await _roll(backend, Roll(MINUTE, (HOUR, DAY), end - DAY * SECOND), 50) == 44
    hours = await backend.history.read(0, end, NOW)
    assert {p.seconds for p in hours} == {HOUR, MINUTE} and sum(p.n for p in hours) == 131
    days = added_up([widened(p, DAY) if p.seconds == HOUR else p for p in hours])
    assert await backend.history.read(0, end, end) == days
    await _roll(backend, Roll(HOUR, (), NOW + DAY * SECOND), 50)
    assert await backend.history.read(0, end, end) == days
    mixed = await backend.history.read(0, end, NOW + DAY * SECOND)
    assert added_up([widened(p, DAY) if p.seconds == HOUR else p for p in mixed]) == days
    assert {p.seconds for p in mixed} == {DAY, HOUR, MINUTE}


async def _roll(backend: Backend, roll: Roll, limit: int) -> int:
    total = 0
    while rolled := await backend.history.roll(roll, limit):
        assert rolled <= limit
        total += rolled
    return total


def _as_hours(minutes: list[Period]) -> list[Period]:
    sums: dict[int, Sums] = {}
    for minute in minutes:
        sums.setdefault(begin_of(minute.at, HOUR), Sums()).add(minute)
    return [found.period((at, HOUR, "default", "mail", "completed", "")) for at, found in sums.items()]


@pytest.mark.parametrize("damage", ['[["x"', '[["q","t","completed",1,7,7,"x:1","",{}]]'])
async def test_a_row_that_cannot_be_read_is_kept_and_told(backend: Backend, damage: str) -> None:
    await backend.history.add([period(), period(NOW + 60 * SECOND)])
    rows = await backend.side.read(Range(KIND, 0))
    await backend.side.put(KIND, [SideRow(rows[0].name, damage)])
    with logged("WARNING") as lines:
        assert await everything(backend) == [period(NOW + 60 * SECOND)]
        assert await _roll(backend, Roll(MINUTE, (HOUR,), NOW + HOUR * SECOND), 1) == 2
    assert rows[0].name in lines[0]
    assert [row.text for row in await backend.side.read(Range(KIND, 0))][1:] == [damage]
    assert await _roll(backend, Roll(HOUR, (), NOW + 2 * HOUR * SECOND), 50) == 2
    assert await backend.side.read(Range(KIND, 0)) == []


async def test_a_quarter_of_a_year_is_kept(backend: Backend) -> None:
    begins = [NOW - day * DAY * SECOND + hour * HOUR * SECOND for day in range(100) for hour in (3, 4)]
    await backend.history.add([period(at) for at in begins])
    for roll in rolls(NOW):
        await _roll(backend, roll, 1_000)
    found = await everything(backend)
    assert [p.seconds for p in found] == [DAY] * 60 + [HOUR] * 56 + [QUARTER] * 4 + [MINUTE] * 2
    assert sum(p.n for p in found) == 182
    assert found[0].at == NOW - 90 * DAY * SECOND


async def test_workers_that_write_the_same_minute_lose_nothing(shared_store: Store) -> None:
    backends = [shared_store.backend, await shared_store.another()]
    old = [period(NOW - minute * 60 * SECOND) for minute in range(1, 21)]

    async def write(backend: Backend) -> None:
        for number in range(10):
            await backend.history.add([period(runs=(number, number + 1)), period(type="b"), old[2 * number]])
            await backend.history.add([period(type="b"), period(), old[2 * number + 1]])

    async def roll(backend: Backend) -> None:
        for _ in range(10):
            await backend.history.roll(Roll(MINUTE, (HOUR, DAY), NOW), 3)

    await asyncio.gather(*(work(backend) for backend in backends for work in (write, write, roll)))
    while await backends[0].history.roll(Roll(MINUTE, (HOUR, DAY), NOW), 100):
        pass
    found = await everything(backends[1])
    assert [(p.seconds, p.type, p.n) for p in found] == [(HOUR, "mail", 80), (MINUTE, "b", 80), (MINUTE, "mail", 120)]
    for each in found:
        assert sum(int(pair.split(":")[1]) for pair in each.runs.split()) == each.n


async def test_what_workers_did_is_there_when_they_have_stopped(store: Store) -> None:
    tq = TaskQ(store.url, poll_interval=0.05)

    @tq.task(max_retries=1, backoff=0)
    async def fails() -> None:
        raise ValueError("no")

    @tq.task
    async def works(seconds: float) -> None:
        await asyncio.sleep(seconds)

    async with tq:
        async with tq.running(concurrency=4):
            handles = [await works.push(seconds=0.02) for _ in range(5)]
            failing = await fails.push()
            late = await works.options(queue="late").push(seconds=0)
            for handle in (*handles, late):
                await handle.result(within(20))
            with pytest.raises(TaskFailed):
                await failing.result(within(20))
        found = await tq.history(step=DAY)
        assert [(p.queue, p.type, p.kind, p.n) for p in found] == [
            ("default", "fails", "failed", 1),
            ("default", "fails", "retried", 1),
            ("default", "works", "completed", 5),
            ("late", "works", "completed", 1),
        ]
        assert found[2].run_seconds >= 0.1
        assert (found[2].run_percentile(50) or 0) >= 0.02 * 15 / 16
        assert await tq.history(type="works", queue="late", step=DAY) == [found[3]]


async def test_tags_have_sums_of_their_own(store: Store) -> None:
    tq = TaskQ(store.url, history_tags=("tenant", "team"))

    @tq.task(max_retries=0, tags={"team": "shop", "order": "17"})
    async def bill(fails: bool = False) -> None:
        current_task().usage(rows=2)
        if fails:
            raise ValueError("no")

    async def read(tag: str | None = None) -> list[tuple[str, str, int, object]]:
        return [(p.tag, p.kind, p.n, p.usage.get("rows")) for p in await tq.history(tag=tag, step=DAY)]

    async with tq, tq.running():
        acme = bill.options(tags={"tenant": "acme"})
        handles = [await acme.push(), await acme.push(fails=True)]
        handles += [await bill.options(tags={"tenant": "zeta=x"}).push(), await bill.push()]
        for handle in handles:
            with contextlib.suppress(TaskFailed):
                await handle.result(within(20))
    async with tq:
        all_tasks = [("completed", 3, None), ("failed", 1, None), ("used", 0, 8)]
        assert await read() == [("", *each) for each in all_tasks]
        assert await read("team=shop") == [("team=shop", *each) for each in all_tasks]
        of_acme = [("tenant=acme", "completed", 1, None), ("tenant=acme", "failed", 1, None)]
        assert await read("tenant=acme") == [*of_acme, ("tenant=acme", "used", 0, 4)]
        assert {tag for tag, *_ in await read("tenant")} == {"tenant=acme", "tenant=zeta=x"}
        assert await read("ten") == await read("tenant=a") == await read("order=17") == []
        # They are kept for as long as those of all tasks.
        now = tq.queue.clock.now() + 4 * HOUR * SECOND
        for roll in rolls(now):
            await tq.queue.backend.history.roll(roll, 1_000)
        assert [(p.seconds, p.tag) for p in await tq.history(tag="tenant=acme")] == [(QUARTER, "tenant=acme")] * 3
