"""Handlers that were changed while tasks of theirs wait: what is stored and not asked for, or does not fit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from aiotaskq import Status, sleep_for, step, wait_event
from aiotaskq.testing import Kit, virtual


@pytest.fixture
async def kit() -> AsyncIterator[Kit]:
    async with virtual() as kit:
        yield kit


@dataclass
class Receipt:
    amount: int


class Deploy:
    """The code of a handler, which a deploy changes."""

    def __init__(self, kit: Kit, first: Any) -> None:
        self.code = first

        @kit.tq.task(max_retries=3)
        async def order() -> Any:
            return await self.code()

        self.order = order


async def test_stored_steps_that_nothing_asks_for_are_told_once(kit: Kit, caplog: pytest.LogCaptureFixture) -> None:
    async def first() -> None:
        for number in range(3):
            await step("charge", int, number)
        await step("mail", int)
        await asyncio.gather(sleep_for("cool down", days=1), wait_event("approved", timeout=60), return_exceptions=True)

    async def second() -> int:
        charged = await step("charge", int, 0)
        await sleep_for("night", hours=8)
        return charged

    deploy = Deploy(kit, first)
    caplog.set_level("INFO", "aiotaskq")
    handle = await deploy.order.push()
    await kit.advance(1)
    deploy.code = second
    await kit.advance(days=3)
    assert await handle.result() == 0
    lines = [record.getMessage() for record in caplog.records if "asking" in record.getMessage()]
    why = "has ended without asking for what is stored of charge#2, charge#3, mail, cool down, approved"
    assert lines == [f"order {handle.task_id} {why}"]
    caplog.clear()
    again = await deploy.order.push()
    await kit.advance(days=1)
    assert await again.result() == 0
    assert not [record for record in caplog.records if "asking" in record.getMessage()], "it asks for all"


def text() -> Any:
    return "secret"


def number() -> int:
    return 5


def receipt() -> Receipt:
    return Receipt(5)


@pytest.mark.parametrize(("function", "expected"), [(number, "int"), (receipt, "object")])
@pytest.mark.parametrize("grouped", [False, True])
async def test_a_stored_value_that_does_not_fit_is_refused_by_name_and_kept(
    kit: Kit, function: Any, expected: str, grouped: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def first() -> None:
        await step("charge", text)
        await sleep_for("night", hours=8)

    async def second() -> Any:
        if not grouped:
            return await step("charge", function)
        async with asyncio.TaskGroup() as group:
            charged = group.create_task(step("charge", function))
        return charged.result()

    deploy = Deploy(kit, first)
    handle = await deploy.order.push()
    await kit.advance(1)
    deploy.code = second
    await kit.advance(hours=9)
    task = await handle.task()
    assert (task.status, task.retry_count) == (Status.FAILED, 0), "a retry would get the same"
    assert task.error_message == (
        f"invalid_step: step charge: Expected `{expected}`, got `str`; the stored value does not fit the return "
        "annotation of the step: correct that, or register the changed handler with another version="
    )
    told = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(told) == 1 and told[0].endswith("the stored value of step charge does not fit its return annotation")
    assert (await kit.tq.steps(handle.task_id))[0].value == "secret"
    deploy.code = first
    await kit.tq.retry(handle.task_id)
    await kit.drain()
    assert await handle.status() is Status.COMPLETED
