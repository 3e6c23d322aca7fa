"""Debounced and throttled pushes: at most one task of a key waits, and no call is lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from aiotaskq import Limit, Rate
from aiotaskq.app.handle import TaskCall
from aiotaskq.app.push import new_task_of
from aiotaskq.app.registrations import Registrations
from aiotaskq.backends.base import Backend, Change
from aiotaskq.backends.change import Leave
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core import groups
from aiotaskq.core.edit import Debounce
from aiotaskq.core.gate import Bounds, Flow
from aiotaskq.core.groups import CANCEL
from aiotaskq.core.outcome import Backoff, Completed, Failed, Released, settle
from aiotaskq.core.status import Status
from aiotaskq.core.steps import NewStep, Step, Suspension
from aiotaskq.core.task import SECOND, Task, TaskFilter
from aiotaskq.errors import NotSupported, TaskConflict
from aiotaskq.runtime.queue.queue import Queue
from aiotaskq.testing import virtual
from tests.support.backends import Store
from tests.support.rows import NOW, ids, new, pushed, read, running

LATER = NOW + 1_000 * SECOND
IN_5_S = Failed("boom", backoff=Backoff(base=5, jitter=False))


@pytest.fixture
def queue(backend: Backend) -> Queue:
    return Queue(backend, VirtualClock(NOW))


async def called(queue: Queue, params: Sequence[dict[str, Any]], session: Any = None, **options: Any) -> list[Task]:
    """Push debounced calls; return the rows that stand for them."""
    calls: list[Any] = [TaskCall("t", each, {"debounce": 2, **options}) for each in params]
    rules: dict[str, Debounce] = {}
    tasks = [new_task_of(call, Registrations(), queue.clock.now(), rules) for call in calls]

    async def push(tasks: list[Task]) -> list[Task]:
        return await queue.add(tasks, session)

    return await queue.push_debounced(tasks, push, rules, session)


async def waiting(backend: Backend) -> list[Task]:
    return await backend.find(TaskFilter(status=(Status.PENDING,)), 100)


async def test_a_task_that_has_steps_is_not_changed(backend: Backend, queue: Queue) -> None:
    (first,) = await called(queue, [{"n": 1}], key="k")
    (claimed,) = await backend.claim("w", NOW + 3 * SECOND, 1)
    sleep = NewStep(first.task_id, first.seq, claimed.fence, Step(name="night", kind="sleep", text=str(LATER)))
    asleep = settle(claimed, Released("sleeps", ran=True, suspended=Suspension(LATER, (sleep,))), NOW)
    assert await backend.steps.suspend([Leave(Change(claimed, asleep), [sleep])]) == [True]
    second, third = await called(queue, [{"n": 2}, {"n": 3}], key="k")
    assert second.task_id == third.task_id != first.task_id and third.params == {"n": 3}
    row = await read(backend, first.task_id)
    assert (row.params, row.run_at, row.unique_key) == ({"n": 1}, LATER, None)
    assert {task.task_id for task in await waiting(backend)} == {first.task_id, second.task_id}


async def test_a_key_that_was_given_up_is_not_taken_back(backend: Backend) -> None:
    first, ends = await running(backend, unique_key="k"), await running(backend, unique_key="other")
    assert await backend.update([Change(first, first.replace(unique_key=None))]) == [True]
    second = new(unique_key="k", run_at=LATER)
    assert (await backend.push([second]))[0] is second
    # The worker of the first one has read it before. Both changes may be written in one statement.
    retried, completed = settle(first, IN_5_S, NOW), settle(ends, Failed("boom", retryable=False), NOW)
    assert await backend.update([Change(first, retried), Change(ends, completed)]) == [True, True]
    assert (await read(backend, first)).replace(unique_key="k") == retried
    assert ids(await backend.push([new(unique_key="k")])) == [second.task_id]
    (again,) = await backend.claim("w", NOW + 5 * SECOND, 10)
    assert again.unique_key is None
    assert await backend.update([Change(again, settle(again, Completed(), NOW))]) == [True]
    assert ids(await backend.push([new(unique_key="k")])) == [second.task_id]


async def test_of_two_changes_of_a_waiting_task_the_second_one_does_not_hold(backend: Backend) -> None:
    row = await pushed(backend, unique_key="k", params={"n": [1]})
    one, two = (row.replace(params={"n": [1, n]}, fence=row.fence + 1) for n in (2, 3))
    assert await backend.update([Change(row, one)]) == [True]
    assert await backend.update([Change(row, two)]) == [False]
    assert await read(backend, row) == one


async def test_a_call_changes_the_task_that_waits_and_no_other(queue: Queue, backend: Backend) -> None:
    clock: Any = queue.clock
    (first,) = await called(queue, [{"n": 1}], key="k", max_wait=3)
    assert first.run_at == NOW + 2 * SECOND
    # Counted from the push stamp; where other pushes of this process have put that far forward, from the second.
    end = (first.seq if first.seq < NOW + SECOND else NOW) + 3 * SECOND
    for n in (2, 3):  # the second one is bounded by max_wait
        await clock.advance(1)
        due = min(clock.now() + 2 * SECOND, end)
        (row,) = await called(queue, [{"n": n}], key="k", max_wait=3, priority=n)
        assert row == await read(backend, first)
        assert (row.params, row.run_at, row.priority) == ({"n": n}, due, n)
    (other,) = await called(queue, [{"n": 1}], key="other")
    assert other.task_id != first.task_id
    assert await backend.claim("w", NOW + 2 * SECOND, 10) == []
    (claimed,) = await backend.claim("w", end, 10)
    assert claimed.params == {"n": 3}
    (second,) = await called(queue, [{"n": 4}], key="k")
    assert sorted(ids(await waiting(backend))) == sorted(ids([other, second]))
    assert await queue.settle(claimed, Completed()) is not None
    (third,) = await called(queue, [{"n": 5}], key="k")
    assert third.task_id == second.task_id and third.params == {"n": 5}


async def test_calls_of_one_push_are_merged_in_their_order(queue: Queue, backend: Backend) -> None:
    rows = await called(queue, [{"n": [1]}, {"n": [2], "m": 1}, {"n": [3], "m": 2}], merge="list")
    assert len(set(ids(rows))) == 1
    assert (await read(backend, rows[0])).params == {"n": [1, 2, 3], "m": 2}


async def test_a_key_held_by_another_type_is_refused(queue: Queue, backend: Backend) -> None:
    held = await pushed(backend, type="other", unique_key="k", run_at=LATER)
    with pytest.raises(TaskConflict, match="is of type 'other'"):
        await called(queue, [{}], unique_key="k")
    assert await waiting(backend) == [held]


async def test_a_call_lets_no_task_go_before_its_parents(queue: Queue, backend: Backend) -> None:
    parent = await running(backend)
    flow = Flow(parents=((parent.task_id, ""),), rules=(CANCEL,))
    child = groups.waiting(new(unique_key="k", flow=flow, seq=NOW), 1, NOW)
    await backend.after.push([child], NOW)
    with pytest.raises(TaskConflict, match=r"^key: task '.*', which has it, waits for the tasks before it; use anoth"):
        await called(queue, [{"n": 1}], unique_key="k")
    assert (await called(queue, [{"n": 1}], unique_key="k", merge="first"))[0].params == {}
    assert await backend.claim("w", LATER, 1) == []
    await backend.update([Change(parent, settle(parent, Completed(), NOW))])
    await backend.after.follow_all(NOW)
    (after,) = await called(queue, [{"n": 2}], unique_key="k")
    assert after.flow is not None and (after.task_id, after.flow.parents[0][0]) == (child.task_id, parent.task_id)
    assert ids(await backend.claim("w", LATER, 1)) == [child.task_id]


async def test_no_item_is_lost_or_doubled_by_calls_at_the_same_time(store: Store, queue: Queue) -> None:
    shared = store.backend.shared
    queues = [queue, *([Queue(await store.another(), queue.clock) for _ in range(2)] if shared else [])]
    items = 6
    found: list[int] = []

    async def push(which: int) -> None:
        for n in range(items):
            await called(queues[which % len(queues)], [{"n": [which * items + n]}], merge="list")

    async def claim(pushers: asyncio.Future[Any]) -> None:
        over = False
        while not over:
            over = pushers.done()
            for task in await store.backend.claim("w", LATER, 10):
                found.extend(task.params["n"])
            assert len([row for row in await waiting(store.backend) if row.unique_key]) <= 1
            await asyncio.sleep(0)

    pushers = asyncio.gather(*(push(which) for which in range(4)))
    await asyncio.gather(pushers, claim(pushers))
    assert sorted(found) == list(range(4 * items))
    for which in range(4):  # each caller's own calls are in their order
        own = [n for n in found if n // items == which]
        assert own == sorted(own)


async def test_any_order_of_calls_claims_and_failures_is_as_the_model_says(queue: Queue, backend: Backend) -> None:
    clock: Any = queue.clock
    chance = random.Random(1)
    waits: dict[str, dict[str, Any]] = {}  # the model: what waits, by id; at most one of them has the key
    runs: dict[str, tuple[Task, dict[str, Any]]] = {}
    for step in range(60):
        now = clock.now()
        match chance.choice(["call", "call", "call", "advance", "claim", "end", "fail"]):
            case "call":
                (row,) = await called(queue, [{"n": [step]}], merge="list", max_wait=5, max_retries=9)
                for _, model in runs.values():
                    model["key"] = False
                model = next((each for each in waits.values() if each["key"]), None)
                if model is None:
                    waits[row.task_id] = {
                        "n": [step],
                        "run_at": now + 2 * SECOND,
                        "first": now,
                        "key": True,
                        "tried": 0,
                    }
                    continue
                latest = max(model["first"] + 5 * SECOND, model["run_at"] if model["tried"] else now)
                model |= {"n": [*model["n"], step], "run_at": min(now + 2 * SECOND, latest)}
                assert waits[row.task_id] is model
            case "advance":
                await clock.advance(chance.choice([1, 1, 2, 4]))
            case "claim":
                claimed = {task.task_id: task for task in await backend.claim("w", now, 10)}
                assert claimed.keys() == {i for i, model in waits.items() if model["run_at"] <= now}
                for task_id, task in claimed.items():
                    runs[task_id] = task, waits.pop(task_id)
                    assert task.params == {"n": runs[task_id][1]["n"]}
            case kind if runs:
                task_id = chance.choice(sorted(runs))
                task, model = runs.pop(task_id)
                assert await queue.settle(task, Completed() if kind == "end" else IN_5_S) is not None
                if kind == "fail":
                    after = settle(task, IN_5_S, now)
                    waits[task_id] = {**model, "run_at": after.run_at, "tried": after.retry_count}
    stored = {row.task_id: (row.params["n"], row.run_at) for row in await waiting(backend)}
    assert stored == {task_id: (model["n"], model["run_at"]) for task_id, model in waits.items()}


async def test_with_a_limit_of_one_at_most_one_waits_and_one_runs(store: Store) -> None:
    async with virtual(url=store.url, scheduler=False) as kit:
        ran: list[tuple[str, float]] = []
        start = kit.now

        @kit.tq.task(debounce=2, key="book", limit=Limit(1, key="book"))
        async def reindex(book: int, why: str) -> None:
            ran.append((why, (kit.now - start).total_seconds()))
            await kit.clock.sleep(10)

        await reindex.push(1, "a")
        await kit.advance(3)
        handles = [await reindex.push(1, why) for why in "bc"]
        await kit.advance(4)  # it is due, and waits at its gate
        handles.append(await reindex.push(1, "d"))
        assert [handle.created for handle in handles] == [True, False, False]
        await kit.advance(30)
        assert [why for why, _ in ran] == ["a", "d"]
        (_, first), (_, second) = ran
        assert first == 2 and 12 <= second < 14


async def at_gate(backend: Backend, key: str) -> tuple[int, int]:
    """How many tasks hold a slot of a gate, and how many wait there."""
    (found,) = await backend.gates.find([key])
    return found.held, found.waiting


PER_TENANT: dict[str, Any] = {"limit": Limit(1, key="tenant")}


async def test_the_gates_are_those_of_the_newest_call(queue: Queue, backend: Backend) -> None:
    (busy,) = await called(queue, [{"tenant": "a"}], key="other", **PER_TENANT)
    await backend.gates.admit(NOW + 2 * SECOND, 10)
    assert ids(await backend.claim("w", NOW + 2 * SECOND, 10, lease_until=LATER)) == [busy.task_id]
    (first,) = await called(queue, [{"tenant": "a"}], key="k", **PER_TENANT)
    assert await at_gate(backend, "tenant:a") == (1, 1)
    (newer,) = await called(queue, [{"tenant": "b"}], key="k", **PER_TENANT)
    row = await read(backend, first)
    assert (newer.task_id, row.gate, row.flow) == (
        first.task_id,
        "tenant:b",
        Flow(gates=(("tenant:b", Bounds(cap=1)),)),
    )
    assert (await at_gate(backend, "tenant:a"), await at_gate(backend, "tenant:b")) == ((1, 0), (0, 1))
    await called(queue, [{"tenant": "b"}], key="third", **PER_TENANT)
    await backend.gates.admit(NOW + 3 * SECOND, 10)
    assert ids(await backend.claim("w", NOW + 3 * SECOND, 10, lease_until=LATER)) == [first.task_id]
    assert await at_gate(backend, "tenant:b") == (1, 1)  # the bound that no push has declared counts


async def test_a_newer_call_gives_back_the_slot_of_another_gate(queue: Queue, backend: Backend) -> None:
    (held,) = await called(queue, [{"tenant": "a"}], key="k", **PER_TENANT)
    (waits,) = await called(queue, [{"tenant": "a"}], key="other", **PER_TENANT)
    await backend.gates.admit(NOW + 2 * SECOND, 10)
    assert await at_gate(backend, "tenant:a") == (1, 1)
    for tenant, gate in (("b", "tenant:b"), (None, None), ("b", "tenant:b"), (None, None)):
        await called(queue, [{"tenant": tenant}], key="k", **PER_TENANT)
        row = await read(backend, held)
        assert (row.gate, row.parked, row.due_us) == (gate, gate is not None, NOW + 2 * SECOND)
    await backend.gates.admit(NOW + 2 * SECOND, 10)
    assert await at_gate(backend, "tenant:a") == (1, 0)
    claimed = await backend.claim("w", NOW + 2 * SECOND, 10, lease_until=LATER)
    assert sorted(ids(claimed)) == sorted([held.task_id, waits.task_id])


async def test_joined_calls_take_the_tokens_of_all_their_items(queue: Queue, backend: Backend) -> None:
    rate = Rate(100, weight=lambda params: len(params["items"]), name="api")
    for items in (["a"], ["b", "c"], ["d"]):
        await called(queue, [{"items": items}], merge="list", key="k", rate=rate)
    (row,) = await waiting(backend)
    assert (row.params["items"], row.flow and row.flow.weight) == (["a", "b", "c", "d"], 4)


async def test_a_call_in_a_session_exists_when_its_transaction_does(sql_store: Store, queue: Queue) -> None:
    backend = sql_store.backend
    (first,) = await called(queue, [{"n": [1]}], merge="list")
    engine = create_async_engine(sql_store.place)
    try:
        async with AsyncSession(engine) as session:
            await called(queue, [{"n": [2]}], session, merge="list")
            await session.rollback()
        assert (await read(backend, first)).params == {"n": [1]}
        async with AsyncSession(engine) as session:
            await called(queue, [{"n": [3]}, {"n": [4]}], session, merge="list")
            await session.commit()
        assert (await read(backend, first)).params == {"n": [1, 3, 4]}
        (claimed,) = await backend.claim("w", LATER, 10)
        async with AsyncSession(engine) as session:
            (second,) = await called(queue, [{"n": [5]}], session, merge="list")
            await session.commit()
        assert ids(await waiting(backend)) == [second.task_id] != [claimed.task_id]
    finally:
        await engine.dispose()


@pytest.mark.stores("memory", "redis")
async def test_a_session_is_refused_before_anything_is_written(queue: Queue, backend: Backend) -> None:
    with pytest.raises(NotSupported, match="session"):
        await called(queue, [{}], object())
    assert await waiting(backend) == []


async def test_a_throttle_makes_one_task_in_each_bucket(queue: Queue, backend: Backend) -> None:
    clock: Any = queue.clock

    async def call(n: int, key: str = "k") -> Task:
        options: Any = {"throttle": 60, "key": key}
        (row,) = await queue.add([new_task_of(TaskCall("t", {"n": n}, options), Registrations(), clock.now())])
        return row

    first = await call(1)
    assert (await call(2)).task_id == first.task_id != (await call(3, "other")).task_id
    (claimed, _) = await backend.claim("w", NOW, 10)
    assert await queue.settle(claimed, Completed()) is not None
    assert (await call(4)).task_id == first.task_id  # also when it has ended
    await clock.advance(60)
    assert (await call(5)).params == {"n": 5}
