"""Options of debounced, throttled and batched handlers: what a call takes from its handler, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

import aiotaskq.sync
from aiotaskq import TaskQ
from aiotaskq.errors import ValidationError
from aiotaskq.testing import virtual
from tests.support.machine import within


def refused(text: str, push: Any) -> None:
    with pytest.raises(ValidationError, match=text):
        push()


async def test_a_handler_is_debounced_by_the_key_it_names() -> None:
    async with virtual() as kit:
        ran: list[tuple[int, str]] = []

        @kit.tq.task(debounce=2, max_wait=3, key="book")
        async def reindex(book: int, why: str = "") -> None:
            ran.append((book, why))

        first = await reindex.push(1, "a")
        await reindex.push(2, "b")
        second = await kit.tq.push("reindex", {"book": 1, "why": "c"})  # by name as well
        assert (second.task_id, first.created, second.created) == (first.task_id, True, False)
        await kit.advance(1.5)
        (third,) = await kit.tq.push_many([reindex.call(1, "d")])
        assert third.task_id == first.task_id
        await kit.advance(1)
        assert ran == [(2, "b")]
        await kit.advance(0.5)
        assert ran == [(2, "b"), (1, "d")]

        await reindex.options(debounce=None).push(1, "at once")
        await reindex.options(debounce=1).push(1, "no max_wait")
        await kit.advance(0)
        assert ran[2:] == [(1, "at once")]
        await kit.advance(1)
        assert ran[3:] == [(1, "no max_wait")]


async def test_the_default_key_is_all_params_or_with_lists_the_type() -> None:
    async with virtual() as kit:
        ran: list[Any] = []

        @kit.tq.task
        async def note(what: list[int]) -> None:
            ran.append(what)

        for n in (1, 1, 2):
            await note.options(debounce=1).push([n])
        for n in (1, 1, 2):
            await note.options(debounce=1, merge="list").push([n])
        await kit.advance(1)
        assert sorted(ran) == [[1], [1, 1, 2], [2]]


async def test_a_handler_is_throttled() -> None:
    async with virtual() as kit:
        ran: list[int] = []

        @kit.tq.task(throttle=60)
        async def report(n: int) -> None:
            ran.append(n)

        handles = [await report.push(n) for n in (1, 1, 2)]
        assert [handle.created for handle in handles] == [True, False, True]
        await kit.drain()
        assert sorted(ran) == [1, 2]
        await kit.advance(60)
        await report.push(1)
        await kit.drain()
        assert sorted(ran) == [1, 1, 2]


async def test_options_that_are_refused() -> None:
    tq = TaskQ("memory://")

    @tq.task
    async def work(n: int = 0) -> None: ...

    for options, text in (
        ({"max_wait": 1}, "max_wait: it is about debounce"),
        ({"merge": "list"}, "merge: it is about debounce"),
        ({"key": "k"}, "key: it is that of debounce or throttle"),
        ({"debounce": 1, "throttle": 1}, "debounce, throttle: give one"),
        ({"debounce": 1, "delay": 1}, "debounce, delay: give one"),
        ({"debounce": 1, "task_id": "x"}, "debounce, task_id: give one"),
        ({"debounce": 1, "idempotency_key": "x"}, "debounce, idempotency_key: give one"),
        ({"throttle": 1, "idempotency_key": "x"}, "throttle, idempotency_key: give one"),
        ({"throttle": 1, "task_id": "x", "if_ended": "retry"}, "throttle, if_ended: give one"),
        ({"debounce": 1, "key": "k", "unique_key": "u"}, "key, unique_key: give one"),
        ({"debounce": 2, "max_wait": 1}, "max_wait: it is shorter"),
        ({"debounce": 1, "merge": "sum"}, "merge: 'sum' is not one of last, list"),
        ({"debounce": 1, "merge": "list"}, "merge: 'list' joins params that are lists"),
        ({"debounce": -1}, "debounce: "),
        ({"throttle": -1}, "throttle: "),
        ({"debounce": 1, "key": "k" * 300}, "key: "),
    ):
        values: Any = options
        with pytest.raises(ValidationError, match=text):
            await work.options(**values).push(n=1)
    refused("key: the handler has no parameter 'm'; there is: n", lambda: tq.task(debounce=1, key="m")(lambda n: n))
    refused("there is: number; did you mean 'number'", lambda: tq.task(debounce=1, key="numbr")(lambda number: number))
    refused("key: it is that of debounce or throttle", lambda: tq.task(key="n")(lambda n: n))
    refused("debounce, throttle", lambda: tq.task(debounce=1, throttle=1)(lambda n: n))
    refused("max_wait: it is shorter", lambda: tq.task(debounce=2, max_wait=1)(lambda n: n))


def test_the_blocking_twins() -> None:
    tq = aiotaskq.sync.TaskQ("memory://")

    @tq.task(batch=2, within=0)
    def double(items: list[int]) -> list[int]:
        assert len(aiotaskq.sync.current_batch()) == len(items)
        return [2 * n for n in items]

    @tq.task(debounce=0, merge="list")
    def collect(items: list[int]) -> int:
        return len(items)

    with tq:
        first, second = (collect.push([n]) for n in range(2))
        assert first.task_id == second.task_id
        with tq.running():
            assert double.push(2).result(timeout=within(30)) == 4
            assert second.result(timeout=within(30)) == 2
    assert collect([1, 2]) == 2
