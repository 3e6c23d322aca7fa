"""``max_waiting`` on each store: a push after which more tasks would wait at a gate is refused, and not written."""

from __future__ import annotations

from random import Random

import pytest
from msgspec.structs import asdict, replace

from aiotaskq.backends.base import Backend
from aiotaskq.core.gate import Bounds, GateChange
from aiotaskq.core.ids import new_id
from aiotaskq.core.plan import Node, Outline, in_group, plan
from aiotaskq.core.task import SECOND
from aiotaskq.errors import QueueFull
from tests.support.gated import CAP_1, CAP_2, MINUTE, claimed, counts, gated, settled
from tests.support.rows import NOW, new


async def test_max_waiting_refuses_a_push_whole(backend: Backend) -> None:
    bounds = Bounds(cap=1, max_waiting=1)
    await backend.push([gated(("g", bounds)), gated(("g", bounds))])
    other = new()
    with pytest.raises(QueueFull, match="max_waiting=1"):
        await backend.push([other, gated(("g", bounds))])
    assert await backend.get([other.task_id]) == [None]
    assert await counts(backend) == (1, 1)
    (running,) = await claimed(backend)
    await settled(backend, running)
    await backend.push([gated(("g", bounds))])
    assert await counts(backend) == (1, 1)
    with pytest.raises(QueueFull):
        await backend.push([gated(("new", bounds)) for _ in range(3)])
    assert await backend.gates.find(["new"]) == []


async def test_max_waiting_counts_at_each_gate_of_a_pushed_task(backend: Backend) -> None:
    wide = ("all", Bounds(cap=1, max_waiting=1))
    await backend.push([gated(("tenant:a", CAP_1), wide), gated(("tenant:b", CAP_1), wide)])
    assert await counts(backend, "all") == (1, 1)
    other = new()
    with pytest.raises(QueueFull, match="limit 'all': more than max_waiting=1"):
        await backend.push([other, gated(("tenant:c", CAP_1), wide)])
    assert await backend.get([other.task_id]) == [None]
    assert await backend.gates.find(["tenant:c"]) == []
    await backend.push([gated(("tenant:b", CAP_1), wide)])  # which waits at its first gate
    assert (await counts(backend, "tenant:b"), await counts(backend, "all")) == ((1, 1), (1, 1))
    wide = ("others", Bounds(cap=1, max_waiting=1))
    with pytest.raises(QueueFull, match="'others'"):
        await backend.push([gated((f"tenant:{name}", CAP_1), wide) for name in "xyz"])
    await backend.push([gated((f"tenant:{name}", CAP_1), wide) for name in "xy"] + [gated(("tenant:x", CAP_1), wide)])
    assert (await counts(backend, "tenant:x"), await counts(backend, "others")) == ((1, 1), (1, 1))


@pytest.mark.parametrize("waits", ["delayed", "of a paused queue", "delayed, of a paused queue"])
async def test_what_may_not_pass_yet_is_before_no_task_of_a_push(backend: Backend, waits: str) -> None:
    flow = ("tenant", CAP_2), ("g", Bounds(cap=2, max_waiting=1))
    await backend.set_paused("asleep", True)
    now = NOW + MINUTE
    due = {"delayed": now + 1, "of a paused queue": NOW, "delayed, of a paused queue": now}[waits]
    await backend.push([gated(*flow[1:], due=due, queue="awake" if waits == "delayed" else "asleep")])
    await backend.push([gated(*flow, due=now).replace(seq=now) for _ in range(2)])  # both pass
    assert await counts(backend) == (2, 1)
    with pytest.raises(QueueFull, match="max_waiting=1"):
        await backend.push([gated(*flow[1:], due=now).replace(seq=now)])


async def test_a_pushed_task_of_a_paused_queue_waits(backend: Backend) -> None:
    full = ("g", Bounds(cap=2, max_waiting=1))
    await backend.set_paused("asleep", True)
    with pytest.raises(QueueFull, match="max_waiting=1"):
        await backend.push([gated(full, queue="asleep"), gated(full, queue="asleep")])
    await backend.push([gated(full, queue="asleep"), gated(full)])
    assert await counts(backend) == (1, 1)


async def test_a_push_is_refused_if_more_than_may_would_wait(backend: Backend) -> None:
    random = Random(15)
    refused = 0
    for number in range(30):
        keys = [f"{number}:{name}" for name in "abc"]
        bounds = [
            Bounds(
                cap=random.choice([0, 1, 3, None]),
                window=random.choice([None, None, 2]),
                interval=random.choice([None, MINUTE]),
                burst=random.randint(1, 3),
            )
            for _ in keys
        ]
        most = [random.choice([None, 0, 1, 2]) for _ in keys]
        for _ in range(3):
            picked = [
                [place for place in range(3) if random.random() < 0.6] or [2] for _ in range(random.randint(1, 4))
            ]
            tasks = [
                gated(
                    *[(keys[place], replace(bounds[place], max_waiting=most[place])) for place in places],
                    priority=random.randint(1, 2),
                    weight=random.randint(1, 2),
                )
                for places in picked
            ]
            tasks = [replace(task, due_at=random.choice([NOW, task.seq])) for task in tasks]
            try:
                await backend.push(tasks)
                wrong = False
            except QueueFull:
                refused += 1
                for place in range(3):  # an operator's bounds, which those of tasks do not replace
                    await backend.gates.change(keys[place], GateChange(bounds=asdict(bounds[place])), NOW)
                await backend.push(tasks)
                wrong = True
            found = {state.gate.key: state.waiting for state in await backend.gates.find(keys)}
            here = {keys[place] for places in picked for place in places}
            full = [
                key for key, bound in zip(keys, most, strict=True) if bound is not None and found.get(key, 0) > bound
            ]
            assert bool(here & set(full)) == wrong, (number, picked)
            if wrong:
                break
    assert 3 < refused < 30


async def test_a_bounded_push_passes_its_gates_in_claim_order(backend: Backend) -> None:
    narrow, shut = ("narrow", CAP_1), ("shut", Bounds(cap=0, max_waiting=0))
    await backend.push(
        [gated(narrow, shut, priority=5), gated(narrow)]
    )  # the second one passes, and so the first waits
    assert (await counts(backend, "narrow"), await counts(backend, "shut")) == ((1, 1), (0, 0))


async def test_what_a_fair_share_lets_pass_in_a_bounded_push_is_behind_what_is_ready(backend: Backend) -> None:
    wide, shut = ("wide", CAP_1), ("shut", Bounds(cap=0, max_waiting=0))
    plain = gated(("narrow", CAP_1), wide, due=NOW - SECOND)
    fair = gated(("fair", Bounds(window=1)), wide, shut, due=NOW - MINUTE)
    await backend.push([fair, plain])
    assert (await counts(backend, "wide"), await counts(backend, "shut")) == ((1, 1), (0, 0))


async def test_a_light_task_of_a_bounded_push_passes_no_heavy_one_that_it_reaches(backend: Backend) -> None:
    api = ("api", Bounds(interval=MINUTE, burst=2, max_waiting=1))
    await backend.push([gated(api)])
    with pytest.raises(QueueFull, match="max_waiting=1"):
        await backend.push([gated(api, weight=2), gated(("narrow", CAP_1), api)])
    assert await counts(backend, "api") == (1, 0)


async def test_members_that_a_group_gets_later_are_refused_as_a_push_is(backend: Backend) -> None:
    full, group_id = ("g", Bounds(cap=1, max_waiting=1)), new_id()
    await backend.push([gated(full), gated(full)])
    await backend.groups.push(plan(Outline(group_id=group_id, nodes=(Node("m", new()),)), NOW))
    with pytest.raises(QueueFull, match="max_waiting=1"):
        await backend.groups.add(group_id, [in_group(gated(full), group_id, new_id(), NOW)], NOW)
    (group,) = await backend.groups.get([group_id])
    assert group is not None and group.total == 1
    assert await counts(backend) == (1, 1)
