"""Mistakes in tests: each fails, and says what to write instead."""

from __future__ import annotations

import asyncio
import datetime
import time
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

from aiotaskq import TaskQ, current_task, wait_event
from aiotaskq.errors import ClosedError, ResultTimeout, UnknownHandler, ValidationError
from aiotaskq.testing import harness, inline, override, virtual

tq = TaskQ("sqlite:///never-opened.db")


@tq.task
async def bill(order: int, due: datetime.date | None = None) -> int:
    return order


async def test_a_misspelt_assertion_does_not_pass() -> None:
    with override(tq) as pushes:
        with pytest.raises(UnknownHandler, match=r"^type: no handler is registered for 'bil'; did you mean 'bill'\?$"):
            pushes.assert_not_pushed("bil")
        with pytest.raises(
            ValidationError, match=r"^params: bill\(\) has no parameter 'ordr'; did you mean 'order'\?$"
        ):
            pushes.assert_not_pushed(bill, {"ordr": 17})
        with pytest.raises(
            ValidationError, match=r"^type: a task function, or the name of a type, .* \(got function\)$"
        ):
            pushes.assert_not_pushed(bill.handler.function)
        with pytest.raises(ValidationError, match=r"^params.order: Expected `int`, got `str`"):
            pushes.assert_not_pushed(bill, {"order": "17"})
        with pytest.raises(ValidationError, match=r"^params: a dict is needed \(got int\)$"):
            pushes.assert_pushed(bill, 17)  # type: ignore[arg-type]
        with pytest.raises(ValidationError, match=r"^count: an int is needed"):
            pushes.assert_pushed(bill, count="1")  # type: ignore[arg-type]


async def test_time_is_advanced_by_a_number_of_seconds() -> None:
    async with virtual(tq) as kit:
        for wrong in ("1h", kit.now):
            with pytest.raises(
                ValidationError, match=r"^seconds: seconds as int, float or timedelta are needed \(got "
            ):
                await kit.advance(wrong)  # type: ignore[arg-type]
        with pytest.raises(ValidationError, match=r"^when: 3600 is past; it is 2026-"):
            await kit.advance_to(3600)  # type: ignore[arg-type]


async def test_options_of_a_kit_are_told_beside_those_of_a_task_queue() -> None:
    with pytest.raises(ValidationError, match=r"^Kit: unknown option concurency; did you mean concurrency\?$"):
        async with virtual(tq, concurency=5):
            pass
    with pytest.raises(ValidationError, match=r"^Inline: unknown option start; use raise_errors, retries, schedules, "):
        async with inline(tq, start=0):
            pass
    said = r"^clock: a clock is needed, such as VirtualClock\(\) \(got builtin_"
    with pytest.raises(ValidationError, match=said), override(tq, clock=time.time):  # type: ignore[arg-type]
        pass


async def test_params_are_compared_as_a_push_takes_them() -> None:
    day = datetime.date(2026, 12, 24)
    with override(tq) as pushes:
        await bill.push(17, due=day)
        assert pushes.assert_pushed(bill, {"due": day}, count=1) == pushes.assert_pushed(bill, {"due": "2026-12-24"})
        pushes.assert_pushed(bill, {"order": ANY, "due": ANY})
        pushes.assert_not_pushed(bill, {"due": day + datetime.timedelta(days=1)})
        with pytest.raises(AssertionError, match=r"^bill with \{'due': datetime.date.*\}: none expected, 1 pushed"):
            pushes.assert_not_pushed(bill, {"due": day})


VIRTUAL = 10.0
"""Seconds of the kit's clock."""


async def test_a_result_that_needs_time_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "STANDS_STILL", 0.05)
    async with virtual(tq) as kit:
        handle = await bill.options(delay=60).push(1)
        with pytest.raises(AssertionError, match=rf"^{handle.task_id} does not end: .* await kit\.advance\(…\)"):
            await handle.result()
        group = await tq.group([bill.options(delay=60).call(2)])
        with pytest.raises(AssertionError, match=r"time stands still"):
            await group.result(timeout=VIRTUAL)
        waiting = asyncio.create_task(handle.result(timeout=VIRTUAL))
        await kit.advance(VIRTUAL + 1)
        with pytest.raises(ResultTimeout):
            await waiting
        await kit.advance(60)
        assert await handle.result() == 1
    async with inline(tq):
        handle = await bill.options(delay=60).push(1)
        with pytest.raises(AssertionError, match=r"inline mode runs no task later: use virtual\(tq\)$"):
            await handle.result()


async def test_a_result_that_needs_an_event_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "STANDS_STILL", 0.05)
    async with virtual() as kit:

        @kit.tq.task
        async def approve() -> object:
            return await wait_event("approved")

        handle = await approve.push()
        with pytest.raises(AssertionError, match=r"first; an event has to be emitted$"):
            await handle.result()
        await kit.tq.emit("approved", 1)
        assert await handle.result() == 1


async def test_a_stream_that_needs_time_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "STANDS_STILL", 0.05)
    async with virtual() as kit:

        @kit.tq.task
        async def write() -> None:
            current_task().stream("one")
            await kit.clock.sleep(60)
            current_task().stream("two")

        handle = await write.options(delay=60).push()
        with pytest.raises(AssertionError, match=rf"^{handle.task_id} does not end: .* await kit\.advance\(…\)"):
            _ = [entry async for entry in handle.stream()]
        await kit.advance(60)
        entries = handle.stream()
        assert (await anext(entries)).data == "one"
        with pytest.raises(AssertionError, match=r"time stands still"):
            await anext(entries)
        await kit.advance(60)
        assert [entry.data async for entry in handle.stream()] == ["one", "two", "completed"]
    async with inline(tq):
        handle = await bill.options(delay=60).push(1)
        with pytest.raises(AssertionError, match=r"inline mode runs no task later: use virtual\(tq\)$"):
            await handle.next_log(timeout=VIRTUAL)


async def test_a_result_is_waited_for_while_its_handler_waits_for_something_real(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(harness, "STANDS_STILL", 0.02)
    answered = asyncio.Event()

    async with virtual() as kit:

        @kit.tq.task
        async def ask() -> str:
            await answered.wait()
            return "yes"

        asyncio.get_running_loop().call_later(0.2, answered.set)
        assert await (await ask.push()).result() == "yes"


@pytest.mark.parametrize("mode", [virtual, inline])
async def test_behind_its_block_a_kit_starts_no_workers(mode: Any) -> None:
    async with mode(tq) as kit:
        pass
    with pytest.raises(ClosedError, match=r"^the block or the test of this kit has ended; use it inside of that$"):
        await kit.start()
    if mode is virtual:
        with pytest.raises(ClosedError):
            await kit.advance(1)
        with pytest.raises(ClosedError):
            await kit.drain()
    assert tq.worker is None and not Path("never-opened.db").exists()
