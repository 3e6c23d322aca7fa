"""The parameter ``parent``: what a handler gets of earlier tasks, in whichever way it follows them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from aiotaskq import Parent, TaskFailed, TaskQ, Workflow, chain, group, injected
from aiotaskq.errors import ValidationError
from aiotaskq.testing.kit import Kit, virtual
from tests.support.machine import within


@dataclass(frozen=True)
class Total:
    cents: int


@pytest.fixture(params=["memory://", "memory://durable-fake", "memory://?objects=any"])
async def kit(request: pytest.FixtureRequest) -> AsyncIterator[Kit]:
    async with virtual(TaskQ(request.param)) as kit:
        yield kit


async def result(kit: Kit, handle: Any) -> Any:
    await kit.drain(delayed=True)
    return await handle.result(timeout=within(5))


async def test_one_parameter_gets_earlier_tasks_wherever_a_task_follows_some(kit: Kit) -> None:
    tq = kit.tq
    seen: list[Any] = []

    @tq.task(max_retries=0)
    async def price(n: int) -> Total:
        if n < 0:
            raise ValueError("below zero")
        return Total(n)

    @tq.task
    async def one(parent: Parent[Total] = injected()) -> Total:
        seen.append((parent.type, parent.result, parent.error))
        return Total(parent.result.cents + 1)

    @tq.task
    async def many(parent: list[Parent[Total | None]] = injected(), note: str = "") -> int:
        seen.append([(each.type, each.result, (each.error or "").partition("\n")[0]) for each in parent])
        return len(parent)

    @tq.task
    async def nested(parent: list[Parent[Any]] = injected()) -> None:
        seen.append([(each.type, each.result) for each in parent])

    assert await result(kit, await tq.start(chain(price.call(1), one.call(), one.call()))) == [
        Total(1),
        Total(2),
        Total(3),
    ]
    flow = Workflow("w").add("a", price.call(1)).add("b", price.call(-1))
    flow.add("all", many.call(note="x"), after={"a": "cancel", "b": "run"})
    flow.add("single", many.call(), after=["a"])
    started = await tq.start(flow)
    await kit.drain(delayed=True)
    assert [await (await started.task(name)).result() for name in ("all", "single")] == [2, 1]
    assert [("price", Total(1), ""), ("price", None, "ValueError: below zero")] in seen
    await tq.group([price.call(4), price.call(5)], then=many.call(note="then"))
    await tq.group([price.call(-4)], on_failure=many.call())
    await kit.drain(delayed=True)
    assert [("price", Total(4), ""), ("price", Total(5), "")] in seen
    assert [("price", None, "ValueError: below zero")] in seen
    await tq.group([group([price.call(1), price.call(2)]), price.call(3)], then=nested.call())
    await kit.drain(delayed=True)
    of_any = [[Total(1), Total(2)], Total(3)] if "objects" in tq.url else [[{"cents": 1}, {"cents": 2}], {"cents": 3}]
    assert seen[-1] == [("group", of_any[0]), ("price", of_any[1])]


async def test_a_follow_up_has_the_same_parameter(kit: Kit) -> None:
    got: list[int] = []

    @kit.tq.task
    async def first() -> int:
        return 7

    @kit.tq.task
    async def then(parent: Parent[int] = injected()) -> None:
        got.append(parent.result)

    @kit.tq.task
    async def several(parent: list[Parent[int]] = injected()) -> None: ...

    await first.options(on_success=then).push()
    await kit.drain()
    assert got == [7]
    with pytest.raises(ValidationError, match=r"must take one parameter, 'parent: aiotaskq.Parent'"):
        await first.options(on_success=several).push()


async def test_what_does_not_fit_the_number_of_parents_fails_at_once(kit: Kit) -> None:
    @kit.tq.task
    async def make(n: int) -> int:
        return n

    @kit.tq.task
    async def one(parent: Parent[int] = injected()) -> None: ...

    @kit.tq.task
    async def free(parent: Parent[int] | None = None) -> bool:
        return parent is None

    @kit.tq.task
    async def ordinary(parent: int) -> int:
        return parent

    flow = Workflow("w").add("a", make.call(1)).add("b", make.call(2)).add("one", one.call(), after=["a", "b"])
    started = await kit.tq.start(flow)
    lonely = await one.push()
    await kit.drain()
    error = r"invalid_params: one\(\) takes one 'parent', and the task has 2; annotate it as list\[Parent\[…\]\]"
    with pytest.raises(TaskFailed, match=error):
        await (await started.task("one")).result()
    with pytest.raises(TaskFailed, match=r"invalid_params: one\(\) needs 'parent', and the task has no parent"):
        await lonely.result()
    assert await result(kit, await free.push()) is True
    assert await result(kit, await ordinary.push(5)) == 5
    with pytest.raises(TypeError, match="parent"):
        await ordinary.push()  # type: ignore[call-arg]


async def test_a_callback_that_needs_a_deleted_member_says_which() -> None:
    tq = TaskQ("memory://")

    @tq.task
    async def one() -> int:
        return 1

    @tq.task
    async def total(parent: list[Parent[int]] = injected()) -> None: ...

    async with virtual(tq) as made:
        handle = await tq.group([one.call(), one.call()], then=total.options(delay=60).call())
        await made.drain()
        member = (await handle.tasks())[0]
        await tq.delete(member.task_id)
        await made.advance(60)
        (found,) = await tq.find(status="failed")
    assert found.error_message == (
        f"missing_parent: task {member.task_id}, for which it waited, was deleted, and its result with it"
    )
