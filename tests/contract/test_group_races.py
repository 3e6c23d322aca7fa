"""Groups and graphs whose tasks end at the same moments in several processes, and rows that other programs delete."""

from __future__ import annotations

import asyncio
import random

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from aiotaskq.backends.base import Backend, Change
from aiotaskq.core.groups import CANCEL, FAIL, RUN
from aiotaskq.core.ids import new_id
from aiotaskq.core.outcome import Completed, Failed, settle
from aiotaskq.core.plan import Node, Outline, plan
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task, TaskFilter
from tests.support.backends import Store
from tests.support.rows import LEASE, NOW, new

pytestmark = pytest.mark.stores("sqlite", "postgresql", "mysql", "redis")

LATER = NOW + SECOND


def fan(size: int) -> Outline:
    """A group of a graph, whose last task waits for all others, and of as many tasks beside it."""
    first = tuple(Node(f"{n}", new(type="first"), {}) for n in range(size))
    last = Node("last", new(type="last"), {node.name: CANCEL if n % 2 else RUN for n, node in enumerate(first)})
    inner = Node("inner", Outline(group_id=new_id(), nodes=(*first, last), named=True))
    beside = tuple(Node(f"beside {n}", new(type="beside")) for n in range(size))
    callbacks = {"then": new(type="then", seq=NOW), "on_failure": new(type="alert", seq=NOW)}
    return Outline(group_id=new_id(), nodes=(inner, *beside), **callbacks)


async def end_all(backends: list[Backend], chance: random.Random) -> list[str]:
    """Claim and end everything, each task twice, in changing batches of all backends at once; return what ran."""
    ran: list[str] = []
    while tasks := await backends[0].claim("o", LATER, 200, lease_until=LEASE):
        ran += [task.type for task in tasks]
        work = []
        for task in tasks:
            outcome = Failed("no", retryable=False) if chance.random() < 0.05 else Completed()
            work.append(Change(task, settle(task, outcome, LATER)))
        chance.shuffle(work)
        batches: list[tuple[Backend, list[Change]]] = []
        while work:
            size = chance.randint(1, 5)
            batches += [(backend, work[:size]) for backend in chance.sample(backends, 2)]
            work = work[size:]
        held = await asyncio.gather(*(backend.update(batch) for backend, batch in batches))
        assert sum(map(sum, held)) == len(tasks)
    return ran


async def test_ends_at_the_same_moments_call_back_once(shared_store: Store) -> None:
    backends = [shared_store.backend, await shared_store.another(), await shared_store.another()]
    made = [fan(6) for _ in range(12)]
    for each in made:
        await backends[0].groups.push(plan(each, NOW))
    ran = await end_all(backends, random.Random(7))
    assert ran.count("then") + ran.count("alert") == len(made)
    groups = await backends[0].groups.find(100)
    assert len(groups) == 2 * len(made)
    assert all(group.remaining == 0 and group.ended_at is not None for group in groups)
    assert await backends[0].find(TaskFilter(status=(Status.PENDING, Status.RUNNING)), 10) == []
    for each in made:
        inner = each.nodes[0].what
        assert isinstance(inner, Outline)
        *parents, last = await backends[0].get([n.what.task_id for n in inner.nodes if isinstance(n.what, Task)])
        free = all(parent is not None and parent.status is Status.COMPLETED for parent in parents[1::2])
        assert last is not None
        assert (last.fence, last.status is not Status.CANCELLED, last.waits == 0) == (int(free), free, free)


async def test_rows_that_were_deleted_by_sql_are_counted_again(sql_store: Store) -> None:
    backend = sql_store.backend
    made = fan(3)
    await backend.groups.push(plan(made, NOW))
    assert await backend.groups.mend(LATER) == 0
    inner = made.nodes[0].what
    assert isinstance(inner, Outline) and isinstance(inner.nodes[1].what, Task)
    sql_store.execute("DELETE FROM task_queue WHERE task_id = :id", id=inner.nodes[1].what.task_id)
    assert await backend.groups.mend(LATER) == 2  # its child, and its group
    assert await backend.groups.mend(LATER) == 0
    (group,) = [g for g in await backend.groups.find(9) if g.parent_id is not None]
    assert (group.remaining, group.cancelled) == (2, 2)
    sql_store.execute("DELETE FROM task_queue WHERE task_type <> 'then'")
    assert await backend.groups.mend(LATER) > 0
    assert [g.status for g in await backend.groups.find(9)] == [Status.CANCELLED] * 2
    assert [task.type for task in await backend.claim("o", LATER, 9, lease_until=LEASE)] == ["alert"]


async def test_a_task_that_fails_since_rows_were_deleted_by_sql_keeps_its_group(sql_store: Store) -> None:
    backend = sql_store.backend
    nodes = [Node("a", new()), *(Node(f"b{n}", new(), {"a": CANCEL}) for n in range(2))]
    nodes += [Node(f"c{n}", new(), {f"b{n}": FAIL}) for n in range(2)]
    made = Outline(group_id=new_id(), nodes=tuple(nodes), named=True)
    outer = Outline(group_id=new_id(), nodes=(Node("inner", made),))
    await backend.groups.push(plan(outer, NOW))
    sql_store.execute("DELETE FROM task_queue WHERE task_id = :id", id=plan(made, NOW).tasks[0].task_id)
    assert await backend.groups.mend(LATER) == 3
    inner, around = await backend.groups.get([made.group_id, outer.group_id])
    assert inner is not None and around is not None
    assert (inner.failed, inner.cancelled, inner.needed_by) == (2, 3, 2)
    assert (around.failed, around.needed_by) == (1, 2)
    assert await backend.groups.purge(LATER + SECOND, 9) == 0
    failed = await backend.find(TaskFilter(status=(Status.FAILED,)), 9)
    assert await backend.delete([task.task_id for task in failed], ended=True) == 2
    assert await backend.groups.purge(LATER + SECOND, 9) == 2


@pytest.mark.parametrize("commits", [True, False])
async def test_a_push_in_a_session_is_there_after_the_commit(sql_store: Store, commits: bool) -> None:
    backend = sql_store.backend
    made, told = fan(2), []
    engine = create_async_engine(sql_store.place)
    try:
        async with AsyncSession(engine) as session:
            assert await backend.groups.push(plan(made, NOW), session, lambda: told.append(1))
            await (session.commit() if commits else session.rollback())
    finally:
        await engine.dispose()
    assert len(await backend.groups.find(9)) == (2 if commits else 0)
    assert len(await backend.claim("o", LATER, 99, lease_until=LEASE)) == (4 if commits else 0)
    assert len(told) == commits
