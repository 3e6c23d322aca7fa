"""Connections to a database server that are cut at any statement."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from aiotaskq import TaskQ
from aiotaskq.backends.base import ScheduleChange
from aiotaskq.backends.sql.backend import SqlBackend
from aiotaskq.core.firing import derived_id
from aiotaskq.core.task import SECOND, TaskFilter
from aiotaskq.errors import DatabaseUnavailable
from tests.backends.outage.place import Place, fill_pool
from tests.support.proxy import Proxy
from tests.support.rows import NOW, new, new_schedule


async def renew_pool(backend: SqlBackend) -> None:
    """Have the next verb open a connection, on which statements are sent with all their words."""
    await (await backend.database.connections()).dispose()


async def test_a_commit_whose_answer_is_lost(place: Place, far: SqlBackend, proxy: Proxy) -> None:  # A20
    for number in range(1, 4):
        tasks = [new() for _ in range(501)]  # more than one statement, so there is a commit
        proxy.cut_on(place.commit)
        with pytest.raises(DatabaseUnavailable):
            await far.push(tasks)
        assert proxy.cuts == number
        assert await far.push(tasks) == tasks
        assert (await far.stats(NOW)).counts["pending"] == number * 501


async def test_a_push_that_raises_may_be_repeated_with_its_ids(place: Place, proxy: Proxy) -> None:  # A20
    count = 501  # more than one statement, so there is a commit
    async with TaskQ(place.through(proxy)) as tq:
        assert isinstance(tq.queue.backend, SqlBackend)
        await fill_pool(tq.queue.backend)  # a new connection to MySQL begins with a COMMIT
        proxy.cut_on(place.commit)
        with pytest.raises(DatabaseUnavailable) as refused:
            await tq.push_many([("job", {"n": n}) for n in range(count)])
        assert len(set(refused.value.task_ids)) == count
        calls = [{"type": "job", "params": {"n": n}, "task_id": name} for n, name in enumerate(refused.value.task_ids)]
        handles = await tq.push_many(calls)
        assert not any(handle.created for handle in handles)
        assert (await tq.stats()).counts["pending"] == count
        proxy.refuse()
        with pytest.raises(DatabaseUnavailable) as other:
            await tq.stats()
        assert other.value.task_ids == ()
        proxy.heal()


async def test_a_connection_cut_before_the_commit_is_not_noticed(far: SqlBackend, proxy: Proxy) -> None:
    for number, deliver in enumerate((True, False), 1):
        await renew_pool(far)
        proxy.cut_on(b"INSERT INTO task_queue", deliver=deliver)
        await far.push([new()])
        assert proxy.cuts == number
        assert (await far.stats(NOW)).counts["pending"] == number


@pytest.mark.parametrize("deliver", [True, False])
async def test_a_cut_at_each_statement_of_a_fire(  # C21, C9
    place: Place, far: SqlBackend, proxy: Proxy, deliver: bool
) -> None:
    (schedule,) = await far.schedules.add([new_schedule()])
    words = (b"SELECT", b"UPDATE scheduler_task", b"INSERT INTO task_queue", place.commit)
    for fired, word in enumerate(words, 1):
        await renew_pool(far)
        proxy.cut_on(word, deliver=deliver)
        cuts = proxy.cuts
        task = new(scheduler_task_id=schedule.task_id)
        after = schedule.replace(run_count=schedule.run_count + 1)
        while True:  # as the scheduler does, which reads anew what is due
            (row,) = await far.schedules.get([schedule.task_id])
            assert row is not None
            if row.run_count == after.run_count:
                break
            with contextlib.suppress(DatabaseUnavailable):
                await far.schedules.change([ScheduleChange(row, after, (task,))])
        schedule = row
        assert proxy.cuts == cuts + 1, word
        assert (await far.stats(NOW)).counts["pending"] == fired
        assert await far.get([task.task_id]) == [task]


async def test_a_scheduler_lives_through_cuts(place: Place, proxy: Proxy) -> None:  # C21
    tq = TaskQ(place.through(proxy), poll_interval=0.2)

    @tq.schedule(interval=1, misfire="fire_all")  # also where a cut, or the machine, takes longer than a second
    @tq.task
    async def tick() -> None:
        pass

    async with tq.running(concurrency=2):
        for round_ in range(8):
            await asyncio.sleep(0.4)  # real connections are cut while real work goes on
            if round_ % 2:
                proxy.cut_on(place.commit)
            else:
                proxy.reset()
        proxy.heal()
        await asyncio.sleep(1)  # the schedule fires on the real clock after the last cut
    backend = SqlBackend(place.url)
    (schedule,) = await backend.schedules.all()
    following = schedule.due
    assert following is not None and schedule.run_count >= 3
    dues = [following - back * SECOND for back in range(1, schedule.run_count + 1)]
    tasks = await backend.find(TaskFilter(scheduler_task_id=schedule.task_id), 100)
    # One for each second, none twice and none left out.
    assert {task.task_id for task in tasks} == {derived_id(schedule.task_id, due) for due in dues}
    await backend.close()
