"""A rate on each store: no window of starts has more tokens than it may, whenever its tasks are claimed."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest

from aiotaskq.backends import connect
from aiotaskq.backends.base import Backend, Change, Claim
from aiotaskq.core.gate import Bounds, Flow, GateChange
from aiotaskq.core.limits import Rate
from aiotaskq.core.outcome import Backoff, Cancelled, Completed, Failed, Released, settle
from aiotaskq.core.parking import parked, tokens
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task, TaskFilter
from aiotaskq.errors import QueueFull
from tests.support.backends import Store
from tests.support.codecs import Keyed
from tests.support.rows import NOW, ids, new

MINUTE = 60 * SECOND
RATE = Rate(10, per=6, burst=10)
BOUNDS = Bounds(interval=RATE.interval, burst=RATE.saved)
NARROW = ("tenant:a", Bounds(cap=50))

_seqs = itertools.count(NOW)
Starts = list[tuple[int, int]]


def rated(*gates: tuple[str, Bounds], at: int = NOW, weight: int = 1, **fields: object) -> Task:
    flow = Flow(gates=gates or (("api", BOUNDS),), weight=weight)
    return parked(new(flow=flow, seq=max(at, next(_seqs)), max_retries=1, **fields), at)


async def started(backend: Backend, now: int, starts: Starts, limit: int = 100) -> list[Task]:
    """Claim what is ready, and note its starts."""
    tasks = await backend.claim("o", now, limit, lease_until=now + MINUTE)
    starts += [(now, tokens(task, "api")) for task in tasks]
    return tasks


async def ended(backend: Backend, tasks: Sequence[Task], now: int) -> None:
    changes = [Change(task, settle(task, Completed(), now)) for task in tasks]
    assert await backend.update(changes) == [True] * len(tasks)


def most(starts: Starts, window: int = 6 * SECOND) -> int:
    """The most tokens that start within a window."""
    return max(
        (sum(n for at, n in starts[k:] if at <= begin + window) for k, (begin, _) in enumerate(starts)), default=0
    )


@pytest.mark.parametrize("gates", [(("api", BOUNDS),), (NARROW, ("api", BOUNDS)), (("api", BOUNDS), NARROW)])
@pytest.mark.parametrize("ends", [False, True])
async def test_what_starts_late_takes_its_tokens_then(
    backend: Backend, gates: tuple[tuple[str, Bounds], ...], ends: bool
) -> None:
    """The first worker comes after 7 s, and tasks are pushed on and on."""
    starts: Starts = []
    await backend.push([rated(*gates) for _ in range(10)])
    now = NOW + 7 * SECOND
    tasks = await started(backend, now, starts)
    assert len(tasks) == 10
    for _ in range(30):
        if ends:
            await ended(backend, tasks, now)
        await backend.push([rated(*gates, at=now) for _ in range(3)])
        await backend.gates.admit(now, 10)
        tasks = await started(backend, now, starts)
        now += SECOND // 4
    assert most(starts) == 20  # and no less than it may
    assert starts[-1][0] > NOW + 14 * SECOND - SECOND // 2


async def test_what_starts_while_a_limit_is_closed_takes_its_tokens(backend: Backend) -> None:
    starts: Starts = []
    await backend.push([rated() for _ in range(20)])
    await backend.gates.change("api", GateChange(closed_until=NOW + MINUTE), NOW + 1)
    tasks = await started(backend, NOW + MINUTE - 10, starts)
    assert len(tasks) == 10
    await ended(backend, tasks, NOW + MINUTE - 5)
    await backend.gates.admit(NOW + MINUTE, 10)
    assert await started(backend, NOW + MINUTE, starts) == []


async def test_a_charge_counts_beside_what_has_started(backend: Backend) -> None:
    starts: Starts = []
    await backend.push([rated() for _ in range(9)])
    now = NOW + 7 * SECOND
    assert len(await started(backend, now, starts)) == 9
    await backend.gates.change("api", GateChange(charge=1), now)
    await backend.push([rated(at=now)])
    await backend.gates.admit(now, 10)
    assert await started(backend, now, starts) == []
    await backend.gates.change("api", GateChange(charge=-2), now)
    await backend.gates.admit(now, 10)
    assert len(await started(backend, now, starts)) == 1


async def test_what_has_started_is_no_room_for_a_push(backend: Backend) -> None:
    full = ("api", Bounds(interval=RATE.interval, burst=10, max_waiting=0))
    starts: Starts = []
    await backend.push([rated(full) for _ in range(10)])
    now = NOW + 7 * SECOND
    assert len(await started(backend, now, starts)) == 10
    with pytest.raises(QueueFull):
        await backend.push([rated(full, at=now)])
    await backend.push([rated(full, at=now + RATE.interval)])
    assert len(await started(backend, now + RATE.interval, starts)) == 1


async def test_a_rate_that_is_set_for_a_limit_charges_what_starts_from_then_on(backend: Backend) -> None:
    plain, starts = ("api", Bounds(cap=100)), Starts()
    await backend.push([rated(plain) for _ in range(4)])
    assert len(await started(backend, NOW + 1, starts, 2)) == 2
    await backend.gates.change("api", GateChange(bounds={"interval": SECOND, "burst": 3}), NOW + 2)
    await backend.push([rated(plain, at=NOW + 3) for _ in range(5)])
    assert len(await started(backend, NOW + 3, starts)) == 3  # two were ready, and one token was left
    now = NOW + MINUTE
    await backend.gates.admit(now, 10)
    tasks = await started(backend, now + 10 * SECOND, starts)
    assert len(tasks) == 3
    await ended(backend, tasks, now + 10 * SECOND)
    assert await started(backend, now + 10 * SECOND, starts) == []
    await backend.gates.change("api", GateChange(bounds={"interval": None, "burst": 1}), now + 11 * SECOND)
    assert len(await started(backend, now + 11 * SECOND, starts)) == 1


@pytest.mark.parametrize("seed", range(3))
async def test_no_window_of_any_traffic_has_more_than_the_rate_and_its_burst(backend: Backend, seed: int) -> None:
    dice, starts, running = random.Random(seed), Starts(), list[Task]()
    soon = Backoff(base=1, factor=1.0, jitter=False)
    now = NOW + MINUTE
    for _ in range(120):
        now += dice.choice((0, SECOND // 5, SECOND, 7 * SECOND, 20 * SECOND))
        match dice.choice(("push", "push", "claim", "claim", "end", "end", "sweep", "cancel", "close")):
            case "push":
                gates = dice.choice(((("api", BOUNDS),), (NARROW, ("api", BOUNDS))))
                weight = dice.choice((1, 1, 3))
                tasks = [rated(*gates, at=now, weight=weight) for _ in range(dice.choice((1, 5, 20)))]
                now = tasks[-1].seq
                await backend.push(tasks)
            case "claim":
                running += await started(backend, now, starts, dice.choice((1, 3, 50)))
            case "end" if running:
                task = running.pop(dice.randrange(len(running)))
                outcome = dice.choice((Completed(), Completed(), Failed("e", backoff=soon)))
                changes = [Change(task, settle(task, outcome, now))]
                if dice.random() < 0.3:
                    _, tasks = await backend.exchange(changes, Claim("o", now, 2))
                    running += tasks
                    starts += [(now, tokens(task, "api")) for task in tasks]
                else:
                    await backend.update(changes)
            case "sweep":
                await backend.gates.admit(now, 10)
            case "cancel":
                for task in (await backend.find(TaskFilter(status=(Status.PENDING,)), 100))[:2]:
                    await backend.update([Change(task, settle(task, Cancelled(), now))])
            case "close":
                await backend.gates.change("api", GateChange(closed_until=dice.choice((0, now + 3 * SECOND))), now)
    starts = sorted(starts)
    assert len(starts) > 30
    assert most(starts) <= 20
    assert most(starts, 0) <= 10


@pytest.mark.parametrize("back", [19 * SECOND, 60 * MINUTE])
async def test_a_clock_that_is_set_back_fills_no_rate(backend: Backend, back: int) -> None:
    starts: Starts = []
    await backend.push([rated() for _ in range(10)])
    now = NOW + 20 * SECOND
    tasks = await started(backend, now, starts)  # what has passed takes its tokens when it starts
    assert len(tasks) == 10
    now -= back
    await backend.push([rated(at=now) for _ in range(30)])
    await backend.gates.admit(now, 10)
    assert await started(backend, now, starts) == []
    await ended(backend, tasks, now)
    await backend.gates.admit(now, 10)
    assert await started(backend, now, starts) == []
    now = max(now, NOW) + 6 * SECOND
    await backend.gates.admit(now, 10)  # the rate is full again
    now += 6 * SECOND
    assert len(await started(backend, now, starts)) == 10  # before the clock is where it was
    await backend.gates.admit(now, 10)
    assert await started(backend, now, starts) == []


async def test_a_task_with_more_tokens_than_the_burst_takes_them_all_from_a_full_rate(backend: Backend) -> None:
    gate = ("api", Bounds(interval=SECOND, burst=9))
    await backend.gates.change("api", GateChange(bounds={"interval": SECOND, "burst": 2}), NOW)
    heavy, light = rated(gate, weight=5), rated(gate)
    await backend.push([heavy, light])
    starts: Starts = []
    assert ids(await started(backend, NOW, starts)) == [heavy.task_id]
    await backend.gates.admit(NOW + 4 * SECOND - 1, 10)
    assert await started(backend, NOW + 4 * SECOND - 1, starts) == []
    assert await backend.gates.admit(NOW + 4 * SECOND, 10) is None
    assert ids(await started(backend, NOW + 4 * SECOND, starts)) == [light.task_id]


async def test_what_leaves_before_it_starts_takes_no_more_tokens_than_are_saved(backend: Backend) -> None:
    plain, starts = ("api", Bounds(cap=100)), Starts()
    tasks = [rated(plain) for _ in range(50)]
    await backend.push(tasks)
    await backend.gates.change("api", GateChange(bounds={"interval": SECOND, "burst": 2}), NOW)
    await backend.push([rated(plain)])
    rows = [row for row in await backend.get(ids(tasks)) if row is not None]
    assert all(await backend.update([Change(row, settle(row, Cancelled(), NOW)) for row in rows]))
    await backend.gates.admit(NOW + 2 * SECOND, 10)
    assert len(await started(backend, NOW + 2 * SECOND, starts)) == 1


async def test_a_task_that_is_given_back_takes_its_tokens_when_it_starts(backend: Backend) -> None:
    starts: Starts = []
    await backend.push([rated() for _ in range(10)])
    tasks = await started(backend, NOW + 1, starts)
    assert all(await backend.update([Change(task, settle(task, Released("never ran"), NOW + 2)) for task in tasks]))
    now = NOW + MINUTE
    again = await started(backend, now, starts)
    assert sorted(ids(again)) == sorted(ids(tasks))
    await backend.push([rated(at=now) for _ in range(10)])
    assert await started(backend, now, starts) == []


async def test_a_start_counts_though_the_attempts_of_its_task_are_coded(durable_store: Store) -> None:
    backend = connect(durable_store.url, codec=Keyed("k"))
    await backend.open()
    gate, late = ("api", Bounds(interval=SECOND)), NOW + 10 * SECOND
    await backend.push([rated(gate)])
    (task,) = await backend.claim("o", late, 1, lease_until=late + MINUTE)
    failed = settle(task, Failed("e", backoff=Backoff(base=60, jitter=False)), late)
    assert await backend.update([Change(task, failed)]) == [True]
    await backend.push([other := rated(gate, at=late + 1)])
    await backend.gates.admit(late + SECOND - 1, 10)
    assert await backend.claim("o", late + SECOND - 1, 1) == []
    await backend.gates.admit(late + SECOND, 10)
    assert ids(await backend.claim("o", late + SECOND, 1)) == [other.task_id]
    await backend.close()
