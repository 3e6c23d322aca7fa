"""``push``: the rows that it returns, conflicts, and all or nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aiotaskq.backends.base import Backend, Change
from aiotaskq.backends.listeners import READY
from aiotaskq.core.status import Status
from tests.support.backends import Store
from tests.support.rows import NOW, ended, ids, new, pushed, read, running


async def test_answers_with_the_objects_given_in_order(backend: Backend) -> None:
    tasks = [new() for _ in range(5)]
    stored = await backend.push(tasks)
    assert all(a is b for a, b in zip(tasks, stored, strict=True))
    assert await backend.get([task.task_id for task in tasks]) == tasks


async def test_nothing(backend: Backend) -> None:
    assert await backend.push([]) == []


async def test_the_same_id_conflicts(backend: Backend) -> None:
    first = await pushed(backend, params={"n": 1})
    (stored,) = await backend.push([new(task_id=first.task_id, params={"n": 2})])
    assert stored == first
    assert (await read(backend, first)).params == {"n": 1}


@pytest.mark.parametrize("key", ["unique_key", "idempotency_key"])
async def test_the_same_key_conflicts(backend: Backend, key: str) -> None:
    first = await pushed(backend, **{key: "k"})
    other = new(**{key: "k"})
    assert await backend.push([other]) == [first]
    assert await backend.get([other.task_id]) == [None]
    # The two kinds of keys are different words: no conflict between them.
    free = new(**{"idempotency_key" if key == "unique_key" else "unique_key": "k"})
    assert (await backend.push([free]))[0] is free


@pytest.mark.parametrize("key", ["task_id", "unique_key", "idempotency_key"])
async def test_one_inserted_earlier_in_the_same_call_conflicts(backend: Backend, key: str) -> None:
    a, b, c = new(**{key: "k"}), new(**{key: "k"}), new()
    stored = await backend.push([a, b, c])
    assert stored == [a, a, c]
    assert len(await backend.get([a.task_id, c.task_id])) == 2
    assert (await backend.stats(NOW)).counts["pending"] == 2


async def test_id_goes_before_idempotency_key_before_unique_key(backend: Backend) -> None:
    by_id = await pushed(backend)
    by_once = await pushed(backend, idempotency_key="once")
    by_unique = await pushed(backend, unique_key="unique")
    tasks = [
        new(task_id=by_id.task_id, idempotency_key="once", unique_key="unique"),
        new(idempotency_key="once", unique_key="unique"),
        new(unique_key="unique"),
    ]
    assert await backend.push(tasks) == [by_id, by_once, by_unique]


async def test_one_inserted_later_in_the_same_call_does_not_conflict(backend: Backend) -> None:
    first = await pushed(backend, unique_key="u")
    a, b = new(unique_key="u", idempotency_key="i"), new(idempotency_key="i")
    assert await backend.push([a, b]) == [first, b]


async def test_unique_key_is_held_by_a_running_row_and_free_after_its_end(backend: Backend) -> None:  # A18
    task = await running(backend, unique_key="k")
    assert ids(await backend.push([new(unique_key="k")])) == [task.task_id]
    assert await backend.update([Change(task, task.replace(status=Status.FAILED))]) == [True]
    again = new(unique_key="k")
    assert (await backend.push([again]))[0] is again


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.EXPIRED])
async def test_idempotency_key_is_held_while_the_row_is_kept(backend: Backend, status: Status) -> None:
    task = await ended(backend, status, idempotency_key="once")
    assert ids(await backend.push([new(idempotency_key="once")])) == [task.task_id]
    assert await backend.delete([task.task_id]) == 1
    again = new(idempotency_key="once")
    assert (await backend.push([again]))[0] is again


async def test_a_repeated_push_is_the_same_push(backend: Backend) -> None:  # A20
    task = await pushed(backend, unique_key="u", idempotency_key="i")
    assert (await backend.push([task]))[0] is task
    (claimed,) = await backend.claim("owner", NOW, 1)
    (stored,) = await backend.push([task])  # the first answer was lost, and a worker was quick
    assert stored is task
    assert await read(backend, task) == claimed


async def test_keys_are_exact_text(backend: Backend) -> None:  # I10
    names = ["a", "A", "a ", " a", "ä", "a\u0308", "ａ", "ß", "ss", "🙂", "k" * 255, "K" * 255]
    tasks = [new(unique_key=name, idempotency_key=name, queue=name[:100], type=name[:100]) for name in names]
    stored = await backend.push(tasks)
    assert all(a is b for a, b in zip(tasks, stored, strict=True))
    assert await backend.get([task.task_id for task in tasks]) == tasks


async def test_hints_ready(backend: Backend, hints: list[Any]) -> None:
    await backend.push([new()])
    assert (READY, []) in hints


@pytest.mark.heavy
@pytest.mark.no_cover  # many times the same lines
async def test_very_many_in_one_call(backend: Backend) -> None:  # A15
    count = 20_000  # in many statements on every store
    tasks = [new(params={"n": n}) for n in range(count)]
    stored = await backend.push(tasks)
    assert all(a is b for a, b in zip(tasks, stored, strict=True))
    assert await backend.count_ready(NOW) == count
    # The same again, with some new ones among them: only these are added.
    mixed = [tasks[0], new(), *tasks[10_000:10_010], new()]
    assert ids(await backend.push(mixed)) == ids(mixed)
    assert await backend.count_ready(NOW) == count + 2
    assert await backend.get([tasks[0].task_id, tasks[17_777].task_id]) == [tasks[0], tasks[17_777]]


@pytest.mark.parametrize("bad", [{"type": None}, {"params": {"a": object()}}, {"run_at": None}])
async def test_one_bad_item_and_none_is_pushed(durable_store: Store, bad: dict[str, Any]) -> None:  # A15
    backend = durable_store.backend
    tasks = [new() for _ in range(100)]
    tasks[57] = new(**bad)
    with pytest.raises(Exception, match=r".") as raised:
        await backend.push(tasks)
    assert not isinstance(raised.value, asyncio.CancelledError)
    assert await backend.count_ready(NOW) == 0
    assert (await backend.stats(NOW)).counts["pending"] == 0
    await pushed(backend)  # and the store is usable


async def test_concurrent_pushes_of_one_key(shared_store: Store) -> None:
    backends = [shared_store.backend, await shared_store.another()]
    tasks = [new(idempotency_key="once") for _ in range(20)]
    answers = await asyncio.gather(*(backends[n % 2].push([task]) for n, task in enumerate(tasks)))
    (winner,) = [task for task, (stored,) in zip(tasks, answers, strict=True) if stored is task]
    assert {stored.task_id for (stored,) in answers} == {winner.task_id}


async def test_another_process_sees_a_pushed_task(shared_store: Store) -> None:
    other = await shared_store.another()
    task = await pushed(shared_store.backend, params={"n": 1})
    assert await read(other, task) == task
