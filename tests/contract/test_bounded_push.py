"""``push`` into a bounded queue: an exact bound on ready tasks in all processes, and which tasks make room."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine

from aiotaskq import TaskQ
from aiotaskq.app.handle import TaskCall
from aiotaskq.backends.base import Backend, Change, Room
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core.ids import new_id
from aiotaskq.core.outcome import Cancelled, Completed, settle
from aiotaskq.core.plan import Node, Outline, plan
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task
from aiotaskq.errors import QueueFull, ValidationError
from tests.support.backends import Store
from tests.support.machine import within
from tests.support.programs import programs_in
from tests.support.rows import LEASE, NOW, ids, new, pushed, read, running


async def fill(backend: Backend, count: int, **fields: Any) -> list[Task]:
    return await backend.push([new(**fields) for _ in range(count)])


def instead(*tasks: Task) -> tuple[Change, ...]:
    return tuple(Change(task, settle(task, Cancelled("dropped"), NOW)) for task in tasks)


async def test_as_many_as_fit(backend: Backend) -> None:
    await fill(backend, 3)
    room = Room(5, NOW)
    tasks = [new(), new()]
    stored = await backend.push(tasks, room)
    assert all(a is b for a, b in zip(tasks, stored, strict=True))
    late = [new(), new()]
    with pytest.raises(QueueFull, match="maxsize of 5") as raised:
        await backend.push(late, room)
    assert raised.value.excess == 2
    assert await backend.get(ids(late)) == [None, None]  # all or nothing
    assert await backend.count_ready(NOW) == 5


async def test_all_or_nothing_where_some_would_fit(backend: Backend) -> None:
    await fill(backend, 3)
    with pytest.raises(QueueFull) as raised:
        await backend.push([new(), new(), new()], Room(4, NOW))
    assert raised.value.excess == 2 and await backend.count_ready(NOW) == 3


async def test_only_ready_tasks_count_and_every_new_one(backend: Backend) -> None:
    await running(backend)
    await fill(backend, 2, run_at=NOW + 60 * SECOND, seq=NOW - 1)
    await fill(backend, 2, expires_at=NOW)
    await fill(backend, 2, queue="paused")
    await backend.set_paused("paused", True)
    room = Room(2, NOW)
    await backend.push([new(run_at=NOW + 60 * SECOND)], room)
    await backend.push([new()], room)
    await backend.push([new()], room)
    with pytest.raises(QueueFull):
        await backend.push([new(run_at=NOW + 60 * SECOND)], room)
    assert await backend.count_ready(NOW) == 2


async def test_a_push_of_a_stored_id_needs_no_room(backend: Backend) -> None:
    room = Room(2, NOW)
    first, second = new(unique_key="u"), new(idempotency_key="i")
    await backend.push([first, second], room)
    assert (await backend.push([first, second], room)) == [first, second]  # a push that is repeated
    again = [new(unique_key="u"), new(task_id=second.task_id), new(idempotency_key="i")]
    assert ids(await backend.push(again, room)) == ids([first, second, second])
    (claimed,) = await backend.claim("owner", NOW, 1, lease_until=LEASE)
    assert claimed.task_id == first.task_id
    third = new(unique_key="v")
    mixed = [new(unique_key="u"), third, new(unique_key="v"), new(task_id=third.task_id)]
    assert ids(await backend.push(mixed, room)) == ids([first, third, third, third])
    assert await backend.count_ready(NOW) == 2
    with pytest.raises(QueueFull) as raised:
        await backend.push([new(unique_key="v"), new()], room)
    assert raised.value.excess == 1


@pytest.mark.heavy
async def test_concurrent_pushes_of_several_processes_store_exactly_maxsize(store: Store) -> None:
    backends = (
        [store.backend, await store.another(), await store.another()] if store.name != "memory" else [store.backend]
    )

    async def push(number: int) -> bool:
        try:
            await backends[number % len(backends)].push([new()], Room(10, NOW))
        except QueueFull:
            return False
        return True

    answers = await asyncio.gather(*map(push, range(100)))
    assert sum(answers) == 10
    assert await store.backend.count_ready(NOW) == 10
    assert (await store.backend.stats(NOW)).counts["pending"] == 10


async def test_a_task_of_a_host_whose_clock_is_ahead_counts(shared_store: Store) -> None:
    backend, ahead = shared_store.backend, NOW + SECOND
    await backend.push([new(run_at=ahead, seq=ahead)], Room(1, ahead))
    with pytest.raises(QueueFull):
        await backend.push([new()], Room(1, NOW))
    assert len(await backend.least_ready(NOW, 5)) == 1


async def test_the_least_important_make_room_first_and_of_these_the_oldest(backend: Backend) -> None:
    low = [await pushed(backend, priority=9, run_at=NOW - age) for age in (1, 3, 2)]
    await pushed(backend, priority=9, run_at=NOW + 60 * SECOND, seq=NOW - 5000 * SECOND)
    await pushed(backend, priority=99, expires_at=NOW)
    await pushed(backend, priority=99, queue="paused")
    await backend.set_paused("paused", True)
    high = [await pushed(backend, priority=-1, queue=queue) for queue in ("a", "b")]
    expected = [low[1], low[2], low[0], *high]
    for limit in range(1, 7):
        assert ids(await backend.least_ready(NOW, limit)) == ids(expected[:limit])


async def test_one_is_settled_instead_in_the_same_transaction(backend: Backend) -> None:
    old = await fill(backend, 2, unique_key=None)
    task = new()
    assert await backend.push([task], Room(2, NOW, instead(old[0]))) == [task]
    assert (await read(backend, old[0])).status is Status.CANCELLED
    assert (await read(backend, old[1])).status is Status.PENDING
    assert await backend.count_ready(NOW) == 2


async def test_it_takes_over_the_unique_key(backend: Backend) -> None:
    old = await pushed(backend, unique_key="u")
    task = new(unique_key="u")
    assert (await backend.push([task], Room(1, NOW, instead(old))))[0] is task
    assert await backend.count_ready(NOW) == 1


async def test_nothing_is_written_when_a_guard_does_not_hold(backend: Backend) -> None:
    old = await fill(backend, 2)
    (claimed,) = await backend.claim("owner", NOW, 1, lease_until=LEASE)
    other = next(task for task in old if task.task_id != claimed.task_id)
    before = next(task for task in old if task.task_id == claimed.task_id)
    task = new()
    with pytest.raises(QueueFull) as raised:
        await backend.push([task], Room(5, NOW, instead(other, before)))
    assert raised.value.excess == 0
    assert await backend.get([task.task_id]) == [None]
    assert (await read(backend, other)).status is Status.PENDING
    assert await read(backend, claimed.task_id) == claimed


async def test_nothing_is_written_when_too_few_are_settled(backend: Backend) -> None:
    old = await fill(backend, 4)
    task = new()
    with pytest.raises(QueueFull) as raised:
        await backend.push([task], Room(2, NOW, instead(old[0])))
    assert raised.value.excess == 2
    assert await backend.get([task.task_id]) == [None]
    assert (await read(backend, old[0])).status is Status.PENDING


# ---- groups ---------------------------------------------------------------------------------------------------------


def chained(members: int, **fields: Any) -> Outline:
    """A group of so many members, and a child of the first of them; both callbacks."""
    nodes = [Node(str(n), new()) for n in range(members)] + [Node("child", new(type="child"), {"0": "cancel"})]
    fields = {"then": new(type="then", seq=NOW), "on_failure": new(type="alert", seq=NOW), **fields}
    return Outline(group_id=new_id(), nodes=tuple(nodes), **fields)


def tasks_of(made: Outline) -> list[Task]:
    return [node.what for node in made.nodes if isinstance(node.what, Task)]


async def test_the_tasks_of_a_group_that_wait_for_no_others_have_to_fit(backend: Backend) -> None:
    await fill(backend, 3)
    late = chained(3)
    with pytest.raises(QueueFull, match="maxsize of 5") as raised:
        await backend.groups.push(plan(late, NOW), room=Room(5, NOW))
    assert raised.value.excess == 1
    assert await backend.groups.get([late.group_id]) == [None]
    assert await backend.get(ids(tasks_of(late))) == [None] * 4
    made = plan(chained(2), NOW)
    assert await backend.groups.push(made, room=Room(5, NOW))
    assert await backend.count_ready(NOW) == 5
    await backend.groups.push(made, room=Room(1, NOW))  # there is the group already
    assert await backend.count_ready(NOW) == 5


async def test_children_and_callbacks_of_a_group_need_no_room(backend: Backend) -> None:
    made = chained(2)
    assert await backend.groups.push(plan(made, NOW), room=Room(2, NOW))
    first, second = await backend.claim("o", NOW, 9, lease_until=LEASE)
    await fill(backend, 2)
    with pytest.raises(QueueFull):
        await backend.push([new()], Room(2, NOW))
    for task in (first, second):
        assert await backend.update([Change(task, settle(task, Completed(), NOW))]) == [True]
    assert await backend.count_ready(NOW) == 3
    tasks = await backend.claim("o", NOW, 9, lease_until=LEASE)
    (child,) = [task for task in tasks if task.type == "child"]
    assert await backend.update([Change(child, settle(child, Completed(), NOW))]) == [True]
    (then,) = await backend.claim("o", NOW + SECOND, 9, lease_until=LEASE)
    assert then.type == "then"


async def test_a_group_is_pushed_instead_of_other_tasks(backend: Backend) -> None:
    other = chained(1)
    assert await backend.groups.push(plan(other, NOW))
    (member, child) = await backend.get(ids(tasks_of(other)))
    assert member is not None and child is not None
    kept = await pushed(backend)
    made = chained(1)
    with pytest.raises(QueueFull) as raised:
        await backend.groups.push(plan(made, NOW), room=Room(1, NOW, instead(member)))
    assert raised.value.excess == 1 and await backend.groups.get([made.group_id]) == [None]
    assert (await read(backend, member)).status is Status.PENDING
    assert await backend.groups.push(plan(made, NOW), room=Room(2, NOW, instead(member)))
    (state,) = await backend.groups.get([other.group_id])
    assert state is not None and (state.remaining, state.cancelled) == (0, 2)  # its child is cancelled, too
    assert [(await read(backend, task)).status for task in (member, child, kept)] == [
        Status.CANCELLED,
        Status.CANCELLED,
        Status.PENDING,
    ]
    with pytest.raises(QueueFull) as raised:
        await backend.groups.push(plan(chained(1), NOW), room=Room(9, NOW, instead(member)))
    assert raised.value.excess == 0


@pytest.mark.heavy
async def test_concurrent_pushes_of_groups_store_exactly_maxsize(store: Store) -> None:
    backends = [store.backend] + [await store.another() for _ in range(2) if store.name != "memory"]

    async def push(number: int) -> bool:
        backend = backends[number % len(backends)]
        try:
            if number % 2:
                await backend.push([new(), new()], Room(10, NOW))
            else:
                await backend.groups.push(plan(chained(2), NOW), room=Room(10, NOW))
        except QueueFull:
            return False
        return True

    answers = await asyncio.gather(*map(push, range(40)))
    assert sum(answers) == 5
    assert await store.backend.count_ready(NOW) == 10


# ---- in the caller's own transaction --------------------------------------------------------------------------------


@pytest.fixture
async def engine(sql_store: Store) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(sql_store.place)
    yield engine
    await engine.dispose()


async def test_in_the_callers_transaction(sql_store: Store, engine: AsyncEngine) -> None:
    backend, other = sql_store.backend, await sql_store.another()
    old = await fill(backend, 1)
    async with engine.connect() as connection:
        await refused(backend, connection)
        task = new()
        assert await backend.push_with(connection, [task], room=Room(1, NOW, instead(*old))) == [task]
        if sql_store.name != "sqlite":  # there a transaction that writes keeps all others out
            async with asyncio.timeout(within(10)):
                assert ids(await other.claim("owner", NOW, 5, queues=["none"], lease_until=LEASE)) == []
        await connection.rollback()
    assert (await read(backend, old[0])).status is Status.PENDING
    assert await backend.count_ready(NOW) == 1
    async with engine.begin() as connection:
        await refused(backend, connection)
        await backend.push_with(connection, [new()], room=Room(2, NOW))
    assert await backend.count_ready(NOW) == 2
    group = chained(1)
    async with engine.begin() as connection:
        with pytest.raises(QueueFull):
            await backend.groups.push(plan(group, NOW), connection, room=Room(2, NOW))
        assert await backend.groups.push(plan(group, NOW), connection, room=Room(3, NOW))
    assert await backend.count_ready(NOW) == 3


async def refused(backend: Backend, connection: AsyncConnection) -> None:
    with pytest.raises(QueueFull):
        await backend.push_with(connection, [new()], room=Room(1, NOW))


# ---- the queue actor ------------------------------------------------------------------------------------------------


def bounded(store: Store, when_full: str, maxsize: int = 10) -> TaskQ:
    return TaskQ(store.url, maxsize=maxsize, when_full=when_full, poll_interval=0.05)


@pytest.mark.heavy
async def test_three_processes_that_drop_keep_the_newest(shared_store: Store) -> None:
    tqs = [bounded(shared_store, "drop_oldest") for _ in range(3)]
    for tq in tqs:
        await tq.open()
    try:
        handles = await asyncio.gather(*(tqs[n % 3].push("t", params={"n": n}) for n in range(30)))
        stats = await tqs[0].stats()
        assert (stats.counts["pending"], stats.counts["cancelled"], stats.counts["running"]) == (10, 20, 0)
        assert len({handle.task_id for handle in handles}) == 30
    finally:
        for tq in tqs:
            await tq.close()


async def test_groups_wait_raise_or_drop(shared_store: Store) -> None:
    one: TaskCall[Any] = TaskCall("t", {}, {})
    async with bounded(shared_store, "wait", 2) as tq, bounded(shared_store, "raise", 2) as raises:
        await tq.push_many([("t", {})] * 2)
        with pytest.raises(QueueFull):
            await raises.group([one])
        waiting = asyncio.create_task(tq.group([one] * 2))
        async with asyncio.timeout(within(30)):
            assert await tq.queue.pop_task(0) is not None
            await asyncio.sleep(0)
            assert await tq.queue.pop_task(0) is not None
            handle = await waiting
        assert (await handle.progress()).total == 2 and await tq.queue.get_queue_size() == 2
        with pytest.raises(ValidationError, match="3 in one push never fit a queue of maxsize 2"):
            await tq.group([one] * 3)
    async with bounded(shared_store, "drop_oldest", 2) as drops:
        dropped: list[str] = []
        drops.on("cancelled", lambda event: dropped.append(event.task.task_id))
        newer = await drops.group([one])
        first = drops.group_handle(handle.group_id)
        assert (await first.progress()).cancelled == 1 and await drops.queue.get_queue_size() == 2
        await drops.queue.hooks.idle(within(10))
        assert len(dropped) == 1 and (await newer.progress()).remaining == 1


async def test_which_tasks_are_dropped(shared_store: Store) -> None:
    async with bounded(shared_store, "drop_oldest", 3) as tq:
        dropped: list[str] = []
        tq.on("cancelled", lambda event: dropped.append(event.task.task_id))
        important = await tq.push("t", priority=1)
        old, newer = [await tq.push("t", priority=5) for _ in range(2)]
        await tq.push("t", priority=1)
        assert await status(tq, important, old, newer) == ["pending", "cancelled", "pending"]
        row = await old.task()
        assert (row.error_message, row.fence) == ("dropped: the queue is full", 0)
        await tq.push_many([{"type": "t", "priority": 1}] * 2)
        assert (await newer.task()).status is Status.CANCELLED
        stats = await tq.stats()
        assert (stats.counts["pending"], stats.counts["cancelled"], stats.counts["running"]) == (3, 3, 0)
        await tq.queue.hooks.idle(within(10))
        assert dropped[:2] == [old.task_id, newer.task_id]
        with pytest.raises(ValidationError, match="never fit a queue of maxsize 3"):
            await tq.push_many([("t", {})] * 4)


async def status(tq: TaskQ, *handles: Any) -> list[str]:
    return [str((await handle.task()).status) for handle in handles]


async def test_a_waiting_push_continues_when_there_is_room(shared_store: Store) -> None:
    async with bounded(shared_store, "wait", 2) as tq, bounded(shared_store, "raise", 2) as other:
        await tq.push_many([("t", {})] * 2)
        with pytest.raises(QueueFull):
            await other.push("t")
        waiting = [asyncio.create_task(tq.push("t")) for _ in range(3)]
        taken = 0
        async with asyncio.timeout(within(30)):
            while not all(task.done() for task in waiting):
                assert await tq.queue.get_queue_size() <= 2
                taken += (await tq.queue.pop_task(0)) is not None
                await asyncio.sleep(0)
        assert taken + await tq.queue.get_queue_size() == 5


async def test_an_expired_task_does_not_keep_a_unique_key_nor_room(shared_store: Store) -> None:
    clock = VirtualClock()
    async with TaskQ(shared_store.url, clock=clock, maxsize=1, when_full="raise") as tq:
        first = await tq.push("t", unique_key="u", expires=1)
        await clock.advance(2)
        handle = await tq.push("t", unique_key="u")
        assert handle.created and await tq.queue.get_queue_size() == 1
        assert (await first.task()).status is Status.EXPIRED


async def test_in_the_callers_transaction_a_push_never_waits(sql_store: Store, engine: AsyncEngine) -> None:
    async with bounded(sql_store, "wait", 1) as waits, bounded(sql_store, "drop_oldest", 1) as drops:
        old = await waits.push("t")
        async with AsyncSession(engine) as session:
            with pytest.raises(QueueFull):
                await waits.push("t", session=session)
            new = await drops.push("t", session=session)
            await session.commit()
        assert await status(waits, old, new) == ["cancelled", "pending"]
        assert await waits.queue.get_queue_size() == 1


DROPPER = """
    import asyncio, sys
    from aiotaskq import TaskQ

    async def main():
        async with TaskQ(sys.argv[1], maxsize=5, when_full="drop_oldest") as tq:
            async def produce():
                while True:
                    await tq.push("t")
                    print("pushed", flush=True)
            await asyncio.gather(*[produce() for _ in range(4)])

    asyncio.run(main())
"""


@pytest.mark.heavy
async def test_a_killed_process_that_drops_leaves_no_running_row(process_store: Store, tmp_path: Path) -> None:
    with programs_in(tmp_path) as program:
        dropper = program(DROPPER, process_store.url)
        assert dropper.popen.stdout is not None
        for _ in range(60):
            dropper.popen.stdout.readline()
        dropper.signal(signal.SIGKILL)
        dropper.popen.wait()
    counts = (await process_store.backend.stats(NOW)).counts
    assert counts["running"] == 0 and counts["pending"] == 5 and counts["cancelled"] >= 50
