"""Redis: what follows from an end is done by scripts that look at a bounded number of tasks each."""

from __future__ import annotations

from typing import Any

import pytest

from aiotaskq.backends.base import Change
from aiotaskq.backends.redis import scripts
from aiotaskq.backends.redis.backend import RedisBackend
from aiotaskq.backends.redis.connection import RedisConnections
from aiotaskq.backends.redis.scripts import Script
from aiotaskq.core.groups import CANCEL, FAIL, RUN, GroupState
from aiotaskq.core.ids import new_id
from aiotaskq.core.outcome import Completed, Failed, Outcome, Requeued, settle
from aiotaskq.core.plan import Node, Outline, in_group, plan
from aiotaskq.core.task import SECOND, Status, Task, TaskFilter
from aiotaskq.errors import DatabaseUnavailable
from tests.support.rows import LEASE, NOW, ids, new
from tests.support.servers import Valkey

LATER = NOW + SECOND
BROKEN = Failed("no", retryable=False)


def callbacks() -> dict[str, Task]:
    return {"then": new(type="then", seq=NOW), "on_failure": new(type="alert", seq=NOW)}


def tree(roots: int, children: int) -> Outline:
    """A workflow of roots with so many children each, of which each has one child."""
    nodes: list[Node] = []
    for root in range(roots):
        nodes.append(Node(f"{root}", new(type="root")))
        for child in range(children):
            nodes.append(Node(f"{root} {child}", new(type="child"), {f"{root}": CANCEL}))
            nodes.append(Node(f"{root} {child} leaf", new(type="leaf"), {f"{root} {child}": CANCEL}))
    return Outline(group_id=new_id(), nodes=tuple(nodes), named=True, **callbacks())


async def state(backend: RedisBackend, group_id: str) -> GroupState:
    (found,) = await backend.groups.get([group_id])
    assert found is not None
    return found


async def end(backend: RedisBackend, *tasks: Task, outcome: Outcome = BROKEN) -> list[bool]:
    return await backend.update([Change(task, settle(task, outcome, LATER)) for task in tasks])


async def claim(backend: RedisBackend, limit: int = 2_000) -> list[Task]:
    return await backend.claim("o", LATER, limit, lease_until=LEASE)


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[Script]:
    """Each script that is run from now on."""
    seen: list[Script] = []
    original = RedisConnections.evaluate

    async def evaluate(redis: RedisConnections, script: Script, *args: Any) -> Any:
        seen.append(script)
        return await original(redis, script, *args)

    monkeypatch.setattr(RedisConnections, "evaluate", evaluate)
    return seen


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The connection is lost before what an update has left to other scripts; undo() brings it back."""
    original = RedisConnections.evaluate

    async def evaluate(redis: RedisConnections, script: Script, *args: Any) -> Any:
        if script is scripts.GROUPS_FOLLOW:
            raise DatabaseUnavailable("cut")
        return await original(redis, script, *args)

    monkeypatch.setattr(RedisConnections, "evaluate", evaluate)
    return monkeypatch


async def test_many_ends_are_told_by_several_scripts(backend: RedisBackend, called: list[Script]) -> None:
    made = tree(2, 700)
    assert await backend.groups.push(plan(made, NOW))
    roots = await claim(backend)
    called.clear()
    assert await end(backend, *roots) == [True, True]
    assert called == [scripts.UPDATE_GATED, scripts.GROUPS_FOLLOW, scripts.GROUPS_FOLLOW]
    found = await state(backend, made.group_id)
    assert (found.remaining, found.failed, found.cancelled, found.status) == (0, 2, 2_800, Status.FAILED)
    (alert,) = await claim(backend)
    assert alert.type == "alert"
    assert await backend.find(TaskFilter(status=(Status.PENDING, Status.RUNNING), type="leaf"), 1) == []


async def test_another_process_goes_on_where_one_was_killed(backend: RedisBackend, cut: pytest.MonkeyPatch) -> None:
    made = tree(1, 700)
    await backend.groups.push(plan(made, NOW))
    (root,) = await claim(backend)
    with pytest.raises(DatabaseUnavailable, match="cut"):
        await end(backend, root)
    found = await state(backend, made.group_id)
    assert (found.remaining, found.failed, found.cancelled) == (400, 1, 1_000)
    assert await claim(backend) == []
    cut.undo()
    assert await backend.groups.cancelling(10) == []
    found = await state(backend, made.group_id)
    assert (found.remaining, found.cancelled) == (0, 1_400)
    assert [task.type for task in await claim(backend)] == ["alert"]


@pytest.mark.parametrize("rule", [CANCEL, RUN])
async def test_a_parent_that_is_brought_back_tells_its_children_only_its_next_end(
    backend: RedisBackend, cut: pytest.MonkeyPatch, rule: str
) -> None:
    nodes = [Node(name, new(type=name)) for name in "ab"]
    nodes += [Node(f"{name} {n}", new(type=f"child of {name}"), {name: rule}) for name in "ab" for n in range(700)]
    made = Outline(group_id=new_id(), nodes=tuple(nodes), named=True)
    await backend.groups.push(plan(made, NOW))
    with pytest.raises(DatabaseUnavailable, match="cut"):
        await end(backend, *sorted(await claim(backend), key=lambda task: task.type))
    (b,) = await backend.find(TaskFilter(type="b"), 1)
    cut.undo()
    assert await end(backend, b, outcome=Requeued()) == [True]
    assert await backend.groups.cancelling(10) == []
    ready = {task.task_id: task for task in await claim(backend)}
    assert len(ready) == (1_001 if rule == RUN else 1), "those that were told of the first end, and it"
    assert await end(backend, ready[b.task_id], outcome=Completed()) == [True]
    assert [task.type for task in await claim(backend)] == ["child of b"] * 400
    assert (await state(backend, made.group_id)).remaining == 400 + len(ready) - 1


async def test_a_child_that_is_brought_back_has_seen_the_ends_before(
    backend: RedisBackend, cut: pytest.MonkeyPatch
) -> None:
    nodes = [Node(name, new(type=name)) for name in "abc"]
    nodes += [Node(f"child {n}", new(type=f"{n}"), {"a": CANCEL, "b": RUN, "c": CANCEL}) for n in range(700)]
    made = Outline(group_id=new_id(), nodes=tuple(nodes), named=True)
    await backend.groups.push(plan(made, NOW))
    a, b, c = sorted(await claim(backend), key=lambda task: task.type)
    with pytest.raises(DatabaseUnavailable, match="cut"):
        await end(backend, a, b)  # that of b is told to the first 300
    cut.undo()
    (last,) = await backend.find(TaskFilter(type="699"), 1)
    assert await end(backend, last, outcome=Requeued()) == [True]
    await backend.groups.cancelling(10)
    (last,) = await backend.find(TaskFilter(type="699"), 1)
    assert (last.status, last.waits) == (Status.PENDING, 2)  # for a, which has not completed, and c
    await end(backend, c, outcome=Completed())
    assert await claim(backend) == []
    (a,) = await backend.get([a.task_id])
    assert a is not None
    assert await end(backend, a, outcome=Requeued()) == [True]
    assert await end(backend, *await claim(backend), outcome=Completed()) == [True]
    assert ids(await claim(backend)) == [last.task_id]


async def test_a_push_that_is_repeated_is_the_same_push(backend: RedisBackend) -> None:
    made = plan(Outline(group_id=new_id(), nodes=(Node("a", new()),), **callbacks()), NOW)
    assert await backend.groups.push(made)
    assert await backend.groups.push(made)
    (group,) = await backend.groups.find(10)
    assert (group.total, group.remaining, group.then) == (1, 1, made.groups[0].then)
    assert len(await claim(backend)) == 1


async def test_rows_that_another_program_deleted_are_counted_again(
    server: Valkey, backend: RedisBackend, prefix: str
) -> None:
    first = [Node(name, new(type=name)) for name in "ab"]
    first += [Node("c", new(type="c"), {"a": RUN, "b": CANCEL}), Node("d", new(type="d"), {"c": FAIL})]
    inner = Outline(group_id=new_id(), nodes=tuple(first), named=True, **callbacks())
    outer = Outline(group_id=new_id(), nodes=(Node("inner", inner), Node("x", new(type="x"))))
    await backend.groups.push(plan(outer, NOW))
    assert await backend.groups.mend(LATER) == 0
    (a,) = await backend.find(TaskFilter(type="a"), 1)
    server.ask("HDEL", f"{{{prefix}}}:state", a.task_id)
    assert await backend.groups.mend(LATER) == 2  # its child, and its group
    assert await backend.groups.mend(LATER) == 0
    found = await state(backend, inner.group_id)
    assert (found.remaining, found.cancelled, found.failed, found.needed_by) == (1, 2, 1, 1)
    (b,) = await backend.find(TaskFilter(type="b"), 1)
    server.ask("HDEL", f"{{{prefix}}}:state", b.task_id)
    assert await backend.groups.mend(LATER) == 1
    assert (await state(backend, inner.group_id)).status is Status.FAILED
    assert (await state(backend, outer.group_id)).remaining == 1
    assert {task.type for task in await claim(backend)} == {"x", "alert"}


async def test_the_keys_of_groups_are_in_the_hash_tag_and_none_is_left(
    backend: RedisBackend, server: Valkey, prefix: str
) -> None:
    def keys() -> set[bytes]:
        return set(server.ask("KEYS", "*"))

    before = keys()
    made = tree(2, 2)
    outer = Outline(
        group_id=new_id(), nodes=(Node("inner", made), Node("x", new())), budget={"tokens": 1}, **callbacks()
    )
    await backend.groups.push(plan(outer, NOW))
    assert await backend.groups.add(outer.group_id, [in_group(new(), outer.group_id, new_id(), NOW)], NOW) == 1
    await backend.groups.request_cancel(outer.group_id)
    assert len(await backend.groups.cancelling(10)) == 2
    assert all(key.startswith(f"{{{prefix}}}:".encode()) for key in keys() - before)
    assert all(await end(backend, *await claim(backend)))
    tasks = await backend.find(TaskFilter(), 100)
    assert await backend.delete(ids(tasks)) == len(tasks) == 12
    assert await backend.groups.purge(LATER + 1, 10) == 2
    assert keys() - before <= {f"{{{prefix}}}:{name}".encode() for name in ("format", "slots")}
    assert server.ask("HKEYS", f"{{{prefix}}}:slots") == [b"\n"]
