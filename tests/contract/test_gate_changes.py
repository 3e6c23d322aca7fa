"""Changes of gates by operators and handlers, on each store: of two at the same time both count."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from msgspec.structs import replace

from aiotaskq.backends.base import Backend, Change
from aiotaskq.backends.listeners import GATES
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core.gate import Bounds, Flow, Gate, GateChange
from aiotaskq.core.ids import new_id
from aiotaskq.core.limits import Limit, Rate
from aiotaskq.core.outcome import Cancelled, Completed, Expired, LeaseExpired, Outcome, Released, settle
from aiotaskq.core.parking import parked
from aiotaskq.core.task import SECOND, Task
from aiotaskq.errors import NotFound
from aiotaskq.runtime.handler import Handler, gating_of
from aiotaskq.runtime.limits import Limits
from aiotaskq.runtime.queue.queue import Queue
from tests.support.backends import Store
from tests.support.rows import LEASE, NOW, new, read

ROUNDS = 8


async def _other(store: Store) -> Backend:
    """The store as another process has it, if one can have it."""
    return await store.another() if store.backend.shared else store.backend


async def _gate(store: Store) -> Gate:
    (found,) = await store.backend.gates.find(["g"])
    return found.gate


async def test_gates_are_listed_by_the_beginnings_of_their_keys(store: Store) -> None:
    keys = [f"{first}:{n}" for first in ("tenant", "tenants", "user", "ü") for n in range(4)]
    for key in keys:
        await store.backend.gates.change(key, GateChange(bounds={"cap": 1}), NOW)
    limits = Limits(store.backend, VirtualClock(NOW), {})
    assert sorted(each.key for each in await limits.list()) == sorted(keys)
    assert [each.key for each in await limits.list(prefix="tenant:")] == [f"tenant:{n}" for n in range(4)]
    assert [each.key for each in await limits.list(2, prefix="tenant")] == ["tenant:0", "tenant:1"]
    assert [each.key for each in await limits.list(prefix="ü")] == [f"ü:{n}" for n in range(4)]
    assert await limits.list(prefix="Tenant") == []


async def test_of_changes_of_different_bounds_at_once_each_counts(store: Store) -> None:
    gates = [store.backend.gates, (await _other(store)).gates]
    for n in range(1, ROUNDS):
        await asyncio.gather(
            gates[0].change("g", GateChange(bounds={"cap": n}), NOW),
            gates[1].change("g", GateChange(bounds={"max_waiting": n}), NOW),
            gates[0].change("g", GateChange(bounds={"interval": n * SECOND, "burst": n}), NOW),
            gates[1].change("g", GateChange(charge=1), NOW),
        )
        assert (await _gate(store)).bounds == Bounds(cap=n, max_waiting=n, interval=n * SECOND, burst=n)


async def test_of_the_verbs_of_operators_at_once_each_counts(store: Store) -> None:
    clock = VirtualClock(NOW)
    one, two = Limits(store.backend, clock, {}), Limits(await _other(store), clock, {})
    await one.set("g", 0)
    for n in range(1, ROUNDS):
        await asyncio.gather(
            one.set("g", n),
            two.set("g", max_waiting=n),
            one.set("g", rate=Rate(n, burst=n)),
            two.set("g", window=n),
            one.pause_for("g", 10 * n),
            two.pause_for("g", 5 * n),
        )
        gate = await _gate(store)
        assert gate.bounds == Bounds(cap=n, max_waiting=n, interval=-(-SECOND // n), burst=n, window=n)
        assert gate.closed_until == NOW + 10 * n * SECOND


async def test_a_task_takes_from_each_rate_its_own_tokens(store: Store) -> None:
    calls, tokens = Bounds(interval=SECOND, burst=3), Bounds(interval=SECOND, burst=100)
    flow = Flow(gates=(("calls", calls), ("tokens", tokens)), weights=(("tokens", 40),))
    tasks = [parked(new(flow=flow, seq=NOW + n), NOW) for n in range(4)]
    await store.backend.push(tasks)
    states = await store.backend.gates.find(["calls", "tokens"])
    # The third one has a token of the calls. It waits for twenty tokens, beside the eighty of those that have passed.
    assert [(each.held, each.waiting) for each in states] == [(3, 1), (2, 1)]
    assert [each.gate.next_at for each in states] == [NOW + SECOND, NOW + 20 * SECOND]
    assert len(await store.backend.claim("o", NOW + SECOND, 10, lease_until=LEASE)) == 2


def _outcome(outcome: Outcome) -> Callable[[Queue, Task], Awaitable[object]]:
    async def leave(queue: Queue, heavy: Task) -> None:
        before = await read(queue.backend, heavy)
        assert await queue.backend.update([Change(before, settle(before, outcome, NOW + SECOND))]) == [True]

    return leave


LEAVES: dict[str, Callable[[Queue, Task], Awaitable[object]]] = {
    "cancelled": _outcome(Cancelled()),
    "expired": _outcome(Expired()),
    "deleted": lambda queue, heavy: queue.backend.delete([heavy.task_id]),
    "later": lambda queue, heavy: queue.edit(heavy.task_id, delay=60),
    "less urgent": lambda queue, heavy: queue.edit(heavy.task_id, priority=5),
    "of a paused queue": lambda queue, heavy: queue.edit(heavy.task_id, queue="paused"),
}


@pytest.mark.parametrize("leave", LEAVES.values(), ids=LEAVES.keys())
async def test_what_waits_behind_a_heavy_task_passes_once_that_one_has_left(
    backend: Backend, leave: Callable[[Queue, Task], Awaitable[object]]
) -> None:
    api = Flow(gates=(("api", Bounds(interval=60 * SECOND, burst=10)),))
    tasks = [parked(new(flow=replace(api, weight=n), seq=NOW + at), NOW) for at, n in enumerate((6, 10, 1))]
    await backend.set_paused("paused", True)
    await backend.push(tasks)
    assert [task.task_id for task in await backend.claim("o", NOW, 10, lease_until=LEASE)] == [tasks[0].task_id]
    await backend.gates.admit(NOW + SECOND, 10)
    assert await backend.claim("o", NOW + SECOND, 10, lease_until=LEASE) == []
    await leave(Queue(backend, VirtualClock(NOW + SECOND)), tasks[1])
    await backend.gates.admit(NOW + SECOND, 10)
    found = await backend.claim("o", NOW + SECOND, 10, lease_until=LEASE)
    assert [task.task_id for task in found] == [tasks[2].task_id]


async def test_a_pause_parks_a_heavy_task_and_what_waits_behind_it_passes(backend: Backend) -> None:
    narrow, api = ("narrow", Bounds(cap=1)), ("api", Bounds(interval=60 * SECOND, burst=10))
    flows = [Flow(gates=gates, weight=n) for gates, n in (((api,), 6), ((narrow, api), 10), ((api,), 1))]
    tasks = [parked(new(flow=flow, seq=NOW + n, queue="ab"[n == 1]), NOW) for n, flow in enumerate(flows)]
    await backend.push(tasks[:2])
    await backend.push(tasks[2:])
    assert [task.task_id for task in await backend.claim("o", NOW, 10, lease_until=LEASE)] == [tasks[0].task_id]
    await backend.set_paused("b", True)
    await backend.gates.admit(NOW + SECOND, 10)
    found = await backend.claim("o", NOW + SECOND, 10, lease_until=LEASE)
    assert [task.task_id for task in found] == [tasks[2].task_id]


async def test_a_light_task_that_gets_more_urgent_passes_a_heavy_one(backend: Backend) -> None:
    api = Flow(gates=(("api", Bounds(interval=60 * SECOND, burst=10)),))
    heavy, light = (parked(new(flow=replace(api, weight=n), seq=NOW + 10 - n), NOW) for n in (10, 1))
    await backend.gates.change("api", GateChange(bounds={"interval": 60 * SECOND, "burst": 10}, charge=1), NOW)
    await backend.push([heavy, light])
    assert await backend.claim("o", NOW, 10, lease_until=LEASE) == []
    await Queue(backend, VirtualClock(NOW)).edit(light.task_id, priority=-5)
    await backend.gates.admit(NOW, 10)
    assert [task.task_id for task in await backend.claim("o", NOW, 10, lease_until=LEASE)] == [light.task_id]


async def test_a_waiting_task_that_gets_lighter_passes_by_its_new_weight(backend: Backend) -> None:
    api = Flow(gates=(("api", Bounds(interval=60 * SECOND, burst=10)),))
    tasks = [parked(new(flow=replace(api, weight=n), seq=NOW + at), NOW) for at, n in enumerate((6, 10))]
    await backend.push(tasks)
    assert len(await backend.claim("o", NOW, 10, lease_until=LEASE)) == 1
    before = await read(backend, tasks[1])
    after = before.replace(flow=replace(api, weight=1), fence=before.fence + 1)  # as a newer call changes it
    assert await backend.update([Change(before, after)]) == [True]
    await backend.gates.admit(NOW + SECOND, 10)
    claimed = await backend.claim("o", NOW + SECOND, 10, lease_until=LEASE)
    assert [task.task_id for task in claimed] == [before.task_id]


async def test_a_bound_is_taken_away_and_the_others_stay(store: Store) -> None:
    gates = store.backend.gates
    await gates.change("g", GateChange(bounds={"cap": 3, "interval": SECOND, "burst": 5}), NOW)
    gate = await gates.change("g", GateChange(bounds={"cap": None}), NOW)
    assert (gate.bounds, gate.fixed) == (Bounds(interval=SECOND, burst=5), True)
    gate = await gates.change("g", GateChange(bounds={"interval": None, "burst": 1}), NOW)
    assert (gate.bounds, gate.fixed) == (Bounds(), True)


async def test_a_gate_that_is_closed_for_longer_stays_so(store: Store) -> None:
    gates = store.backend.gates
    for asked, closed in ((5, 5), (9, 9), (7, 9)):
        gate = await gates.change("g", GateChange(closed_at_least=NOW + asked * SECOND), NOW)
        assert (gate.closed_until, gate.fixed) == (NOW + closed * SECOND, False)
    assert (await gates.change("g", GateChange(closed_until=NOW), NOW)).closed_until == NOW


async def test_a_pause_parks_at_the_first_of_several_gates_each(backend: Backend) -> None:
    def task(*keys: str) -> Task:
        return parked(new(queue="a", seq=NOW, flow=Flow(gates=tuple((key, Bounds(cap=9)) for key in keys))), NOW)

    async def counts() -> dict[str, tuple[int, int]]:
        return {each.gate.key: (each.held, each.waiting) for each in await backend.gates.find()}

    alone = [task(f"alone:{n}") for n in range(3)]
    both = [task(f"tenant:{n}", "wide") for n in range(3)]
    await backend.push([*alone, *both])
    assert (await counts())["wide"] == (3, 0)
    await backend.set_paused("a", True)
    first = {f"{name}:{n}": (0, 1) for name in ("alone", "tenant") for n in range(3)}
    assert await counts() == {**first, "wide": (0, 0)}
    await backend.gates.admit(NOW + SECOND, 10)
    assert await backend.claim("o", NOW + SECOND, 10, lease_until=LEASE) == []
    await backend.set_paused("a", False)
    await backend.gates.admit(NOW + SECOND, 10)
    claimed = await backend.claim("o", NOW + SECOND, 10, lease_until=LEASE)
    assert {row.task_id for row in claimed} == {row.task_id for row in [*alone, *both]}
    assert (await counts())["wide"] == (3, 0)


@pytest.mark.parametrize("outcome", [Released("the worker stops"), LeaseExpired()], ids=["released", "lost"])
async def test_what_is_given_back_to_a_paused_queue_holds_no_slot(backend: Backend, outcome: Outcome) -> None:
    flow = Flow(gates=(("t", Bounds(cap=1)), ("all", Bounds(cap=1))))
    asleep, awake = (parked(new(flow=flow, seq=NOW + n, queue=queue), NOW) for n, queue in enumerate("ab"))
    await backend.push([asleep, awake])
    (run,) = await backend.claim("o", NOW, 10, lease_until=LEASE)
    await backend.set_paused("a", True)
    assert await backend.update([Change(run, settle(run, outcome, NOW + SECOND))]) == [True]
    await backend.gates.admit(NOW + SECOND, 10)
    (other,) = await backend.claim("o", NOW + SECOND, 10, lease_until=LEASE)
    assert other.task_id == awake.task_id
    assert await backend.update([Change(other, settle(other, Completed(), NOW + SECOND))]) == [True]
    await backend.gates.admit(NOW + SECOND, 10)
    assert [(each.held, each.waiting) for each in await backend.gates.find(["t", "all"])] == [(0, 1), (0, 0)]
    await backend.set_paused("a", False)
    await backend.gates.admit(NOW + SECOND, 10)
    (again,) = await backend.claim("o", NOW + SECOND, 10, lease_until=LEASE)
    assert (again.task_id, again.run_at, again.crashes) == (asleep.task_id, NOW, int(outcome == LeaseExpired()))


async def test_a_time_at_which_a_task_may_pass_is_told_to_sweeps(backend: Backend) -> None:
    heard: list[str] = []
    stop = backend.listeners.listen(lambda kind, _names: heard.append(kind), GATES)
    rate, cap = Flow(gates=(("rate", Bounds(interval=SECOND)),)), Flow(gates=(("cap", Bounds(cap=1)),))
    await backend.push([parked(new(flow=cap, seq=NOW + n), NOW) for n in range(2)])
    assert heard == []  # the end of the first task lets the second one pass
    await backend.push([parked(new(flow=rate, seq=NOW + n), NOW) for n in range(2)])
    assert set(heard) == {GATES}
    heard.clear()
    await backend.gates.change("cap", GateChange(closed_until=NOW + SECOND), NOW)
    assert set(heard) == {GATES}
    heard.clear()
    task = parked(new(flow=cap, seq=NOW + 9), NOW)
    await backend.push([task])
    before = await read(backend, task)
    wider = Flow(gates=(("cap", Bounds(cap=2)),))
    heard.clear()
    assert await backend.update([Change(before, before.replace(flow=wider, fence=before.fence + 1))]) == [True]
    assert set(heard) == {GATES}
    stop()


class Killed(Exception):
    """The end of the process."""


async def test_an_interrupted_pause_is_mended(shared_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = shared_store.backend
    flow = Flow(gates=(("g", Bounds(cap=1)),))
    paused, other = (parked(new(flow=flow, queue=name, seq=NOW + n), NOW) for n, name in enumerate(("a", "b")))
    await backend.push([paused, other])

    async def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(backend.gates, "pause", killed)
        with pytest.raises(Killed):
            await backend.set_paused("a", True)
    assert await backend.claim("o", NOW, 9, lease_until=LEASE) == []
    await backend.gates.mend(NOW)
    await backend.gates.admit(NOW, 9)
    (task,) = await backend.claim("o", NOW, 9, lease_until=LEASE)
    assert task.task_id == other.task_id
    (waits,) = await backend.get([paused.task_id])
    assert waits is not None and waits.parked


async def test_a_reset_lets_waiting_tasks_pass_by_what_they_declare(store: Store) -> None:
    backend = store.backend
    limits = Limits(backend, VirtualClock(NOW + SECOND), {})
    await limits.set("g", 0, max_waiting=9, rate=Rate(1, per=60))
    flow = Flow(gates=(("g", Bounds(cap=2)),))
    tasks = [parked(new(flow=flow, seq=NOW + number), NOW) for number in range(4)]
    await backend.push(tasks)
    assert await backend.claim("o", NOW + SECOND, 9, lease_until=LEASE) == []
    state = await limits.reset("g")
    assert (state.cap, state.rate, state.max_waiting, state.fixed) == (2, None, None, False)
    claimed = await backend.claim("o", NOW + SECOND, 9, lease_until=LEASE)
    assert [task.task_id for task in claimed] == [task.task_id for task in tasks[:2]]
    await limits.set("g", 5)
    assert (await limits.reset("g")).cap == 2
    await limits.set("none", 5)
    assert (await limits.reset("none")).cap == 5  # nothing says what pushes declare
    with pytest.raises(NotFound):
        await limits.reset("unknown")


@pytest.mark.parametrize("cap", [1, 5])
async def test_a_worker_gives_the_backlog_the_limits_of_its_code(store: Store, cap: int) -> None:
    backend, clock = store.backend, VirtualClock(NOW + SECOND)
    tasks = [new(flow=Flow(gates=((key, Bounds(cap=3)),)), seq=NOW) for key in ("all", "set", "tenant:a")] * 6
    await backend.push([parked(task.replace(task_id=new_id(), seq=NOW + n), NOW) for n, task in enumerate(tasks)])
    limits = Limits(backend, clock, {})
    await limits.set("set", 4)
    code = {name: handler_of(name, Limit(cap, name=name)) for name in ("all", "set", "unused")} | {
        "export": handler_of("export", Limit(cap, key="tenant"))
    }
    deployed = Limits(backend, clock, code)
    await deployed.declare()
    found = {state.key: (state.cap, state.held, state.fixed) for state in await limits.list()}
    # Those with a key follow with the next push of that key, or a reset.
    assert found == {"all": (cap, max(3, cap), False), "set": (4, 4, True), "tenant:a": (3, 3, False)}
    state = await deployed.reset("tenant:a")
    assert (state.cap, state.held) == (cap, max(3, cap))
    assert (await deployed.reset("set")).cap == cap


def handler_of(name: str, limit: Limit) -> Handler:
    async def run(tenant: str = "a") -> None: ...

    handler = Handler(name=name, function=run, executor="loop", template=new(type=name))
    return replace(handler, gating=gating_of(handler, [limit]))
