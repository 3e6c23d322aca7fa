"""A locked row delays only the calls that need that row."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import event, select, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from aiotaskq.backends.base import Change, Claim, Room, ScheduleChange
from aiotaskq.backends.sql.engines import sync_engine
from aiotaskq.backends.sql.rows import GATES, TASKS
from aiotaskq.backends.sql.schedules import SCHEDULES
from aiotaskq.backends.sql.tasks import clock
from aiotaskq.core.gate import Bounds, Flow
from aiotaskq.core.outcome import Completed, settle
from aiotaskq.core.parking import parked
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task
from tests.support.backends import Store
from tests.support.machine import within
from tests.support.rows import LEASE, NOW, ids, new, new_schedule, read, worker_info
from tests.support.sql import tx_on
from tests.support.waiting import eventually

AT_ONCE = 3.0  # seconds; a lock is waited for longer

pytestmark = pytest.mark.stores("postgresql", "mysql")  # SQLite locks the file, not rows


@pytest.fixture
def server(sql_store: Store) -> Store:
    return sql_store


@contextlib.contextmanager
def holding(store: Store, query: Any) -> Iterator[Any]:
    """A transaction that has locked the rows of a query."""
    engine = sync_engine(store.url)
    try:
        with engine.connect() as connection:
            connection.execute(query.with_for_update()).all()
            yield connection
            connection.rollback()
    finally:
        engine.dispose()


@contextlib.contextmanager
def unlocked(store: Store, column: Any) -> Iterator[Callable[[], list[str]]]:
    """Return what reads, in order, this column of the rows that no transaction has locked."""
    engine = sync_engine(store.url)

    def read() -> list[str]:
        with engine.connect() as connection:
            return sorted(connection.execute(select(column).with_for_update(skip_locked=True)).scalars())

    try:
        yield read
    finally:
        engine.dispose()


def locked(store: Store, task: Task) -> contextlib.AbstractContextManager[Any]:
    """A transaction that holds the row, as ``complete(session=...)`` leaves it until its commit."""
    return holding(store, select(TASKS.c.task_id).where(TASKS.c.task_id == task.task_id))


def locked_gate(store: Store, key: str) -> contextlib.AbstractContextManager[Any]:
    """A transaction that admits this gate."""
    return holding(store, select(GATES.c.key).where(GATES.c.key == key))


async def three(store: Store) -> list[Task]:
    await store.backend.push([new() for _ in range(3)])
    return await store.backend.claim("o", NOW, 3, lease_until=LEASE)


async def test_a_heartbeat_and_a_comparison_wait_for_no_task(server: Store) -> None:
    workers = server.backend.workers
    assert workers is not None
    await workers.register(worker_info())
    await server.backend.push([new() for _ in range(2)])
    first, second = await server.backend.claim("w", NOW, 2)
    await server.backend.request_cancel([first.task_id])
    with locked(server, first):
        async with asyncio.timeout(min(within(AT_ONCE), 30.0)):
            assert await workers.heartbeat(worker_info(lease_until=LEASE + SECOND))
            held = (await workers.held(["w"]))["w"]
            assert await workers.remove(worker_info(lease_until=LEASE + SECOND))
            assert len(await server.backend.overdue(NOW, 10)) == 2
    assert sorted(held) == sorted([(first.task_id, 1, True), (second.task_id, 1, False)])


async def test_progress_of_a_locked_row_is_not_written(server: Store) -> None:
    tasks = await three(server)
    progress = [(task.task_id, task.fence, {"done": n}) for n, task in enumerate(tasks)]
    with locked(server, tasks[1]):
        async with asyncio.timeout(min(within(AT_ONCE), 30.0)):
            # Or a handler that has completed in its own transaction would wait for itself.
            assert await server.backend.report(progress) == [True, True, True]
    assert [(await read(server.backend, task)).progress for task in tasks] == [{"done": 0}, None, {"done": 2}]


async def test_a_reaper_does_not_take_a_locked_row(server: Store) -> None:
    tasks = await three(server)
    changes = [Change(task, task.replace(status=Status.PENDING, lease_until=None), lease_over=True) for task in tasks]
    with locked(server, tasks[1]):
        async with asyncio.timeout(min(within(AT_ONCE), 30.0)):
            assert await server.backend.update(changes) == [True, False, True]
    assert await server.backend.update(changes) == [False, True, False]


async def test_an_outcome_waits_for_its_row(server: Store) -> None:
    tasks = await three(server)
    done = Change(tasks[1], tasks[1].replace(status=Status.COMPLETED, completed_at=1, lease_until=None))
    with locked(server, tasks[1]) as connection:
        update = asyncio.create_task(server.backend.update([done]))
        await asyncio.wait([update], timeout=0.2)
        assert not update.done()
        connection.rollback()
        assert await update == [True]


async def test_no_call_waits_for_a_row_that_it_does_not_need(server: Store) -> None:
    # MySQL would read so small a table from end to end, and wait for each row on its way.
    tasks = await three(server)
    pending = [new() for _ in range(2)]
    await server.backend.push(pending)
    with locked(server, tasks[1]):
        async with asyncio.timeout(min(within(AT_ONCE), 30.0)):
            claimed = await server.backend.claim("o", NOW, 2, lease_until=LEASE)
            assert ids(claimed) == ids(pending)
            assert await server.backend.request_cancel(ids(claimed)) == [True, True]
            assert await server.backend.update([Change(tasks[0], tasks[0].replace(status=Status.COMPLETED))]) == [True]


async def test_a_cancel_waits_for_the_transaction_that_ends_the_task(server: Store) -> None:
    tasks = await three(server)
    with locked(server, tasks[0]) as connection:
        cancel = asyncio.create_task(server.backend.request_cancel(ids(tasks[:2])))
        await asyncio.wait([cancel], timeout=0.2)
        assert not cancel.done()
        ended = text("UPDATE task_queue SET status = 'completed' WHERE task_id = :i")
        connection.execute(ended, {"i": tasks[0].task_id})
        connection.commit()
        assert await cancel == [False, True]


async def test_many_writers_of_the_same_rows_wait_in_one_direction(server: Store) -> None:  # F12
    await server.backend.push([new() for _ in range(300)])
    tasks = await server.backend.claim("o", NOW, 300, lease_until=LEASE)
    other = await server.another()
    lost: list[Any] = []

    def note(context: Any) -> None:
        lost.append(context.original_exception)

    for backend in (server.backend, other):
        event.listen((await backend.database.connections()).sync_engine, "handle_error", note)  # type: ignore[attr-defined]
    same = [Change(task, task) for task in tasks]
    for _ in range(30):
        answers = await asyncio.gather(
            server.backend.update(same),
            other.update(same[::-1]),
            server.backend.report([(task.task_id, task.fence, {"done": 1}) for task in tasks[::-1]]),
        )
        assert all(answers[0]) and all(answers[1])
    assert lost == []


@pytest.mark.parametrize("table", ["fresh", "bloated"])
async def test_rows_are_locked_in_the_order_of_their_ids(server: Store, table: str) -> None:  # F12
    if table == "bloated":
        await _bloat(server)
    made = [new() for _ in range(100)]
    await server.backend.push([made[37 * number % 100] for number in range(100)])  # another order in the table
    tasks = sorted(await server.backend.claim("o", NOW, 100, lease_until=LEASE), key=lambda task: task.task_id)
    if table == "bloated":
        _vacuum(server)
    with locked(server, tasks[50]), unlocked(server, TASKS.c.task_id) as free_ids:
        update = asyncio.create_task(server.backend.update([Change(task, task) for task in tasks]))
        await eventually(lambda: free_ids() == ids(tasks[51:]))
        assert not update.done()
        free = await server.backend.report([(task.task_id, task.fence, {"done": 1}) for task in tasks])
        assert all(free)
    assert all(await update)
    # A locked row is left out of a report.
    written = [task.progress is not None for task in await server.backend.get(ids(tasks)) if task is not None]
    assert written == [False] * 51 + [True] * 49


async def test_schedules_are_locked_in_the_order_of_their_ids(server: Store) -> None:  # F12
    schedules = server.backend.schedules
    assert schedules is not None
    made = [new_schedule(task_id=f"{number:02}") for number in range(20)]
    await schedules.add([made[7 * number % 20] for number in range(20)])
    tenth = select(SCHEDULES.c.task_id).where(SCHEDULES.c.task_id == "10")
    with holding(server, tenth) as connection, unlocked(server, SCHEDULES.c.task_id) as free_ids:
        changes = [ScheduleChange(schedule, schedule.replace(run_count=1)) for schedule in made]
        change = asyncio.create_task(schedules.change(changes[::-1]))
        await eventually(lambda: free_ids() == [schedule.task_id for schedule in made[11:]])
        assert not change.done()
        connection.rollback()
        assert all(await change)


async def _bloat(server: Store) -> None:
    """Leave a large index of few rows, as a backlog does that has been worked off."""
    for _ in range(50):
        await server.backend.push([new() for _ in range(500)])
    server.execute("DELETE FROM task_queue")
    _vacuum(server)


def _vacuum(server: Store) -> None:
    if server.name == "mysql":
        return
    engine = sync_engine(server.url).execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("VACUUM ANALYZE task_queue"))
    engine.dispose()


async def test_the_clock_is_utc_whatever_the_zone(server: Store) -> None:  # C12
    engine = sync_engine(server.url)
    mysql = server.name == "mysql"
    zones = ("+00:00", "+09:00", "-11:30") if mysql else ("UTC", "Asia/Tokyo", "-09:00")
    here = await server.backend.ping()
    assert here is not None
    with engine.connect() as connection:
        for zone in zones:
            connection.exec_driver_sql(f"SET time_zone = '{zone}'" if mysql else f"SET TIME ZONE '{zone}'")
            there = clock(tx_on(connection))
            assert there is not None and abs(there - here) < 60 * SECOND
    engine.dispose()


async def test_a_slot_goes_to_the_next_where_the_first_is_locked(server: Store) -> None:
    backend, flow = server.backend, Flow(gates=(("g", Bounds(cap=1)),))
    tasks = [parked(new(flow=flow, seq=NOW + number), NOW) for number in range(4)]
    await backend.push(tasks)
    running = await backend.claim("o", NOW, 9, lease_until=LEASE)
    assert ids(running) == [tasks[0].task_id]
    with locked(server, tasks[1]):
        async with asyncio.timeout(min(within(AT_ONCE), 30.0)):
            _, running = await backend.exchange([_done(running[0])], Claim("o", NOW, 9, lease_until=LEASE))
    assert ids(running) == [tasks[2].task_id]
    # The slot is free while the next ones are locked: a sweep lets them pass afterwards.
    with locked(server, tasks[1]), locked(server, tasks[3]):
        async with asyncio.timeout(min(within(AT_ONCE), 30.0)):
            assert await backend.exchange([_done(running[0])], Claim("o", NOW, 9, lease_until=LEASE)) == ([True], [])
    await backend.gates.admit(NOW + SECOND, 9)
    assert ids(await backend.claim("o", NOW + SECOND, 9, lease_until=LEASE)) == [tasks[1].task_id]


def at(*keys: str, number: int = 0) -> Task:
    """A task parked at the first of these gates, each with one slot."""
    flow = Flow(gates=tuple((key, Bounds(cap=1)) for key in keys))
    return parked(new(flow=flow, seq=NOW + number), NOW)


async def test_a_gate_that_another_transaction_has_locked_is_admitted_when_it_is_free(server: Store) -> None:
    backend, first, second = server.backend, at("near"), at("near", "far", number=1)
    await backend.push([first, second])
    running = await backend.claim("o", NOW, 9, lease_until=LEASE)
    assert ids(running) == [first.task_id]
    with locked_gate(server, "far") as connection:
        # The second task passes the near gate, and comes to the far one, which this transaction has not locked.
        update = asyncio.create_task(backend.update([_done(running[0])]))
        await asyncio.wait([update], timeout=0.2)
        assert not update.done()
        connection.rollback()
        async with asyncio.timeout(within(10)):
            assert await update == [True]
    assert ids(await backend.claim("o", NOW, 9, lease_until=LEASE)) == [second.task_id]


@pytest.mark.parametrize("work", ["a push", "the end of a task", "the ends of two tasks"])
async def test_gates_are_locked_in_the_order_of_their_keys(server: Store, work: str) -> None:
    # Else two transactions could wait for each other.
    backend, two = server.backend, [at("z"), at("a", number=1)]
    tasks = [at("z", "a")] if work == "the end of a task" else two
    await backend.push(tasks)
    running = await backend.claim("o", NOW, 9, lease_until=LEASE)
    assert len(running) == len(tasks)
    with locked_gate(server, "a") as connection:
        ends = [_done(task) for task in running]
        waiting: asyncio.Task[object]
        waiting = asyncio.create_task(backend.push([at("z"), at("a")]) if work == "a push" else backend.update(ends))
        await asyncio.wait([waiting], timeout=0.2)
        assert not waiting.done()
        free = select(GATES.c.key).where(GATES.c.key == "z").with_for_update(skip_locked=True)
        assert connection.execute(free).scalars().all() == ["z"]
        connection.rollback()
        async with asyncio.timeout(within(10)):
            await waiting


def _done(task: Task) -> Change:
    return Change(task, settle(task, Completed(), NOW))


async def test_a_full_queue_makes_no_push_wait_for_the_transaction_of_a_handler(server: Store) -> None:
    backend, other = server.backend, await server.another()
    (task,) = await backend.push([new(unique_key="k")])
    (held,) = await backend.claim("o", NOW, 1, lease_until=LEASE)
    await backend.push([new(), new(), new()])
    engine = create_async_engine(server.place)
    async with AsyncSession(engine) as session:
        await backend.update_with(session, [Change(held, settle(held, Completed(1), NOW))])
        async with asyncio.timeout(within(AT_ONCE)):
            (found,) = await backend.push([new(unique_key="k")], Room(3, NOW))
            await other.push([new()], Room(100, NOW))  # no push holds the lock of all pushes with a bound
        await session.commit()
    assert found.task_id == task.task_id
    await engine.dispose()
