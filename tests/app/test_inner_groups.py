"""Groups in groups: what a callback learns of them, and what their members have of the groups around."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from aiotaskq import Parent, current_task, group, injected
from aiotaskq.core.gate import Flow, budget_gate
from aiotaskq.core.status import Status
from aiotaskq.core.task import Task
from aiotaskq.runtime.queue import groups
from aiotaskq.testing.kit import Kit, virtual
from tests.app.test_groups import App, Total
from tests.support.machine import within


@pytest.fixture
async def kit() -> AsyncIterator[tuple[App, Kit]]:
    app = App()
    async with virtual(app.tq) as kit:
        yield app, kit


async def test_a_callback_gets_a_group_that_has_failed_as_a_parent_with_its_error(kit: tuple[App, Kit]) -> None:
    app, found = kit[0], list[Any]()
    app.broken.add(2)

    @app.tq.task(max_retries=0)
    async def alert(parent: list[Parent[list[Total] | None]] = injected()) -> None:
        found.extend((each.type, each.result, (each.error or "").partition("\n")[0]) for each in parent)

    await app.tq.group([group([app.price.call(n)]) for n in (1, 2)], on_failure=alert.call())
    await kit[1].drain()
    assert found == [("group", [Total(100)], ""), ("group", None, "RuntimeError: no 2")]


async def test_what_is_read_in_pages_is_whole(kit: tuple[App, Kit], monkeypatch: pytest.MonkeyPatch) -> None:
    app, made = kit
    monkeypatch.setattr(groups, "PAGE", 2)
    app.broken.update((3, 4))
    handle = await app.tq.group([app.price.call(n) for n in range(5)])
    waits = [await app.tq.group([app.price.options(delay=60).call(9) for _ in range(5)]) for _ in range(3)]
    await made.advance(1)
    assert [await each.cancel() for each in waits[:2]] == [True, True]
    assert await app.tq.count(type="price", status="cancelled") == 10
    assert len(await app.tq.groups(status="running")) == 1
    assert [each.group_id for each in await app.tq.groups(status="failed", limit=1)] == [handle.group_id]
    app.broken.clear()
    assert await handle.retry_failed() == 2
    assert await handle.result(within(60)) == [Total(n * 100) for n in range(5)]


async def test_members_that_are_added_have_the_budgets_of_all_groups_around(kit: tuple[App, Kit]) -> None:
    app, made = kit
    inner = group([app.spread.call(1)], budget={"tokens": 5})
    outer = await app.tq.group([inner], budget={"tokens": 5})
    await made.drain()
    (added,) = await app.tq.find(type="price")
    assert added.flow is not None and added.flow.group is not None
    assert [key for key, _ in added.flow.gates] == [budget_gate(outer.group_id), budget_gate(added.flow.group)]


async def test_a_callback_whose_inner_group_lost_a_result_fails_at_once(kit: tuple[App, Kit]) -> None:
    app, made = kit

    @app.tq.task
    async def total(parent: list[Parent[list[Total]]] = injected()) -> int:
        return len(parent)

    inner = group([app.price.call(1), app.price.call(2)])
    await app.tq.group([inner], then=total.options(delay=60).call())
    await made.advance(1)
    (gone,) = await app.tq.find(type="price", limit=1)
    await app.tq.delete(gone.task_id)
    await made.advance(60)
    (found,) = await app.tq.find(type="total")
    assert (found.status, found.retry_count) == (Status.FAILED, 0)
    assert gone.flow is not None
    assert found.error_message == (
        f"missing_parent: task {gone.task_id} of group {gone.flow.group} was deleted, and its result with it"
    )


async def test_a_group_in_a_group_whose_member_was_deleted_has_no_result(kit: tuple[App, Kit]) -> None:
    app, made = kit
    handle = await app.tq.group([group([app.price.call(1)])])
    await made.drain()
    (row,) = await made.tasks()
    await app.tq.delete(row.task_id)
    callback = Task(task_id="callback", type="callback", flow=Flow(source=handle.group_id))
    (inner,) = await app.tq.queue.groups.outcomes_for(callback)
    assert (inner.type, inner.result, inner.error) == (
        "group",
        None,
        f"task {row.task_id} of group {inner.task_id} was deleted",
    )


async def test_a_group_that_has_failed_in_a_group_tells_its_first_error(kit: tuple[App, Kit]) -> None:
    app, errors = kit[0], list[Any]()
    app.broken.update((2, 3))

    @app.tq.task
    async def alert() -> None:
        errors.extend(
            (m.type, m.completed, m.result, (m.error or "").splitlines()[0]) for m in await current_task().results()
        )

    await app.tq.group([group([app.price.call(n) for n in (1, 2, 3)])], on_failure=alert.call())
    await kit[1].drain()
    assert errors == [("group", False, None, "RuntimeError: no 2")]
