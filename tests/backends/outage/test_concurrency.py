"""Deadlocks, many workers, cancelled callers and ended loops on a database server."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import pytest
from sqlalchemy import Connection, text

from aiotaskq.backends.base import Change, ScheduleChange
from aiotaskq.backends.sql.backend import SqlBackend
from aiotaskq.core.outcome import Completed, settle
from aiotaskq.core.status import Status
from aiotaskq.core.task import Task, TaskFilter
from tests.backends.outage.place import Place, fill_pool, only
from tests.support.machine import within
from tests.support.rows import LEASE, NOW, new, new_schedule


async def settled(answer: Callable[[], Any], wanted: Any, patience: float = 5.0) -> None:
    """Wait until the answer is the wanted one."""
    end = time.monotonic() + within(patience)
    while (got := await asyncio.to_thread(answer)) != wanted:
        assert time.monotonic() < end, f"{got} is not {wanted}"
        await asyncio.sleep(0.05)


# ---- many at once ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["mysql"], indirect=True)
async def test_one_winner_however_rows_are_counted(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:  # C4
    import asyncmy
    from asyncmy.constants import CLIENT

    connect, flags = asyncmy.connect, itertools.cycle([CLIENT.FOUND_ROWS, 0])
    backends = [SqlBackend(place.url) for _ in range(8)]
    flag_of = {id(backend): next(flags) for backend in backends}
    opening = ContextVar("opening", default=CLIENT.FOUND_ROWS)

    def counting(**options: Any) -> Any:
        return connect(**{**options, "client_flag": opening.get()})

    monkeypatch.setattr(asyncmy, "connect", counting)
    counts: set[int] = set()

    async def compete(backend: SqlBackend, item: ScheduleChange) -> bool:
        opening.set(flag_of[id(backend)])
        # The premise: how many rows a write of the same value has found differs.
        same = text("UPDATE scheduler_task SET version = version")
        counts.add(await backend.database.write(lambda connection: connection.execute(same).rowcount))
        (held,) = await backend.schedules.change([item])
        return held

    (schedule,) = await backends[0].schedules.add([new_schedule()])
    for run in range(5):
        # The same values again, so that "changed" would say no: only the guard decides.
        item = ScheduleChange(schedule, schedule, (new(task_id=f"fired-{run}"),))
        won = await asyncio.gather(*(compete(backend, item) for backend in backends))
        assert sorted(won) == [False] * 7 + [True]
        assert len(await backends[0].find(TaskFilter(), 9)) == run + 1
        schedule = schedule.replace(version=schedule.version + 1)
    assert counts == {0, 1}
    for backend in backends:
        await backend.close()


async def test_a_deadlock_is_settled_inside(backend: SqlBackend) -> None:  # F12
    first, second = await backend.push([new(), new()])
    runs = 0

    def body(*ids: str) -> Callable[[Connection], None]:
        def touch(connection: Connection) -> None:
            nonlocal runs
            runs += 1
            for task_id in ids:
                connection.execute(text("UPDATE task_queue SET fence = fence + 1 WHERE task_id = :id"), {"id": task_id})

        return touch

    there, back = body(first.task_id, second.task_id), body(second.task_id, first.task_id)
    rounds = 0
    while runs == 2 * rounds:  # until one of them had to give way
        rounds += 1
        assert rounds < 500
        await asyncio.gather(backend.database.write(there), backend.database.write(back))
    rows = await backend.get([first.task_id, second.task_id])
    assert [row.fence for row in rows if row] == [2 * rounds] * 2


@only("mysql")  # a setting of MariaDB's
async def test_locking_reads_see_what_is_there_now(backend: SqlBackend) -> None:  # F12
    query = text("SHOW SESSION VARIABLES LIKE 'innodb_snapshot_isolation'")
    found = await backend.database.read(lambda connection: connection.execute(query).all())
    assert [tuple(row) for row in found] in ([], [("innodb_snapshot_isolation", "OFF")])


async def test_many_workers_and_producers_meet_no_error(place: Place) -> None:  # F12
    total, each = 600, 10
    backends = [SqlBackend(place.url) for _ in range(4)]
    await asyncio.gather(*(backend.open() for backend in backends))
    left = total
    seen: list[tuple[str, int]] = []

    async def produce(backend: SqlBackend) -> None:
        nonlocal left
        while left > 0:
            left -= each
            await backend.push([new(priority=random.randint(0, 3)) for _ in range(each)])

    async def work(backend: SqlBackend, owner: str) -> None:
        while len(seen) < total:
            claimed = await backend.claim(owner, NOW, random.choice([1, 7, 20]), lease_until=LEASE)
            seen.extend((task.task_id, task.fence) for task in claimed)
            assert len((await backend.workers.held([owner]))[owner]) == len(claimed)
            ends = [Change(task, settle(task, Completed(1), NOW)) for task in claimed]
            assert all(await backend.update(ends))

    async with asyncio.TaskGroup() as group:
        for number in range(8):
            group.create_task(work(backends[number % 4], f"o{number}"))
        for number in range(4):
            group.create_task(produce(backends[number % 4]))
    assert len(seen) == len(set(seen)) == total
    assert (await backends[0].stats(NOW)).counts["completed"] == total
    for backend in backends:
        await backend.close()


# ---- cancelled callers ----------------------------------------------------------------------------------------------


@pytest.mark.no_cover  # many times the same lines
async def test_cancelled_callers_leak_no_connection(place: Place, backend: SqlBackend) -> None:  # F3, F4
    await fill_pool(backend)
    limit = 10  # the pool's size, with what it may have beyond
    most = 0
    over = asyncio.Event()

    async def look() -> None:
        nonlocal most
        while not over.is_set():
            most = max(most, len(await asyncio.to_thread(place.connections)))
            await asyncio.sleep(0.02)

    async def one(number: int) -> bool:
        verbs: list[Callable[[], Awaitable[Any]]] = [
            lambda: backend.push([new(type="cancelled"), new(type="cancelled")]),
            lambda: backend.claim("o", NOW, 2, lease_until=LEASE),
            lambda: backend.stats(NOW),
        ]
        caller = asyncio.ensure_future(verbs[number % 3]())
        await asyncio.sleep(random.uniform(0, 0.02))
        caller.cancel()
        try:
            await caller
        except asyncio.CancelledError:
            return True
        return False

    looking = asyncio.create_task(look())
    cancelled = 0
    for start in range(0, 800 if place.is_postgresql else 400, 40):
        cancelled += sum(await asyncio.gather(*(one(start + n) for n in range(40))))
        while len(backend.database._running) > 40:  # what was left behind runs to its end; a busy machine needs longer
            await asyncio.sleep(0.01)
    over.set()
    await looking
    assert cancelled > 200
    assert 0 < most <= limit
    await backend.stats(NOW)
    while backend.database._running:
        await asyncio.sleep(0.01)
    await settled(lambda: len(place.connections()) <= 5, True)
    # Each pair is there wholly or not at all.
    assert sum((await backend.stats(NOW)).counts.values()) % 2 == 0
    task = new()
    assert await backend.push([task]) == [task]


async def test_a_loop_that_ends_leaves_no_transaction(place: Place) -> None:  # F3
    def main() -> None:
        async def leave() -> None:
            backend = SqlBackend(place.url)
            await backend.open()
            asyncio.ensure_future(backend.push([new() for _ in range(2_000)]))  # noqa: RUF006 - it is left alone
            await asyncio.sleep(0.01)

        asyncio.run(leave())

    await asyncio.to_thread(main)
    backend = SqlBackend(place.url)
    assert (await backend.stats(NOW)).ready in (0, 2_000)
    claimed: list[Task] = await backend.claim("o", NOW, 1, lease_until=LEASE)
    assert all(task.status is Status.RUNNING for task in claimed)
    await backend.purge(TaskFilter(), 1)
    await backend.close()
