"""Gates on each store: what passes, when, and in which order; and that a slot is never lost or given twice."""

from __future__ import annotations

import pytest
from msgspec.structs import asdict

from aiotaskq.backends.base import Backend, Change, Claim
from aiotaskq.core.gate import Bounds, Flow, GateChange
from aiotaskq.core.ids import new_id
from aiotaskq.core.limits import Gating, Limit
from aiotaskq.core.outcome import Cancelled, Completed, Expired, Failed, Outcome, Released, Requeued, settle
from aiotaskq.core.parking import parked
from aiotaskq.core.plan import Node, Outline, plan
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND
from tests.support.gated import CAP_1, CAP_2, DONE, MINUTE, claimed, counts, gated, settled, state, wait
from tests.support.rows import NOW, ids, new, read

# ---- push, claim, end ------------------------------------------------------------------------------------------------


@pytest.mark.promise("[limits, rates and fair shares](limits.md#guarantees)")
async def test_a_push_lets_pass_what_there_is_room_for(backend: Backend) -> None:
    tasks = [gated(("g", CAP_2)) for _ in range(5)]
    assert await backend.push(tasks) == tasks
    assert [(await read(backend, task)).parked for task in tasks] == [False, False, True, True, True]
    assert await counts(backend) == (2, 3)
    assert await backend.count_ready(NOW) == 2
    assert ids(await claimed(backend)) == ids(tasks[:2])
    assert await counts(backend) == (2, 3)
    assert (await backend.stats(NOW)).counts["pending"] == 3


@pytest.mark.parametrize("value", [0, "", False])
async def test_a_key_that_is_zero_or_empty_limits_as_any_other(backend: Backend, value: object) -> None:
    gating = Gating("export", [Limit(1, key="tenant")])
    await backend.push([gating.gated(new(params={"tenant": value}, seq=NOW + n)) for n in range(5)])
    assert await counts(backend, f"tenant:{value}") == (1, 4)
    assert len(await claimed(backend)) == 1


async def test_a_passed_task_is_an_ordinary_one(backend: Backend) -> None:
    await backend.push([gated(due=NOW - 5)])
    (task,) = await claimed(backend)
    assert (task.run_at, task.due_at, task.gate, task.status) == (NOW - 5, None, "g", Status.RUNNING)
    assert task.flow == Flow(gates=(("g", CAP_1),))
    assert task == await read(backend, task)


@pytest.mark.parametrize("outcome", [Completed(1), Failed("e", retryable=False), Cancelled()])
async def test_the_end_of_a_task_lets_the_next_one_pass(backend: Backend, outcome: Outcome) -> None:
    first, second, third = (gated(priority=priority) for priority in (0, 1, 0))
    await backend.push([first, second, third])
    (running,) = await claimed(backend)
    assert running.task_id == first.task_id
    await settled(backend, running, outcome)
    assert ids(await claimed(backend)) == [third.task_id]
    assert await claimed(backend) == []


async def test_exchange_claims_what_it_lets_pass(backend: Backend) -> None:
    first, second = gated(), gated()
    await backend.push([first, second])
    (running,) = await claimed(backend)
    now = NOW + SECOND
    held, tasks = await backend.exchange([Change(running, settle(running, Completed(), now))], Claim("o", now, 5))
    assert (held, ids(tasks)) == ([True], [second.task_id])


async def test_a_change_whose_guard_does_not_hold_frees_no_slot(backend: Backend) -> None:
    await backend.push([gated(), gated()])
    (running,) = await claimed(backend)
    after = settle(running, Completed(), NOW + SECOND)
    assert await backend.update([Change(running.replace(fence=7), after)]) == [False]
    assert await counts(backend) == (1, 1)
    assert await backend.update([Change(running, after)]) == [True]
    assert await backend.update([Change(running, after)]) == [False]  # a zombie comes late
    assert await counts(backend) == (1, 0)


async def test_a_retry_gives_its_slot_to_the_next_and_queues_again(backend: Backend) -> None:
    first, second = gated(), gated()
    await backend.push([first, second])
    (running,) = await claimed(backend)
    after = await settled(backend, running, Failed("once", backoff=wait(30)))
    assert (after.parked, after.due_at, after.retry_count) == (True, NOW + 31 * SECOND, 1)
    (running,) = await claimed(backend)
    assert running.task_id == second.task_id
    await settled(backend, running)
    assert await claimed(backend) == []
    assert (await state(backend)).gate.next_at == NOW + 31 * SECOND
    assert await backend.gates.admit(NOW + 30 * SECOND, 10) == NOW + 31 * SECOND
    assert await backend.gates.admit(NOW + 31 * SECOND, 10) is None
    assert ids(await claimed(backend, NOW + 31 * SECOND)) == [first.task_id]


async def test_a_task_that_is_given_back_keeps_its_slot(backend: Backend) -> None:
    first, second = gated(), gated()
    await backend.push([first, second])
    (running,) = await claimed(backend)
    after = await settled(backend, running, Released("never started"))
    assert not after.parked
    assert await counts(backend) == (1, 1)
    assert ids(await claimed(backend)) == [first.task_id]


async def test_a_task_that_is_put_off_keeps_its_slot_and_its_due_time(backend: Backend) -> None:
    first, second = gated(), gated()
    await backend.push([first, second])
    (running,) = await claimed(backend)
    after = await settled(backend, running, Released("unknown type", 5 * SECOND, put_off=True))
    assert (after.parked, after.run_at, after.due_at) == (False, NOW + 6 * SECOND, NOW)
    assert await counts(backend) == (1, 1)
    assert await claimed(backend, NOW + 5 * SECOND) == []
    (again,) = await claimed(backend, NOW + 6 * SECOND)
    assert (again.task_id, again.due_at) == (first.task_id, NOW)


async def test_a_cancelled_task_that_is_retried_waits_at_its_gate_again(backend: Backend) -> None:
    first, second = gated(), gated()
    await backend.push([first, second])
    waits = await read(backend, second)
    ended = await settled(backend, waits, Cancelled())
    assert await counts(backend) == (1, 0)
    after = await settled(backend, ended, Requeued(), NOW + 2 * SECOND)
    assert (after.parked, after.due_at) == (True, NOW + 2 * SECOND)
    assert await counts(backend) == (1, 1)


async def test_a_retry_by_an_operator_passes_where_there_is_room(backend: Backend) -> None:
    task = gated()
    await backend.push([task])
    (running,) = await claimed(backend)
    ended = await settled(backend, running, Failed("e", retryable=False))
    await settled(backend, ended, Requeued(), NOW + 2 * SECOND)
    assert ids(await claimed(backend, NOW + 2 * SECOND)) == [task.task_id]


async def test_a_delayed_task_takes_no_slot_before_it_is_due(backend: Backend) -> None:
    late, soon = gated(due=NOW + MINUTE), gated()
    await backend.push([late, soon])
    assert ids(await claimed(backend)) == [soon.task_id]
    assert await counts(backend) == (1, 1)
    assert (await backend.gates.admit(NOW + SECOND, 10)) == NOW + MINUTE


async def test_what_expires_while_it_waits_is_found_by_the_reaper(backend: Backend) -> None:
    first, second = gated(), gated(expires_at=NOW + MINUTE)
    await backend.push([first, second])
    (late,) = await backend.overdue(NOW + MINUTE, 10)
    assert late.task_id == second.task_id
    await settled(backend, late, Expired(), NOW + MINUTE)
    assert await counts(backend) == (1, 0)


async def test_what_has_expired_does_not_pass(backend: Backend) -> None:
    first, late, last = gated(), gated(expires_at=NOW + MINUTE), gated()
    await backend.push([first, late, last])
    (run,) = await claimed(backend)
    await settled(backend, run, now=NOW + MINUTE)
    assert ids(await claimed(backend, NOW + MINUTE)) == [last.task_id]
    assert late.task_id in ids(await backend.overdue(NOW + MINUTE, 10))


async def test_what_has_expired_when_it_is_pushed_takes_no_slot(backend: Backend) -> None:
    await backend.push([gated(expires_at=NOW)])
    await backend.push([gated(("a", CAP_1), ("b", CAP_1), expires_at=NOW)])
    assert [await counts(backend, key) for key in "gab"] == [(0, 1), (0, 1), (0, 0)]


async def test_a_change_puts_no_task_back_at_a_gate_that_it_has_passed(backend: Backend) -> None:
    gates = (("a", CAP_2), ("b", CAP_1), ("c", CAP_1))
    first, second = gated(*gates), gated(*gates)
    await backend.push([first, second])
    before = await read(backend, second)
    assert (before.parked, before.gate) == (True, "b")
    (run,) = await claimed(backend)
    await settled(backend, run)
    stale = Change(before, before.replace(priority=5, fence=before.fence + 1))
    assert await backend.update([stale]) == [False]
    assert [await counts(backend, key) for key in "abc"] == [(1, 0)] * 3
    assert ids(await claimed(backend)) == [second.task_id]


async def test_a_repeated_push_and_a_conflict_take_no_slot(backend: Backend) -> None:
    task = gated(("g", CAP_2), unique_key="u")
    await backend.push([task])
    assert await backend.push([task]) == [task]
    (row,) = await backend.push([gated(("g", CAP_2), unique_key="u")])
    assert row.task_id == task.task_id
    assert await counts(backend) == (1, 0)


async def test_a_follow_up_gets_the_slot_of_the_task_before_it(backend: Backend) -> None:
    await backend.push([gated()])
    (running,) = await claimed(backend)
    then = gated()
    assert await backend.update([Change(running, settle(running, Completed(), NOW + SECOND), (then,))]) == [True]
    assert ids(await claimed(backend)) == [then.task_id]


async def test_follow_ups_and_callbacks_are_never_refused(backend: Backend) -> None:
    full = ("g", Bounds(cap=1, max_waiting=1))
    await backend.push([gated(full), gated(full)])
    plain, member = new(), new()
    await backend.push([plain])
    await backend.groups.push(plan(Outline(group_id=new_id(), nodes=(Node("m", member),), then=gated(full)), NOW))
    found = {task.task_id: task for task in await claimed(backend)}
    ends = [(found[task.task_id], settle(found[task.task_id], DONE, NOW + SECOND)) for task in (plain, member)]
    changes = [Change(*ends[0], (gated(full),)), Change(*ends[1])]
    assert await backend.update(changes) == [True, True]
    assert await counts(backend) == (1, 3)


async def test_tasks_without_gates_are_claimed_beside_those_that_wait(backend: Backend) -> None:
    plain = [new() for _ in range(3)]
    await backend.push([*plain, gated(), gated()])
    assert len(await claimed(backend)) == 4
    assert await backend.next_run_at(NOW) is None
    assert await backend.gates.admit(NOW + MINUTE, 10) is None


# ---- rates, fair shares, closed gates --------------------------------------------------------------------------------


async def test_a_rate_lets_its_burst_pass_and_then_one_token_in_each_interval(backend: Backend) -> None:
    bounds = Bounds(interval=SECOND, burst=2)
    tasks = [gated(("api", bounds)) for _ in range(4)]
    await backend.push(tasks)
    ran = await claimed(backend, NOW)
    assert ids(ran) == ids(tasks[:2])
    at = (await state(backend, "api")).gate.next_at
    assert at is not None
    assert NOW < at <= NOW + SECOND + SECOND // 100
    assert await backend.gates.admit(at, 10) == at + SECOND
    assert ids(await claimed(backend, at)) == [tasks[2].task_id]
    for task in ran:
        await settled(backend, task, now=at)
    assert await claimed(backend, at) == []  # the end of a task gives no token back


async def test_a_task_takes_its_weight_and_a_charge_moves_the_next_token(backend: Backend) -> None:
    bounds = Bounds(interval=SECOND, burst=10)
    tasks = [gated(("api", bounds), weight=weight) for weight in (6, 6, 1)]
    await backend.push(tasks)
    assert ids(await claimed(backend)) == [tasks[0].task_id]
    assert await counts(backend, "api") == (1, 2)
    at = (await state(backend, "api")).gate.next_at
    assert at is not None
    await backend.gates.change("api", GateChange(charge=3), NOW)
    assert (await state(backend, "api")).gate.next_at == at + 3 * SECOND
    await backend.gates.change("api", GateChange(charge=-3), NOW)
    assert (await state(backend, "api")).gate.next_at == at
    await backend.gates.admit(at, 10)
    assert ids(await claimed(backend, at)) == [tasks[1].task_id]


async def test_a_faster_rate_does_not_wait_for_the_tokens_of_the_slower_one(backend: Backend) -> None:
    hourly, quick = Bounds(interval=60 * MINUTE), Bounds(interval=SECOND)
    await backend.push([gated(("set", hourly)) for _ in range(2)] + [gated(("pushed", hourly)) for _ in range(2)])
    assert len(await claimed(backend)) == 2
    await backend.gates.change("set", GateChange(bounds=asdict(quick)), NOW)
    await backend.push([gated(("pushed", quick))])
    for key in ("set", "pushed"):
        assert (await state(backend, key)).gate.next_at == NOW + SECOND
        await backend.gates.change(key, GateChange(bounds=asdict(hourly)), NOW)
        assert (await state(backend, key)).gate.next_at == NOW + SECOND  # a slower one takes no time in addition


async def test_a_push_that_waits_elsewhere_raises_the_bound_of_a_gate(backend: Backend) -> None:
    task = gated(("t:a", Bounds(cap=1)), ("all", Bounds(cap=0)))
    await backend.push([task])
    await backend.push([gated(("t:a", Bounds(cap=1)), ("all", CAP_2))])
    await backend.gates.admit(NOW, 10)
    assert ids(await claimed(backend)) == [task.task_id]


async def test_a_changed_task_raises_the_bound_of_a_gate_that_it_has_not_reached(backend: Backend) -> None:
    shut, narrow = ("all", Bounds(cap=0)), ("t:a", CAP_1)
    waits, later = gated(shut), gated(narrow, shut, due=NOW + MINUTE)
    await backend.push([waits, later])
    before = await read(backend, later)
    flow = Flow(gates=(narrow, ("all", CAP_1)))
    after = parked(before.replace(flow=flow, fence=before.fence + 1), before.due_us)  # as a newer call changes it
    assert await backend.update([Change(before, after)]) == [True]
    await backend.gates.admit(NOW + SECOND, 10)
    assert ids(await claimed(backend)) == [waits.task_id]


async def test_a_changed_task_replaces_no_bounds_of_an_operator(backend: Backend) -> None:
    tasks = [gated(), gated()]
    await backend.push(tasks)
    fixed = await backend.gates.change("g", GateChange(bounds={"cap": 1}), NOW)
    before = await read(backend, tasks[1])
    after = parked(before.replace(flow=Flow(gates=(("g", CAP_2),)), fence=before.fence + 1), before.due_us)
    assert await backend.update([Change(before, after)]) == [True]
    await backend.gates.admit(NOW + SECOND, 10)
    assert (await state(backend)).gate == fixed
    assert await counts(backend) == (1, 1)


async def test_a_changed_task_gives_a_faster_rate_no_tokens_too_soon(backend: Backend) -> None:
    slow, quick = ("api", Bounds(interval=60 * MINUTE)), ("api", Bounds(interval=MINUTE))
    first, second = gated(slow), gated(slow)
    await backend.push([first, second])
    (run,) = await claimed(backend, NOW)
    await settled(backend, run, now=NOW)  # its token is charged
    before = await read(backend, second)
    after = parked(before.replace(flow=Flow(gates=(quick,)), fence=before.fence + 1), before.due_us)
    assert await backend.update([Change(before, after)]) == [True]
    await backend.gates.admit(NOW + SECOND, 10)
    assert await claimed(backend, NOW + SECOND) == []
    assert (await state(backend, "api")).gate.next_at == NOW + MINUTE
    await backend.gates.admit(NOW + MINUTE, 10)
    assert ids(await claimed(backend, NOW + MINUTE)) == [before.task_id]


async def test_a_fair_share_queues_behind_what_is_ready(backend: Backend) -> None:
    bounds = Bounds(window=1)
    loud = [gated(("tenant:a", bounds)) for _ in range(3)]
    quiet = [gated(("tenant:b", bounds)) for _ in range(2)]
    await backend.push([*loud, *quiet])
    order = []
    for number in range(5):
        now = NOW + (number + 1) * SECOND
        (task,) = await claimed(backend, now, 1)
        order.append(task.task_id)
        await settled(backend, task, now=now)
    assert order == ids([loud[0], quiet[0], loud[1], quiet[1], loud[2]])


async def test_a_push_of_several_priorities_passes_as_one_of_equal_tasks(backend: Backend) -> None:
    await backend.gates.change("g", GateChange(bounds={"cap": 1}), NOW)
    await backend.push([gated(("g", CAP_2), priority=priority) for priority in (0, 1)])
    assert await counts(backend) == (1, 1)
    fair = ("tenant:a", Bounds(window=2))
    first, second = gated(fair, due=NOW - MINUTE), gated(fair, priority=1)
    await backend.push([first, second])
    assert [(await read(backend, task)).run_at for task in (first, second)] == [NOW, NOW]


async def test_a_closed_gate_lets_nothing_pass_until_it_is_opened(backend: Backend) -> None:
    await backend.gates.change("g", GateChange(closed_until=NOW + MINUTE), NOW)
    tasks = [gated(("g", CAP_2)) for _ in range(2)]
    await backend.push(tasks)
    assert await claimed(backend) == []
    assert await backend.gates.admit(NOW, 10) == NOW + MINUTE
    gate = await backend.gates.change("g", GateChange(closed_until=0), NOW + SECOND)
    assert (gate.closed_until, gate.bounds) == (0, CAP_2)
    assert len(await claimed(backend)) == 2


async def test_a_push_at_a_closed_gate_waits_though_slots_are_free(backend: Backend) -> None:
    await backend.push([gated(("g", CAP_2))])
    await backend.gates.change("g", GateChange(closed_until=NOW + MINUTE), NOW)
    await backend.push([gated(("g", CAP_2))])
    assert await counts(backend) == (1, 1)


async def test_a_gate_that_is_closed_until_an_instant_opens_then(backend: Backend) -> None:
    await backend.push([gated(), gated()])
    await backend.gates.change("g", GateChange(closed_until=NOW + MINUTE), NOW)
    (running,) = await claimed(backend)  # it had passed
    await settled(backend, running)
    assert await claimed(backend) == []
    assert await backend.gates.admit(NOW + MINUTE, 10) is None
    assert len(await claimed(backend, NOW + MINUTE)) == 1


async def test_a_delayed_task_at_a_closed_gate_passes_when_it_opens(backend: Backend) -> None:
    await backend.gates.change("g", GateChange(closed_until=NOW + MINUTE), NOW)
    await backend.push([gated(due=NOW + SECOND)])
    assert await backend.gates.admit(NOW + 2 * SECOND, 10) == NOW + MINUTE
    assert await backend.gates.admit(NOW + MINUTE, 10) is None
    assert len(await claimed(backend, NOW + MINUTE)) == 1


async def test_a_delayed_task_that_has_become_due_passes_a_gate_that_is_opened_early(backend: Backend) -> None:
    await backend.gates.change("g", GateChange(closed_until=NOW + MINUTE), NOW)
    await backend.push([gated(due=NOW + SECOND)])
    assert await backend.gates.admit(NOW + 2 * SECOND, 10) == NOW + MINUTE
    await backend.gates.change("g", GateChange(closed_until=0), NOW + 3 * SECOND)
    assert await counts(backend) == (1, 0)


async def test_a_push_lets_pass_in_claim_order(backend: Backend) -> None:
    late, first = gated(priority=1), gated()
    await backend.push([late, first])
    assert ids(await claimed(backend)) == [first.task_id]


async def test_bounds_of_an_operator_stay_and_those_of_pushes_change(backend: Backend) -> None:
    await backend.push([gated() for _ in range(5)])
    assert await counts(backend) == (1, 4)
    await backend.push([gated(("g", CAP_2))])
    assert await counts(backend) == (2, 4)
    gate = await backend.gates.change("g", GateChange(bounds={"cap": 3}), NOW + SECOND)
    assert (gate.fixed, gate.bounds.cap) == (True, 3)
    assert await counts(backend) == (3, 3)
    await backend.push([gated()])
    assert await counts(backend) == (3, 4)
    await backend.gates.change("g", GateChange(bounds={"cap": 0}), NOW + SECOND)
    for task in await claimed(backend):
        await settled(backend, task)
    assert await counts(backend) == (0, 4)
    assert (await backend.gates.change("g", GateChange(declared=True), NOW + SECOND)).fixed is False
    await backend.push([gated(("g", CAP_2))])
    assert await counts(backend) == (2, 3)


# ---- several gates ---------------------------------------------------------------------------------------------------


async def test_several_gates_are_passed_narrow_to_wide(backend: Backend) -> None:
    a, b = ("tenant:a", CAP_1), ("tenant:b", CAP_1)
    wide = ("all", CAP_1)
    tasks = [gated(a, wide), gated(a, wide), gated(b, wide)]
    await backend.push(tasks)
    assert [(await read(backend, task)).gate for task in tasks] == ["all", "tenant:a", "all"]
    assert await counts(backend, "tenant:a") == (1, 1)
    assert await counts(backend, "tenant:b") == (1, 0)
    assert await counts(backend, "all") == (1, 1)
    order = []
    for _ in tasks:
        (task,) = await claimed(backend)
        order.append(task.task_id)
        await settled(backend, task)
    assert order == ids([tasks[0], tasks[2], tasks[1]])
    assert [each.held + each.waiting for each in await backend.gates.find()] == [0, 0, 0]


async def test_what_waits_or_runs_at_a_later_gate_holds_its_slot_of_the_one_before(backend: Backend) -> None:
    wide = ("all", CAP_1)
    await backend.push([gated(wide), gated(("a", CAP_1), wide)])
    await backend.push([gated(("a", CAP_1))])
    assert await counts(backend, "a") == (1, 1)
    await backend.push([gated(("b", CAP_2), ("free", CAP_2)), gated(("b", CAP_2))])
    await backend.push([gated(("b", CAP_2)), gated(("b", CAP_2))])
    assert await counts(backend, "b") == (2, 2)
    ran = next(
        task
        for task in await claimed(backend)
        if task.flow is not None and len(task.flow.gates) == 1 and task.gate == "b"
    )
    _, tasks = await backend.exchange([Change(ran, settle(ran, DONE, NOW + SECOND))], Claim("o", NOW + SECOND, 5))
    assert [task.gate for task in tasks] == ["b"]
    assert await counts(backend, "b") == (2, 1)


@pytest.mark.parametrize(
    "bounds",
    [Bounds(cap=1, window=3), Bounds(cap=3, window=1), Bounds(cap=1, interval=SECOND, burst=9)],
    ids=["cap", "window", "cap beside a rate"],
)
async def test_of_two_bounds_of_a_gate_the_narrower_one_holds(backend: Backend, bounds: Bounds) -> None:
    for count in (1, 1, 2):
        await backend.push([gated(("g", bounds)) for _ in range(count)])
    assert await counts(backend) == (1, 3)
    (run,) = await claimed(backend)
    _, tasks = await backend.exchange([Change(run, settle(run, DONE, NOW + SECOND))], Claim("o", NOW + SECOND, 9))
    assert len(tasks) == 1
    await settled(backend, tasks[0])
    assert await counts(backend) == (1, 1)


async def test_a_task_of_several_gates_that_is_retried_passes_them_again(backend: Backend) -> None:
    task = gated(("tenant:a", CAP_1), ("all", CAP_1))
    await backend.push([task])
    for retry in (Failed("e", backoff=wait(0)), Failed("e", retryable=False), Cancelled()):
        (run,) = await claimed(backend)
        after = await settled(backend, run, retry)
        if after.final:
            assert [await counts(backend, key) for key in ("tenant:a", "all")] == [(0, 0)] * 2
            await settled(backend, after, Requeued())
    assert ids(await claimed(backend)) == [task.task_id]


async def test_a_cancel_between_two_gates_gives_the_slot_of_the_first_to_the_next(backend: Backend) -> None:
    a, wide = ("tenant:a", CAP_1), ("all", CAP_1)
    tasks = [gated(wide), gated(a, wide), gated(a, wide)]
    await backend.push(tasks)
    await settled(backend, await read(backend, tasks[1]), Cancelled())
    assert await counts(backend, "tenant:a") == (1, 0)
    assert await counts(backend, "all") == (1, 1)


async def test_an_exchange_with_a_cancel_between_two_gates_claims_nothing_that_has_to_pass_the_second(
    backend: Backend,
) -> None:
    a, wide = ("tenant:a", CAP_1), ("all", CAP_1)
    tasks = [gated(wide), gated(a, wide), gated(a, wide)]
    await backend.push(tasks)
    assert ids(await claimed(backend)) == [tasks[0].task_id]
    waits = await read(backend, tasks[1])
    now = NOW + SECOND
    _, found = await backend.exchange([Change(waits, settle(waits, Cancelled(), now))], Claim("o", now, 5))
    assert found == []
    assert (await read(backend, tasks[2])).gate == "all"
    assert await counts(backend, "all") == (1, 1)
