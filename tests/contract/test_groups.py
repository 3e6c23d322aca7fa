"""Groups, chains and graphs on each store: each callback once, no child before its parents, none waits for ever."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from msgspec.structs import replace

from aiotaskq.backends.base import Backend, Change, Claim
from aiotaskq.backends.flow.transaction import Followed
from aiotaskq.core.gate import Bounds, Flow
from aiotaskq.core.groups import CANCEL, FAIL, RUN, GroupState, derived_id
from aiotaskq.core.ids import new_id
from aiotaskq.core.outcome import Backoff, Cancelled, Completed, Expired, Failed, Outcome, Released, Requeued, settle
from aiotaskq.core.plan import Node, Outline, in_group, plan
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task
from tests.support.backends import Store
from tests.support.rows import LEASE, NOW, ids, new, read

DONE = Completed("r")
BROKEN = Failed("Boom: no", retryable=False)
LATER = NOW + SECOND


def outline(*whats: Task | Outline, **fields: Any) -> Outline:
    """A group of these, with callbacks unless others are given."""
    fields = {
        "then": new(type="then", seq=NOW),
        "on_failure": new(type="alert", seq=NOW),
        "group_id": new_id(),
        **fields,
    }
    return Outline(nodes=tuple(Node(str(n), what) for n, what in enumerate(whats)), **fields)


def graph(edges: dict[str, dict[str, str]], **fields: Any) -> Outline:
    """A workflow without callbacks: by name of a task its parents and their rules."""
    nodes = tuple(Node(name, new(type=name, **fields), after) for name, after in edges.items())
    return Outline(group_id=new_id(), nodes=nodes, named=True)


async def pushed(backend: Backend, made: Outline) -> str:
    assert await backend.groups.push(plan(made, NOW))
    return made.group_id


async def claimed(backend: Backend, now: int = LATER, limit: int = 100) -> list[Task]:
    return await backend.claim("o", now, limit, lease_until=LEASE)


async def settled(backend: Backend, task: Task, outcome: Outcome = DONE, now: int = LATER) -> Task:
    after = settle(task, outcome, now)
    assert await backend.update([Change(task, after)]) == [True]
    return after


async def state(backend: Backend, group_id: str) -> GroupState:
    (found,) = await backend.groups.get([group_id])
    assert found is not None
    return found


async def counts(backend: Backend, group_id: str) -> tuple[int, int, int, int]:
    """Total, remaining, failed and cancelled."""
    found = await state(backend, group_id)
    return found.total, found.remaining, found.failed, found.cancelled


async def rows(backend: Backend, made: Outline) -> dict[str, Task]:
    """The tasks of a workflow by their names."""
    found = await backend.get([node.what.task_id for node in made.nodes if isinstance(node.what, Task)])
    return {node.name: row for node, row in zip(made.nodes, found, strict=True) if row is not None}


# ---- groups ----------------------------------------------------------------------------------------------------------


@pytest.mark.promise("groups, chains and workflows")
@pytest.mark.parametrize(("last", "kind"), [(DONE, "then"), (BROKEN, "alert")])
async def test_the_last_end_pushes_the_callback_once(backend: Backend, last: Outcome, kind: str) -> None:
    made = outline(new(), new(), new(), name="n")
    group_id = await pushed(backend, made)
    one, two, three = await claimed(backend)
    assert {task.flow for task in (one, two, three)} == {Flow(group=group_id)}
    await settled(backend, one)
    changes = [Change(two, settle(two, DONE, LATER)), Change(three, settle(three, last, LATER))]
    assert await claimed(backend) == []
    assert await backend.update([*changes, changes[0]]) == [True, True, False]
    found = await state(backend, group_id)
    assert (found.remaining, found.completed, found.ended_at, found.name) == (0, 3 - (last is BROKEN), LATER, "n")
    (callback,) = await claimed(backend)
    assert callback.type == kind
    assert callback.flow == Flow(source=group_id)
    assert callback.task_id == derived_id(group_id, "then" if kind == "then" else "on_failure", 1)
    assert await backend.update(changes) == [False, False]  # late
    await settled(backend, callback)
    assert await claimed(backend) == []


async def test_a_group_of_no_members_calls_back_at_once(backend: Backend) -> None:
    group_id = await pushed(backend, outline())
    (callback,) = await claimed(backend)
    assert (callback.type, (await state(backend, group_id)).status) == ("then", Status.COMPLETED)


async def test_a_group_id_is_pushed_once(backend: Backend) -> None:
    made = outline(new())
    await pushed(backend, made)
    again = outline(new(), new(), group_id=made.group_id)
    assert not await backend.groups.push(plan(again, NOW))
    assert await counts(backend, made.group_id) == (1, 1, 0, 0)
    assert len(await claimed(backend)) == 1


async def test_what_does_not_end_a_member_counts_for_nothing(backend: Backend) -> None:
    group_id = await pushed(backend, outline(new(max_retries=1)))
    (task,) = await claimed(backend)
    await settled(backend, task, Released("given back"))
    (task,) = await claimed(backend)
    zombie = task
    await settled(backend, task, Failed("once", backoff=Backoff(base=0.0)))
    (task,) = await claimed(backend)
    assert await backend.update([Change(zombie, settle(zombie, BROKEN, LATER))]) == [False]
    assert await counts(backend, group_id) == (1, 1, 0, 0)
    await settled(backend, task)
    assert await counts(backend, group_id) == (1, 0, 0, 0)


async def test_an_operators_retry_adds_one_back_and_the_group_ends_again(backend: Backend) -> None:
    group_id = await pushed(backend, outline(new(), new()))
    one, two = await claimed(backend)
    await settled(backend, one)
    failed = await settled(backend, two, BROKEN)
    (alert,) = await claimed(backend)
    await settled(backend, failed, Requeued())
    found = await state(backend, group_id)
    assert (found.remaining, found.failed, found.ended_at, found.generation) == (1, 0, None, 2)
    (two,) = await claimed(backend)
    await settled(backend, two)
    (then,) = await claimed(backend)
    assert (alert.type, then.type, then.task_id) == ("alert", "then", derived_id(group_id, "then", 2))
    assert await counts(backend, group_id) == (2, 0, 0, 0)


async def test_a_group_in_a_group_is_one_member(backend: Backend) -> None:
    inner = outline(new(), new(), then=None, on_failure=None)
    outer = await pushed(backend, outline(inner, new(), outline(then=None)))
    assert await counts(backend, outer) == (3, 2, 0, 0)  # the empty one has ended
    tasks = await claimed(backend)
    done = [await settled(backend, task, BROKEN if task is tasks[0] else DONE) for task in tasks]
    assert await counts(backend, outer) == (3, 0, 1, 0)
    (alert,) = await claimed(backend)
    await settled(backend, done[0], Requeued())
    assert await counts(backend, outer) == (3, 1, 0, 0)
    (task,) = await claimed(backend)
    await settled(backend, task)
    assert [alert.type, *(task.type for task in await claimed(backend))] == ["alert", "then"]
    members = await backend.groups.members(outer, 10)
    assert [(member.position, member.is_group) for member in members] == [(0, True), (1, False), (2, True)]
    assert await backend.groups.members(outer, 1, start=1) == [members[1]]


async def test_a_group_behind_one_without_members_begins_at_once(backend: Backend) -> None:
    behind = outline(outline(new(type="inner"), then=None), new(type="own"), then=None)
    nodes = (Node("none", outline(then=None)), Node("behind", behind, {"none": CANCEL}))
    await pushed(backend, Outline(group_id=new_id(), nodes=nodes))
    assert [task.type for task in await claimed(backend)] == ["inner", "own"]


async def test_a_mend_finds_nothing_wrong_with_groups_of_which_some_have_ended(backend: Backend) -> None:
    outer = await pushed(backend, outline(outline(new(priority=-1), then=None), new()))
    done, other = await claimed(backend)
    await settled(backend, done)
    assert await backend.groups.mend(LATER) == 0
    assert await counts(backend, outer) == (2, 1, 0, 0)
    await settled(backend, other)
    assert [task.type for task in await claimed(backend)] == ["then"]


async def test_members_are_added_until_the_group_has_ended(backend: Backend) -> None:
    group_id = await pushed(backend, outline(new()))
    (task,) = await claimed(backend)
    more = [in_group(new(), group_id, derived_id(task.task_id, n), NOW) for n in range(2)]
    assert await backend.groups.add(group_id, more, LATER) == 2
    assert await backend.groups.add(group_id, more, LATER) == 0  # the member runs again
    assert await counts(backend, group_id) == (3, 3, 0, 0)
    assert [m.member_id for m in await backend.groups.members(group_id, 9)] == [task.task_id, *ids(more)]
    for each in (task, *await claimed(backend)):
        await settled(backend, each)
    (then,) = await claimed(backend)
    assert await backend.groups.add(group_id, [in_group(new(), group_id, new_id(), NOW)], LATER) is None
    assert await backend.groups.add("unknown", [], LATER) is None
    assert (then.type, await claimed(backend)) == ("then", [])


async def test_a_cancelled_group_pushes_nothing_and_takes_no_members(backend: Backend) -> None:
    innermost = outline(new(), then=None)
    inner = outline(innermost, then=None)
    outer = await pushed(backend, outline(inner, new()))
    assert await backend.groups.request_cancel(outer)
    assert set(await backend.groups.cancelling(10)) == {outer, inner.group_id, innermost.group_id}
    assert await backend.groups.add(outer, [in_group(new(), outer, new_id(), NOW)], LATER) is None
    for task in await claimed(backend):
        await settled(backend, task, Cancelled())
    found = await state(backend, outer)
    assert (found.status, found.cancelled, await claimed(backend)) == (Status.CANCELLED, 2, [])
    assert await backend.groups.cancelling(10) == []
    assert not await backend.groups.request_cancel(outer)
    assert not await backend.groups.request_cancel("unknown")


async def test_a_deleted_member_has_ended(backend: Backend) -> None:
    group_id = await pushed(backend, outline(new(), new()))
    one, two = await claimed(backend)
    assert await backend.delete([one.task_id]) == 1
    assert await counts(backend, group_id) == (2, 1, 0, 1)
    await settled(backend, two)
    assert [task.type for task in await claimed(backend)] == ["alert"]
    assert await backend.delete([two.task_id]) == 1
    assert await counts(backend, group_id) == (2, 0, 0, 1)


async def test_groups_are_found_and_purged(backend: Backend, hints: list[tuple[str, list[str]]]) -> None:
    made = [outline(new(priority=priority), then=None) for priority in (0, -1, 0)]
    for number, each in enumerate(made):
        assert await backend.groups.push(plan(each, NOW + number))
    newest_first = [each.group_id for each in reversed(made)]
    assert [g.group_id for g in await backend.groups.find(9)] == newest_first
    assert [g.group_id for g in await backend.groups.find(1, after=newest_first[0])] == newest_first[1:2]
    (task,) = await claimed(backend, limit=1)
    await settled(backend, task)
    assert task.flow is not None
    assert any(kind == "ended" and task.flow.group in names for kind, names in hints)
    assert [g.group_id for g in await backend.groups.find(9, ended=True)] == [task.flow.group]
    assert len(await backend.groups.find(9, ended=False)) == 2
    assert [g.group_id for g in await backend.groups.find(9)] == newest_first, "ended or not"
    assert await backend.groups.find(9, after="unknown") == []
    assert await backend.groups.purge(LATER, 10) == 0
    assert await backend.groups.purge(LATER + 1, 10) == 1
    assert await backend.groups.members(task.flow.group or "", 9) == []
    assert await backend.groups.get([task.flow.group or "", "unknown"]) == [None, None]


async def test_what_follows_from_an_end_is_told_to_its_process(
    backend: Backend, hints: list[tuple[str, list[str]]]
) -> None:
    heard: list[Followed] = []
    backend.groups.heard = heard.append
    edges = {"a": {}, "b": {"a": CANCEL}, "c": {"b": FAIL}, "d": {"c": RUN}}
    made = graph(edges)
    made = replace(made, on_failure=new(type="alert", seq=NOW))
    above = outline(made)
    await pushed(backend, above)
    assert heard == []
    at = {name: row.task_id for name, row in (await rows(backend, made)).items()}
    await settled(backend, (await claimed(backend))[0], BROKEN)
    (first,) = heard
    assert (set(first.ended), first.pushed, first.ended_groups) == ({at["b"], at["c"]}, [], [])
    assert first.counted == [made.group_id]
    assert any(kind == "ended" and {at["b"], at["c"]} <= set(names) for kind, names in hints)
    heard.clear()
    await settled(backend, (await claimed(backend))[0])
    (second,) = heard
    callbacks = [derived_id(each.group_id, "on_failure", 1) for each in (made, above)]
    assert (second.ended, set(second.pushed)) == ([], set(callbacks))
    assert (second.ended_groups, second.counted) == ([made.group_id, above.group_id],) * 2
    assert any(kind == "ended" and {made.group_id, above.group_id} <= set(names) for kind, names in hints)
    heard.clear()
    (row,) = await backend.get([at["a"]])
    assert row is not None
    await settled(backend, row, Requeued())
    (third,) = heard
    assert (third.ended, third.pushed, third.ended_groups, len(third.counted)) == ([], [], [], 2)


async def test_group_ids_are_found_by_their_beginnings(backend: Backend) -> None:
    for group_id in ("night-2", "Night-3", "night-1", "n%"):
        await pushed(backend, outline(new(), group_id=group_id))
    assert sorted(await backend.groups.ids_with_prefix("night", 9)) == ["night-1", "night-2"]
    assert len(await backend.groups.ids_with_prefix("n", 2)) == 2
    assert await backend.groups.ids_with_prefix("n%", 9) == ["n%"]
    assert await backend.groups.ids_with_prefix("x", 9) == []


async def test_a_callback_with_a_gate_waits_there(backend: Backend) -> None:
    gated = new(type="then", seq=NOW, flow=Flow(gates=(("g", Bounds(cap=1)),)))
    for _ in range(2):
        await pushed(backend, outline(new(), then=gated))
    for task in await claimed(backend):
        await settled(backend, task)
    (first,) = await claimed(backend)
    await settled(backend, first)
    assert [task.type for task in await claimed(backend)] == ["then"]


# ---- children --------------------------------------------------------------------------------------------------------


async def test_a_child_starts_when_its_last_parent_has_completed(backend: Backend) -> None:
    made = graph({"a": {}, "b": {}, "c": {"a": CANCEL, "b": CANCEL}, "d": {"c": CANCEL}})
    group_id = await pushed(backend, made)
    assert [(name, row.waits, row.parked) for name, row in (await rows(backend, made)).items()] == [
        ("a", 0, False),
        ("b", 0, False),
        ("c", 2, True),
        ("d", 1, True),
    ]
    a, b = await claimed(backend)
    await settled(backend, a)
    assert await claimed(backend) == []
    await settled(backend, b)
    (c,) = await claimed(backend)
    assert (c.type, c.run_at, c.due_at, c.waits, c.gate) == ("c", NOW, None, 0, None)
    assert c.flow is not None and c.flow.parents == ((a.task_id, "a"), (b.task_id, "b"))
    assert await backend.next_run_at(LATER) is None
    held, (d,) = await backend.exchange([Change(c, settle(c, DONE, LATER))], Claim("o", LATER, 5))
    await settled(backend, d)
    assert (held, d.type, (await state(backend, group_id)).status) == ([True], "d", Status.COMPLETED)


@pytest.mark.parametrize(("rule", "status"), [(CANCEL, Status.CANCELLED), (FAIL, Status.FAILED), (RUN, Status.PENDING)])
@pytest.mark.parametrize("outcome", [BROKEN, Cancelled()])
async def test_the_rule_of_an_edge_says_what_a_failure_means(
    backend: Backend, rule: str, status: Status, outcome: Outcome
) -> None:
    made = graph({"a": {}, "other": {}, "b": {"a": rule, "other": CANCEL}, "c": {"b": CANCEL}, "d": {"c": RUN}})
    group_id = await pushed(backend, made)
    a, other = await claimed(backend)
    await settled(backend, a, outcome)
    found = await rows(backend, made)
    assert found["b"].status is status
    assert (found["c"].status is Status.CANCELLED) == (rule != RUN)
    if rule != RUN:
        assert {(found[name].ended_at, found[name].completed_at) for name in "bc"} == {(LATER, LATER // SECOND)}
        assert f"task {a.task_id} (a), for which it waits" in (found["b"].error_message or "")
        assert [task.type for task in await claimed(backend)] == ["d"]
    await settled(backend, other)
    assert len(await claimed(backend)) == (rule == RUN)
    assert (await state(backend, group_id)).remaining == (3 if rule == RUN else 1)


async def test_a_child_with_a_delay_and_gates_passes_them_after_its_parents(backend: Backend) -> None:
    cap = Flow(gates=(("g", Bounds(cap=1)),))
    nodes = (Node("a", new()), Node("b", new(flow=cap, run_at=NOW + 60 * SECOND), {"a": CANCEL}))
    made = Outline(group_id=new_id(), nodes=nodes, named=True)
    await pushed(backend, made)
    (a,) = await claimed(backend)
    await settled(backend, a)
    assert await backend.gates.admit(LATER, 1) == NOW + 60 * SECOND
    (gate,) = await backend.gates.find(["g"])
    assert (gate.held, gate.waiting) == (0, 1)
    assert await backend.gates.admit(NOW + 60 * SECOND, 1) is None
    assert [task.gate for task in await claimed(backend, NOW + 60 * SECOND)] == ["g"]


@pytest.mark.parametrize("end", ["delete", "cancel", "expire"])
async def test_whatever_ends_a_parent_ends_its_children(backend: Backend, end: str) -> None:
    made = graph({"a": {}, "b": {"a": CANCEL}, "c": {"b": CANCEL}})
    group_id = await pushed(backend, made)
    a = (await rows(backend, made))["a"]
    if end == "delete":
        await backend.delete([a.task_id])
    else:
        await settled(backend, a, Cancelled() if end == "cancel" else Expired())
    assert await counts(backend, group_id) == (3, 0, 0, 3)


async def test_a_child_that_is_brought_back_waits_for_parents_that_have_not_ended(backend: Backend) -> None:
    made = graph({"a": {}, "b": {}, "c": {"a": CANCEL, "b": CANCEL}, "d": {"c": CANCEL}})
    group_id = await pushed(backend, made)
    a, b = await claimed(backend)
    await settled(backend, b)
    await settled(backend, a, BROKEN)
    ended = await rows(backend, made)
    assert await counts(backend, group_id) == (4, 0, 1, 2)
    changes = [Change(ended[name], settle(ended[name], Requeued(), LATER)) for name in "dca"]
    assert await backend.update(changes) == [True, True, True]
    assert [(await rows(backend, made))[name].waits for name in "acd"] == [0, 1, 1]
    for name in "acd":
        (task,) = await claimed(backend)
        assert task.type == name
        await settled(backend, task)
    assert await counts(backend, group_id) == (4, 0, 0, 0)


async def test_a_child_waits_again_for_a_parent_that_is_brought_back(backend: Backend) -> None:
    made = graph({"a": {}, "b": {}, "c": {"a": RUN, "b": RUN}})
    await pushed(backend, made)
    a, b = await claimed(backend)
    failed = await settled(backend, a, BROKEN)
    await settled(backend, failed, Requeued())
    assert (await rows(backend, made))["c"].waits == 2
    (a,) = await claimed(backend)
    await settled(backend, a)
    assert await claimed(backend) == []
    await settled(backend, b)
    (c,) = await claimed(backend)
    assert (c.type, c.waits) == ("c", 0)


async def test_a_child_and_one_of_its_parents_are_brought_back_together(backend: Backend) -> None:
    made = graph({"a": {}, "b": {}, "c": {"a": CANCEL, "b": RUN}})
    await pushed(backend, made)
    a, b = await claimed(backend)
    await settled(backend, a, BROKEN)
    ended = await rows(backend, made)
    changes = [Change(ended[name], settle(ended[name], Requeued(), LATER)) for name in "ca"]
    assert await backend.update([*changes, Change(b, settle(b, DONE, LATER))]) == [True, True, True]
    assert (await rows(backend, made))["c"].waits == 1
    for name in "ac":
        (task,) = await claimed(backend)
        assert task.type == name
        await settled(backend, task)


@pytest.mark.parametrize(
    "edges",
    [
        {"a": {}, "b": {}, "c": {"a": FAIL}, "d": {"c": CANCEL, "b": FAIL}},
        {"a": {}, "b": {}, "c": {"a": CANCEL}, "e": {"a": CANCEL}, "d": {"c": FAIL, "e": CANCEL}},
    ],
)
async def test_of_several_ends_in_one_write_the_nearest_decides_and_then_the_first(
    backend: Backend, edges: dict[str, dict[str, str]]
) -> None:
    made = graph(edges)
    await pushed(backend, made)
    started = {task.type: task for task in await claimed(backend)}
    changes = [Change(started[name], settle(started[name], BROKEN, LATER)) for name in "ab"]
    assert await backend.update(changes) == [True, True]
    assert (await rows(backend, made))["d"].status is Status.FAILED


async def test_a_parent_and_its_child_end_in_one_write(backend: Backend) -> None:
    made = graph({"a": {}, "b": {"a": CANCEL}})
    group_id = await pushed(backend, made)
    (a,) = await claimed(backend)
    b = (await rows(backend, made))["b"]
    changes = [Change(a, settle(a, BROKEN, LATER)), Change(b, settle(b, Cancelled("own"), LATER))]
    assert await backend.update(changes) == [True, True]
    assert (await rows(backend, made))["b"].error_message == "own"
    assert await counts(backend, group_id) == (2, 0, 1, 1)


async def test_random_graphs_end_with_each_callback_once(store: Store) -> None:
    backend = store.backend
    for seed in range(3):
        chance = random.Random(seed)
        names = [f"n{n}" for n in range(25)]
        edges = {
            name: {parent: chance.choice((CANCEL, FAIL, RUN)) for parent in chance.sample(names[:n], min(n, 2))}
            for n, name in enumerate(names)
        }
        made = graph(edges)
        outer = outline(made, new(type="x"))
        await pushed(backend, outer)
        started: list[str] = []
        for step in itertools.count():
            assert step < 200
            tasks = await claimed(backend, limit=chance.randint(1, 4))
            if not tasks:
                break
            started += [task.type for task in tasks]
            for task in tasks:
                for parent, rule in edges.get(task.type, {}).items():
                    row = (await rows(backend, made))[parent]
                    assert row.final and (rule == RUN or row.status is Status.COMPLETED), (task.type, parent)
            outcomes = [chance.choice((DONE, DONE, DONE, BROKEN)) for _ in tasks]
            changes = [Change(t, settle(t, outcome, LATER)) for t, outcome in zip(tasks, outcomes, strict=True)]
            assert all(await backend.update([*changes])) and not any(await backend.update(changes))
        found = await rows(backend, made)
        assert all(row.final for row in found.values())
        assert started.count("then") + started.count("alert") == 1
        assert len(started) == len(set(started))
        inner = await state(backend, made.group_id)
        by_status = [row.status for row in found.values()]
        assert (inner.remaining, inner.failed) == (0, by_status.count(Status.FAILED))
        assert inner.cancelled == by_status.count(Status.CANCELLED)


async def test_a_row_keeps_its_place_in_a_graph(backend: Backend) -> None:
    made = graph({"a": {}, "b": {"a": RUN}})
    await pushed(backend, made)
    (a, b) = (await rows(backend, made)).values()
    assert a.flow == Flow(group=made.group_id, children=((b.task_id, RUN),))
    assert b.flow == Flow(group=made.group_id, parents=((a.task_id, "a"),))
    assert await read(backend, b) == b
