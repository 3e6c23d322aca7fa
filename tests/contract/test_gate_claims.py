"""Claims of tasks that a push or the end of others has just let pass, on each store: as if these had been ready."""

from __future__ import annotations

import itertools

import pytest

from aiotaskq.backends.base import Backend, Change, Claim
from aiotaskq.core.gate import BATCH, PARKED, Bounds, Flow, GateChange
from aiotaskq.core.outcome import Completed, settle
from aiotaskq.core.parking import parked
from aiotaskq.core.task import SECOND, Task
from aiotaskq.errors import QueueFull
from tests.support.rows import LEASE, NOW, ids, new, read

LATER = NOW + SECOND
CAP = 2


def gated(number: int, key: str = "g", cap: int = CAP, **fields: object) -> Task:
    """A task parked at a gate of its own kind; the number is its push stamp."""
    return parked(new(flow=Flow(gates=((key, Bounds(cap=cap)),)), seq=NOW + number, **fields), NOW)


async def exchanged(backend: Backend, tasks: list[Task], limit: int, queues: list[str] | None = None) -> list[Task]:
    changes = [Change(task, settle(task, Completed(), LATER)) for task in tasks]
    held, claimed = await backend.exchange(changes, Claim("o", LATER, limit, queues=queues, lease_until=LEASE))
    assert all(held)
    return claimed


async def test_what_passes_is_claimed_as_any_ready_task(backend: Backend) -> None:
    tasks = [gated(number, extra={"n": number} if number == 2 else {}) for number in range(5)]
    await backend.push(tasks)
    first = await backend.claim("o", LATER, 9, lease_until=LEASE)
    claimed = await exchanged(backend, first, 9)
    assert ids(claimed) == ids(tasks[2:4])
    assert claimed == [await read(backend, task) for task in claimed]
    assert [(t.run_at, t.due_at, t.gate, t.fence, t.lease_until) for t in claimed] == [(NOW, None, "g", 1, LEASE)] * 2
    assert (await read(backend, tasks[4])).run_at == PARKED


async def test_a_task_of_a_fair_share_that_is_claimed_at_once_is_due_from_then_on(backend: Backend) -> None:
    flow = Flow(gates=(("tenant", Bounds(window=1)),))
    await backend.push([parked(new(flow=flow, seq=NOW + number), NOW) for number in range(2)])
    (second,) = await exchanged(backend, await backend.claim("o", LATER, 9, lease_until=LEASE), 9)
    assert second.run_at == LATER  # where it stands if it is given back


async def test_what_was_ready_before_is_claimed_first(backend: Backend) -> None:
    tasks = [gated(number) for number in range(3)]
    urgent, older = new(priority=-1, run_at=NOW), new(run_at=NOW - SECOND)
    await backend.push(tasks)
    first = await backend.claim("o", LATER, 9, lease_until=LEASE)
    await backend.push([older, urgent])
    assert ids(await exchanged(backend, first, 2)) == ids([urgent, older])
    assert ids(await backend.claim("o", LATER, 9, lease_until=LEASE)) == [tasks[2].task_id]


async def test_no_more_are_claimed_than_may_be(backend: Backend) -> None:
    tasks = [gated(number) for number in range(4)]
    await backend.push(tasks)
    first = await backend.claim("o", LATER, 9, lease_until=LEASE)
    assert ids(await exchanged(backend, first, 1)) == [tasks[2].task_id]
    assert ids(await backend.claim("o", LATER, 9, lease_until=LEASE)) == [tasks[3].task_id]


async def test_what_passes_and_is_not_claimed_expires(backend: Backend) -> None:
    await backend.push([gated(number, expires_at=LEASE if number > 1 else None) for number in range(4)])
    first = await backend.claim("o", LATER, 9, lease_until=LEASE)
    claimed = await exchanged(backend, first, 1)
    late = [task for task in await backend.overdue(LEASE, 9) if task.task_id not in ids(claimed)]
    assert len(claimed) == len(late) == 1
    assert not late[0].parked
    assert await backend.claim("o", LEASE, 9, lease_until=LEASE) == []


async def test_what_passes_in_another_queue_is_not_claimed(backend: Backend) -> None:
    tasks = [gated(number, queue="mine" if number < 3 else "other") for number in range(4)]
    await backend.push(tasks)
    first = await backend.claim("o", LATER, 9, queues=["mine"], lease_until=LEASE)
    assert ids(await exchanged(backend, first, 9, ["mine"])) == [tasks[2].task_id]
    assert ids(await backend.claim("o", LATER, 9, lease_until=LEASE)) == [tasks[3].task_id]


async def test_what_passes_several_gates_is_claimed(backend: Backend) -> None:
    flow = Flow(gates=(("narrow", Bounds(cap=1)), ("wide", Bounds(cap=5))))
    tasks = [parked(new(flow=flow, seq=NOW + number), NOW) for number in range(2)]
    await backend.push(tasks)
    first = await backend.claim("o", LATER, 9, lease_until=LEASE)
    assert ids(first) == [tasks[0].task_id]
    assert ids(await exchanged(backend, first, 9)) == [tasks[1].task_id]


async def test_what_may_not_start_is_passed_over(backend: Backend) -> None:
    tasks = [gated(number) for number in range(2)]
    late = gated(2).replace(due_at=LATER + SECOND)
    dead = gated(3, expires_at=LATER)
    further = parked(new(flow=Flow(gates=(("g", Bounds(cap=CAP)), ("wide", Bounds(cap=1)))), seq=NOW + 4), NOW)
    plain = [gated(number) for number in (5, 6)]
    await backend.push([*tasks, late, dead, further, *plain])
    first = await backend.claim("o", LATER, 9, lease_until=LEASE)
    claimed = await exchanged(backend, first, 9)
    assert ids(claimed) == ids([further, plain[0]])
    assert (await read(backend, plain[1])).run_at == PARKED
    assert ids(await exchanged(backend, claimed, 9)) == [plain[1].task_id]
    await backend.gates.admit(LATER + SECOND, 9)
    assert ids(await backend.claim("o", LATER + SECOND, 9, lease_until=LEASE)) == [late.task_id]


@pytest.mark.parametrize("fields", [{"due_at": LATER + SECOND}, {"expires_at": LATER}])
async def test_many_that_may_not_start_hold_up_no_task_behind_them(backend: Backend, fields: dict[str, int]) -> None:
    first = gated(0, cap=1)
    await backend.push([first])
    running = await backend.claim("o", LATER, 9, lease_until=LEASE)
    may = gated(9, cap=1, priority=5)
    await backend.set_paused("asleep", True)
    others = [gated(number, cap=1).replace(**fields) for number in range(1, 5)]
    await backend.push([*others, gated(5, cap=1, queue="asleep"), may])
    assert ids(await exchanged(backend, running, 9)) == [may.task_id]


async def test_what_is_new_in_a_repeated_push_passes(backend: Backend) -> None:
    tasks = [gated(number, cap=4) for number in range(5)]
    await backend.push(tasks[:2])
    await backend.push(tasks)
    assert ids(await backend.claim("o", LATER, 9, lease_until=LEASE)) == ids(tasks[:4])


async def test_a_push_lets_pass_by_priority_and_not_what_is_not_due(backend: Backend) -> None:
    low, urgent = gated(0, cap=1, priority=5), gated(1, cap=1, priority=1)
    delayed = gated(2, key="h", cap=1).replace(due_at=LATER + SECOND)
    dead = gated(3, key="h", cap=1, expires_at=NOW)
    await backend.push([low, delayed, urgent, dead])
    assert ids(await backend.claim("o", LATER, 9, lease_until=LEASE)) == [urgent.task_id]
    assert await backend.gates.admit(LATER + SECOND, 9) is None
    assert ids(await backend.claim("o", LATER + SECOND, 9, lease_until=LEASE)) == [delayed.task_id]


async def test_a_large_push_lets_no_more_pass_than_the_cap(backend: Backend) -> None:
    # So many that a store writes them in several parts, with the second task of some gates in a later part.
    tasks = [gated(number, f"k{number % 1_090}", cap=1) for number in range(1_100)]
    await backend.push(tasks)
    await backend.gates.admit(LATER, 2_000)
    assert {(gate.held, gate.waiting) for gate in await backend.gates.find(limit=2_000)} == {(1, 0), (1, 1)}
    assert await backend.count_ready(LATER) == 1_090
    claimed = await backend.claim("o", LATER, 2_000, lease_until=LEASE)
    assert sorted(ids(claimed)) == sorted(ids(tasks[:1_090]))


@pytest.mark.heavy
async def test_a_large_push_of_tasks_with_several_gates_each_lets_all_pass(backend: Backend) -> None:
    wide = ("all", Bounds(cap=2_000))
    flows = [Flow(gates=((f"k{number}", Bounds(cap=1)), wide)) for number in range(1_001)]
    await backend.push([parked(new(flow=flow, seq=NOW + number), NOW) for number, flow in enumerate(flows)])
    while await backend.gates.admit(LATER, 2_000) is not None:
        pass
    assert await backend.count_ready(LATER) == 1_001


async def test_the_parts_of_a_large_push_share_the_slots_and_the_room_to_wait(backend: Backend) -> None:
    # So many that a store writes them in several parts, with the most urgent ones in the last.
    tasks = [gated(number, cap=101, priority=150 - number) for number in range(150)]
    await backend.push(tasks)
    assert ids(await backend.claim("o", LATER, 200, lease_until=LEASE)) == ids(tasks[:48:-1])
    flow = Flow(gates=(("full", Bounds(cap=101, max_waiting=48)),))
    many = [parked(new(flow=flow, seq=NOW + number), NOW) for number in range(150)]
    with pytest.raises(QueueFull, match="max_waiting=48"):
        await backend.push(many)
    assert await backend.get([many[0].task_id, many[-1].task_id]) == [None, None]


async def test_more_tasks_than_one_batch_pass_a_gate_that_opens(backend: Backend) -> None:
    await backend.gates.change("g", GateChange(closed_until=LATER), NOW)
    await backend.push([gated(number, cap=2 * BATCH + 50) for number in range(2 * BATCH + 60)])
    assert await backend.count_ready(LATER) == 0
    await backend.gates.change("g", GateChange(closed_until=0), NOW)
    assert await backend.count_ready(LATER) == 2 * BATCH + 50


async def test_a_push_into_a_paused_queue_takes_no_slot(backend: Backend) -> None:
    await backend.set_paused("p", True)
    waits, passes = gated(0, cap=1, queue="p"), gated(1, cap=1)
    await backend.push([waits, passes])
    assert ids(await backend.claim("o", LATER, 9, lease_until=LEASE)) == [passes.task_id]
    assert (await read(backend, waits)).parked


async def test_what_passes_before_what_was_ready_is_claimed_first(backend: Backend) -> None:
    old = parked(new(flow=Flow(gates=(("g", Bounds(cap=1)),)), seq=NOW), NOW)
    tasks = [old, parked(new(flow=old.flow, seq=NOW + 1), NOW - SECOND), parked(new(flow=old.flow, priority=7), NOW)]
    await backend.push(tasks[:1])
    first = await backend.claim("o", LATER, 9, lease_until=LEASE)
    later = new(run_at=NOW + 5)
    await backend.push([*tasks[1:], later])
    second = await exchanged(backend, first, 1)
    assert ids(second) == [tasks[1].task_id]
    assert ids(await exchanged(backend, second, 9)) == ids([later, tasks[2]])


@pytest.mark.parametrize("common", [Bounds(cap=1), Bounds(interval=SECOND, burst=1)])
async def test_a_fair_share_queues_behind_what_waits_at_the_gate_after_it(backend: Backend, common: Bounds) -> None:
    def of(tenant: str) -> Task:
        flow = Flow(gates=((f"tenant:{tenant}", Bounds(window=2)), ("all", common)))
        return parked(new(flow=flow, seq=next(stamps)), NOW)

    stamps = itertools.count(NOW)
    loud, quiet = [of("loud") for _ in range(4)], [of("quiet") for _ in range(2)]
    await backend.push([*loud, *quiet])
    order = []
    for number in range(6):
        now = NOW + (number + 1) * SECOND
        await backend.gates.admit(now, 10)
        (task,) = await backend.claim("o", now, 1, lease_until=LEASE)
        order.append(task.task_id)
        assert await backend.update([Change(task, settle(task, Completed(), now))]) == [True]
    assert order == ids([*loud[:2], *quiet, *loud[2:]])
