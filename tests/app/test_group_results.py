"""The parameter ``results``, what the push of a group refuses, and how one waits for a callback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

import aiotaskq.sync
from aiotaskq import Parent, ResultTimeout, TaskFailed, TaskQ, Workflow, chain, group, injected
from aiotaskq.errors import NotFound, ValidationError
from aiotaskq.testing.kit import Kit, virtual
from tests.support.machine import within


@dataclass(frozen=True)
class Total:
    cents: int


@pytest.fixture(params=["memory://", "memory://durable-fake", "memory://?objects=any"])
async def kit(request: pytest.FixtureRequest) -> AsyncIterator[Kit]:
    async with virtual(TaskQ(request.param)) as kit:
        yield kit


async def test_results_come_in_the_types_of_the_annotation(kit: Kit) -> None:
    @kit.tq.task(max_retries=0)
    async def price(n: int) -> Total:
        if n < 0:
            raise ValueError("below zero")
        return Total(n)

    @kit.tq.task
    async def total(results: list[Total] = injected(), more: int = 0) -> Total:
        return Total(sum(each.cents for each in results) + more)

    @kit.tq.task
    def known(results: list[Total | None] = injected()) -> list[bool]:
        return [each is None for each in results]

    @kit.tq.task
    async def bare(results: list = injected()) -> int:  # type: ignore[type-arg]
        return len(results)

    handle = await kit.tq.group([price.call(1), price.call(2)], then=total.call(more=4))
    both = Workflow("w").add("a", price.call(1)).add("b", price.call(-1))
    both.add("known", known.call(), after={"a": "run", "b": "run"})
    started = await kit.tq.start(both)
    empty = await kit.tq.group([], then=bare.call())
    given = await total.push([Total(5)])  # as any other parameter
    await kit.drain(delayed=True)
    assert (await handle.result(), await given.result()) == (Total(7), Total(5))
    assert await (await started.task("known")).result() == [False, True]
    assert await empty.result() == 0


async def test_a_task_that_needs_results_and_follows_none_fails_at_once(kit: Kit) -> None:
    @kit.tq.task
    async def total(results: list[int] = injected()) -> int:
        return sum(results)

    handle = await total.push()
    await kit.drain()
    with pytest.raises(TaskFailed, match=r"total\(\) needs 'results', and the task has no parent"):
        await handle.result(within(5))


async def test_a_parameter_of_that_name_may_be_a_resource() -> None:
    tq = TaskQ("memory://")

    @tq.resource
    def opened() -> Total:
        return Total(7)

    @tq.task
    async def read(results: Total = injected()) -> int:
        return results.cents

    async with virtual(tq) as kit:
        handle = await read.push()
        await kit.drain()
        assert await handle.result() == 7


async def test_callbacks_that_cannot_take_what_a_group_gives_are_refused(kit: Kit) -> None:
    tq = kit.tq

    @tq.task
    async def one() -> int:
        return 1

    @tq.task
    async def alone(parent: Parent[int] = injected()) -> None: ...

    @tq.task
    async def wrong(results: list[int]) -> None: ...

    said = r"^then: alone\(\) takes one 'parent', and a callback has all members"
    with pytest.raises(ValidationError, match=said):
        await tq.group([group([one.call(), one.call()], then=alone.call())])
    with pytest.raises(ValidationError, match=said):
        await tq.start(Workflow("w").add("c", chain(one.call(), one.call(), then=alone.call())))
    with pytest.raises(ValidationError, match=r"^then: alone\(\) needs one 'parent', and a group without members has"):
        await tq.group([], then=alone.call())
    with pytest.raises(TypeError, match=r"'results'; those of a group come as 'results: list\[…\] = injected\(\)'$"):
        wrong.call()  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match=r"^after: 'none' is a group without members, which cannot wait for"):
        await tq.start(Workflow("w").add("one", one.call()).add("none", group([]), after="one"))
    with pytest.raises(ValidationError, match=r"^after: these wait for each other: "):
        await tq.start(Workflow("w").add("a", group([one.call()]), after="b").add("b", one.call(), after="a"))
    assert await tq.count() == 0


async def test_one_waits_for_the_members_and_then_for_the_callback(kit: Kit) -> None:
    @kit.tq.task(max_retries=0)
    async def one(fails: bool = False) -> int:
        if fails:
            raise RuntimeError("no")
        return 1

    await kit.tq.pause("later")
    handle = await kit.tq.group([one.call()], then=one.options(queue="later").call(fails=True))
    await kit.advance(1)
    with pytest.raises(ResultTimeout, match="task "):
        await handle.result(timeout=0)
    assert await handle.results(timeout=0) == [1]
    await kit.tq.resume("later")
    await kit.advance(60)
    with pytest.raises(TaskFailed, match="no"):
        await handle.result(timeout=within(5))
    failed = await kit.tq.group([one.call(True)], then=one.call(), on_failure=one.call())
    await kit.drain()
    with pytest.raises(TaskFailed, match="no"):
        await failed.result(timeout=0)
    callback = await failed.callback()
    assert callback is not None and await callback.result() == 1
    await kit.tq.queue.backend.delete([callback.task_id])
    assert await failed.callback() is None


async def test_the_callback_of_a_group_that_is_gone_is_told(kit: Kit) -> None:
    @kit.tq.task
    async def one() -> int:
        return 1

    await kit.tq.pause("later")
    handle = await kit.tq.group([one.call()], then=one.options(queue="later").call())
    await kit.advance(1)
    callback = await handle.callback()
    assert callback is not None
    await kit.tq.queue.backend.delete([callback.task_id])
    with pytest.raises(NotFound, match=f"^group {handle.group_id}: it was cancelled, or its callback was deleted$"):
        await handle.result(timeout=0)


def test_blocking_code_waits_for_the_callback() -> None:
    tq = aiotaskq.sync.TaskQ("memory://")

    @tq.task
    def one() -> int:
        return 1

    @tq.task
    def total(results: list[int] = injected()) -> int:
        return sum(results)

    with tq.running():
        handle = tq.group([one.call(), one.call()], then=total.call())
        assert handle.result(within(5)) == 2
        callback = handle.callback()
        assert callback is not None and callback.result(within(5)) == 2
        assert handle.results() == [1, 1]
