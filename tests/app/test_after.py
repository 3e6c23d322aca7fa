"""``after=`` of a push, as an application uses it: what it refuses, in virtual time, and what it costs others."""

from __future__ import annotations

from typing import Any

import pytest

from aiotaskq import Limit, Parent, TaskQ, Workflow, injected
from aiotaskq.backends.listeners import ENDED
from aiotaskq.core.status import Status
from aiotaskq.errors import NotFound, NotSupported, ValidationError
from aiotaskq.testing import virtual


def application() -> tuple[TaskQ, Any, Any]:
    tq = TaskQ("memory://")

    @tq.task(max_retries=0)
    async def first(x: int) -> int:
        if x < 0:
            raise ValueError("less than nothing")
        return x

    @tq.task
    async def then(parent: list[Parent[int | list[int] | None]] = injected(), y: int = 0) -> list[Any]:
        return [each.result for each in parent]

    return tq, first, then


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"after": 5}, r"^after: handles or ids of tasks and groups are needed \(got int\)$"),
        ({"after": [None]}, r"^after: handles or ids of tasks and groups are needed \(got NoneType\)$"),
        ({"after": ""}, r"^after: "),
        ({"after": {"a": "stop"}}, r"^after: 'a': 'stop' is unknown; use cancel, fail, run$"),
        ({"after": "a", "after_rule": "stop"}, r"^after_rule: 'stop' is unknown; use cancel, fail, run$"),
        ({"after_rule": "run"}, r"^after_rule: it is about after; give that, too$"),
        ({"after": "a", "task_id": "b", "if_ended": "retry"}, r"^after, if_ended: give one of the two$"),
        ({"after": "a", "debounce": 5}, r"^after, debounce: give one of the two$"),
        ({"after": [str(n) for n in range(1_001)]}, r"^after: 1,001 tasks are more than 1,000; make a group of them$"),
    ],
)
async def test_what_cannot_be_waited_for_is_refused(options: dict[str, Any], said: str) -> None:
    tq, _, then = application()
    with pytest.raises(ValidationError, match=said):
        await then.options(**options).push()
    assert await tq.find() == []


async def test_what_does_not_exist_a_session_in_memory_and_a_call_in_a_group_are_refused() -> None:
    tq, first, then = application()
    with pytest.raises(NotFound, match=r"^after: there is no task and no group 'gone'$"):
        await tq.push_many([first.call(1), then.options(after="gone").call()])
    handle = await first.push(1)
    with pytest.raises(NotSupported, match=r"^session: "):
        await then.options(after=handle, session=object()).push()
    with pytest.raises(ValidationError, match=r"^after: a task of a group, and its callback, cannot have it$"):
        await tq.start(Workflow("w").add("a", then.options(after=handle).call()))
    assert [task.task_id for task in await tq.find()] == [handle.task_id]


async def test_a_child_gets_its_parents_in_the_order_of_after() -> None:
    tq, first, then = application()
    async with virtual(tq) as kit:
        late, bad = await first.options(delay=60).push(1), await first.push(-1)
        group = await tq.group([first.call(2), first.call(3)])
        child = await then.options(after=[late, group, bad], after_rule="run").push()
        await kit.drain()
        assert (await kit.task(child)).waits == 1, "each end has counted"
        await kit.drain(delayed=True)
        assert await child.result() == [1, [2, 3], None]


async def test_a_rule_for_each_and_what_a_waiting_child_says() -> None:
    tq, first, then = application()
    async with virtual(tq) as kit:
        late, bad = await first.options(delay=60).push(1), await first.push(-1)
        child = await then.options(after={late: "cancel", bad: "run"}).push()
        ended = await then.options(after=[late, bad.task_id], after_rule="fail").push()
        await kit.drain()
        assert (await kit.task(ended)).status is Status.FAILED
        detail = await tq.queue.get(child.task_id)
        assert (detail.waits, detail.status) == (1, Status.PENDING)
        await kit.advance(60)
        await kit.drain()
        assert await child.result() == [1, None]


async def test_a_delay_counts_from_the_push_and_a_limit_is_passed_behind_the_parents() -> None:
    tq, first, then = application()
    async with virtual(tq) as kit:
        parent = await first.options(delay=60).push(1)
        delayed = await then.options(after=parent, delay=90, limit=Limit(1, name="k")).push()
        expired = await then.options(after=parent, expires=30).push()
        await kit.advance(60)
        await kit.drain()
        assert [(await kit.task(each)).status for each in (delayed, expired)] == [Status.PENDING, Status.EXPIRED]
        await kit.advance(30)
        await kit.drain()
        assert await delayed.result() == [1]


@pytest.mark.parametrize("how", ["one", "many"])
async def test_a_child_that_is_retried_goes_on_with_its_parent(how: str) -> None:
    tq = TaskQ("memory://")
    broken = [True]

    @tq.task(max_retries=0)
    async def first() -> int:
        if broken.pop() if broken else False:
            raise ValueError("once")
        return 1

    @tq.task
    async def then() -> int:
        return 2

    async with virtual(tq) as kit:
        parent = await first.push()
        child = await then.options(after=parent).push()
        await kit.drain()
        assert await child.status() is Status.CANCELLED
        if how == "many":
            assert await tq.retry_many(status=["failed", "cancelled"]) == 2
        else:
            await tq.retry(child.task_id)
            await tq.retry(parent.task_id)
        await kit.drain()
        assert await child.status() is Status.COMPLETED, "without a round of the reaper"


async def test_ends_are_heard_of_only_while_something_waits() -> None:
    tq, first, then = application()
    async with virtual(tq) as kit:
        await (await first.push(0)).result()
        heard = tq.queue.backend.listeners.by_kind
        assert ENDED not in heard
        parent = await first.options(delay=1).push(1)
        await then.options(after=parent).push()
        await kit.drain()
        assert ENDED in heard
        await kit.drain(delayed=True)
        assert ENDED not in heard


@pytest.mark.parametrize("how", ["delete", "purge"])
async def test_a_parent_whose_row_is_deleted_counts_by_its_end(how: str) -> None:
    tq, first, _ = application()
    async with virtual(tq) as kit:
        parent, late = await first.options(delay=10).push(1), await first.options(delay=60).push(2)
        child = await first.options(after=[parent, late]).push(3)
        await kit.drain()
        await tq.queue.after_sweep.stop()
        await kit.advance(10)
        await kit.drain()
        await (tq.delete(parent.task_id) if how == "delete" else tq.purge())
        assert await tq.find(status="completed") == []
        await tq.queue.after_sweep.start()
        await tq.queue.after_sweep.look_at_all()
        await kit.advance(50)
        await kit.drain()
        assert await child.result() == 3
