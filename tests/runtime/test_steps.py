"""Durable steps, sleeps and events of handlers, in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import aiotaskq.sync
from aiotaskq import (
    EventTimeout,
    LeaseLost,
    Limit,
    Status,
    TaskFailed,
    current_task,
    sleep_for,
    sleep_until,
    step,
    wait_event,
)
from aiotaskq.core.task import SECOND, Task
from aiotaskq.errors import NotFound, ValidationError
from aiotaskq.testing import START, Kit, inline, virtual
from tests.support.machine import within
from tests.testing.backoffs import STEADY

WEEK = 7 * 86_400.0


@pytest.fixture(params=["memory://", "sqlite"])
async def kit(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Kit]:
    url = f"sqlite:///{tmp_path}/kit.db" if request.param == "sqlite" else request.param
    # No loop polls in a week of idle time.
    options: dict[str, Any] = {"history": False, "retention": None, "lease": 9 * WEEK, "poll_interval": WEEK}
    async with virtual(url=url, scheduler=False, **options) as made, asyncio.timeout(within(30)):
        yield made


@pytest.fixture
async def fake() -> AsyncIterator[Kit]:
    async with virtual() as made, asyncio.timeout(within(30)):
        yield made


@dataclass
class Receipt:
    amount: int
    at: datetime


async def test_a_workflow_of_a_week(kit: Kit) -> None:
    calls: list[str] = []

    async def charge(amount: int) -> Receipt:
        calls.append("charge")
        return Receipt(amount, kit.now)

    def mail(to: str, *, receipt: Receipt) -> str:
        calls.append("mail")
        return f"{to}: {receipt.amount}"

    @kit.tq.task
    async def order(to: str) -> list[Any]:
        calls.append(f"run {current_task().task.fence}")
        receipt = await step("charge", charge, 5)
        assert receipt == Receipt(5, START)
        await sleep_for("cool down", days=3)
        await sleep_until("monday", datetime(2026, 1, 5, tzinfo=UTC))
        approval = await wait_event("approved:1", timeout=timedelta(days=7))
        return [await step("mail", mail, to, receipt=receipt), approval]

    handle = await order.push(to="me")
    await kit.drain()
    task = await handle.task()
    assert (task.status, task.run_at, task.lease_owner) == (Status.PENDING, kit.clock.now() + 3 * 86_400 * SECOND, None)
    await kit.advance(days=4)
    assert [each.label for each in await kit.tq.steps(handle.task_id)] == [
        "charge",
        "cool down",
        "monday",
        "approved:1",
    ]
    assert await kit.tq.emit("approved:1", {"by": "boss"})
    assert not await kit.tq.emit("approved:1", {"by": "another"}), "the first value stays"
    await kit.drain()
    assert await handle.result() == ["me: 5", {"by": "boss"}]
    assert calls == ["run 1", "charge", "run 2", "run 3", "run 4", "mail"]
    done = await handle.task()
    assert (done.retry_count, done.crashes, done.fence) == (0, 0, 4)
    assert [each.outcome for each in await handle.attempts()] == ["released"] * 3 + ["completed"]
    assert [each.kind for each in await kit.tq.steps(handle.task_id)] == [
        "step",
        "sleep",
        "sleep",
        "wait",
        "event",
        "step",
    ]


async def test_what_has_failed_goes_on_at_its_step(kit: Kit) -> None:
    calls: list[str] = []

    async def one() -> None:
        calls.append("one")

    async def two() -> int:
        calls.append("two")
        if len(calls) < 4:
            raise ConnectionError("away")
        return 2

    @kit.tq.task(max_retries=1, backoff=STEADY)
    async def work() -> Any:
        return [await step("one", one), await step("two", two)]

    handle = await work.push()
    await kit.drain(delayed=True)
    assert (await handle.status(), calls) == (Status.FAILED, ["one", "two", "two"])
    await kit.tq.retry(handle.task_id)  # an operator's retry keeps the steps
    await kit.drain()
    assert await handle.result() == [None, 2]
    assert calls == ["one", "two", "two", "two"]
    again = await kit.tq.push("work", {}, task_id=handle.task_id, if_ended="retry")  # that is new work
    await kit.drain()
    assert await again.result() == [None, 2]
    assert calls[4:] == ["one", "two"]


async def test_the_first_delivery_reads_nothing(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    steps = kit.tq.queue.backend.steps
    assert steps is not None
    read = steps.read_many

    async def spied(tasks: Sequence[Task]) -> Any:
        reads.extend(task.task_id for task in tasks)
        return await read(tasks)

    monkeypatch.setattr(steps, "read_many", spied)

    @kit.tq.task(backoff=STEADY)
    async def work() -> None:
        await asyncio.gather(*(step(f"s{n}", int, n) for n in range(3)))
        await step("last", int)
        if current_task().task.retry_count == 0:
            raise ConnectionError("once")

    handle = await work.push()
    await kit.drain()
    assert reads == []
    await kit.drain(delayed=True)
    await handle.result()
    assert reads == [handle.task_id], "once in a run"


async def test_steps_are_counted_in_the_order_of_the_calls(fake: Kit) -> None:
    calls: list[int] = []

    async def slow(n: int) -> int:
        await fake.clock.sleep(10 - n)
        calls.append(n)
        return n

    @fake.tq.task
    async def work() -> Any:
        first = [await step("loop", lambda n: n, n) for n in range(3)]
        both = await asyncio.gather(*(step("both", functools.partial(slow, n)) for n in range(3)))
        await sleep_for("night", hours=8)
        return [first, both]

    handle = await work.push()
    await fake.advance(hours=9)
    assert await handle.result() == [[0, 1, 2], [0, 1, 2]]
    assert calls == [2, 1, 0]
    found = [each.label for each in await fake.tq.steps(handle.task_id)]
    assert found == ["loop", "loop#2", "loop#3", "both#3", "both#2", "both", "night"]


async def test_the_first_run_gets_what_later_ones_get(fake: Kit) -> None:
    seen: list[Any] = []

    @fake.tq.task
    async def work() -> None:
        seen.append(await step("tuple", lambda: (1, 2)))
        await sleep_for("night", hours=8)

    await work.push()
    await fake.drain(delayed=True)
    assert seen == [[1, 2], [1, 2]]


async def failure(kit: Kit, handler: Any) -> str:
    handle = await handler.push()
    await kit.drain()
    with pytest.raises(TaskFailed) as failed:
        await handle.result()
    return str(failed.value.error).partition("\n")[0]


async def test_mistakes_have_a_message(fake: Kit) -> None:
    @fake.tq.task(max_retries=0)
    async def twice() -> None:
        await step("a", int)
        await step("a", str)

    @fake.tq.task(max_retries=0)
    async def nested() -> None:
        await step("outer", functools.partial(step, "inner", int))

    @fake.tq.task(max_retries=0)
    async def asleep() -> None:
        await step("outer", functools.partial(sleep_for, "night", hours=8))

    @fake.tq.task(max_retries=0)
    async def unstorable() -> None:
        await step("thing", object)

    @fake.tq.task(max_retries=0)
    async def negative() -> None:
        await sleep_for("x", days=-1)

    assert (
        await failure(fake, twice)
        == "ValidationError: step: 'a' names another function in this task; give each a name of its own"
    )
    assert (
        await failure(fake, nested)
        == "ValidationError: step: step 'outer' runs; end it first, since it is stored as a whole"
    )
    assert (
        await failure(fake, asleep)
        == "ValidationError: sleep_for: step 'outer' runs; end it first, since it is stored as a whole"
    )
    assert (await failure(fake, unstorable)).startswith("ValidationError: step thing: result: ")
    assert (await failure(fake, negative)).startswith("ValidationError: days: ")
    with pytest.raises(NotFound, match="no task runs here"):
        await step("outside", int)
    with pytest.raises(ValidationError, match="key: "):
        await fake.tq.emit("")
    with pytest.raises(ValidationError, match="value: "):
        await fake.tq.emit("x", float("nan"))


async def test_a_short_sleep_keeps_its_slot(fake: Kit) -> None:
    @fake.tq.task
    async def work() -> int:
        await sleep_for("short", 60)
        await sleep_for("none", 0)
        return current_task().task.fence

    handle = await work.push()
    await fake.advance(59)
    assert await handle.status() == Status.RUNNING
    await fake.advance(1)
    assert await handle.result() == 1
    assert [(each.kind, each.name) for each in await fake.tq.steps(handle.task_id)] == [("sleep", "short")]


async def test_a_later_run_does_not_repeat_a_short_sleep(fake: Kit) -> None:
    @fake.tq.task
    async def work() -> int:
        await sleep_for("short", 40)
        await wait_event("go")
        return current_task().task.fence

    handle = await work.push()
    await fake.advance(40)
    assert await handle.status() == Status.PENDING
    await fake.tq.emit("go")
    await fake.advance(1)
    assert await handle.status() == Status.COMPLETED
    assert await handle.result() == 2


async def test_a_handler_that_catches_its_errors_still_sleeps(fake: Kit) -> None:
    @fake.tq.task
    async def work() -> str:
        try:
            await sleep_for("night", hours=8)
        except Exception:
            return "awake"
        async with asyncio.TaskGroup() as both:
            both.create_task(sleep_for("in a group", hours=8))
        return "slept"

    handle = await work.push()
    await fake.advance(hours=9)
    assert (await handle.status(), (await handle.task()).attempts[-1].outcome) == (Status.PENDING, "released")
    await fake.advance(hours=8)
    assert await handle.result() == "slept"


async def test_a_handler_that_catches_everything_still_sleeps(fake: Kit) -> None:
    @fake.tq.task
    async def work() -> list[Any]:
        return await asyncio.gather(wait_event("a"), wait_event("b"), return_exceptions=True)

    @fake.tq.task
    def in_a_thread() -> str:
        with contextlib.suppress(BaseException):
            aiotaskq.sync.sleep_for("night", hours=8)
        return "awake"

    both, thread = await work.push(), await in_a_thread.push()
    await fake.drain()
    assert [await each.status() for each in (both, thread)] == [Status.PENDING] * 2
    await fake.tq.emit("a", 1)
    await fake.drain()
    assert await both.status() == Status.PENDING
    await fake.tq.emit("b", 2)
    await fake.advance(hours=8)
    await fake.drain()
    assert (await both.result(), await thread.result()) == ([1, 2], "awake")


@pytest.mark.parametrize("held_up", [False, True], ids=["runs", "held up"])
async def test_a_wait_that_times_out_stays_so(fake: Kit, held_up: bool) -> None:
    @fake.tq.task
    async def work() -> list[Any]:
        found: list[Any] = []
        try:
            found.append(await wait_event("late", timeout=3600))
        except EventTimeout as error:
            found.append(str(error))
        await sleep_for("night", hours=8)
        return found

    handle = await work.push()
    await fake.advance(minutes=1)
    if held_up:
        await fake.tq.pause("default")
    await fake.advance(hours=1)
    await fake.tq.emit("late", 1)
    await fake.tq.resume("default")
    await fake.advance(hours=8)
    assert await handle.result() == ["event late did not come in time"]


async def test_an_event_that_is_there_needs_no_wait(kit: Kit) -> None:
    @kit.tq.task
    async def work() -> Any:
        return [await wait_event("early"), await wait_event("early"), current_task().task.fence]

    await kit.tq.emit("early")
    handle = await work.push()
    await kit.drain()
    assert await handle.result() == [None, None, 1]
    assert [each.key for each in await kit.tq.list_events("ea")] == ["early"]
    event = await kit.tq.get_event("early")
    assert event is not None and event.value is None and event.at == kit.clock.now()
    assert await kit.tq.get_event("other") is None


async def test_a_task_that_sleeps_can_be_cancelled(kit: Kit) -> None:
    @kit.tq.task
    async def work() -> None:
        await wait_event("never")

    handle = await work.push()
    await kit.drain(delayed=True)
    assert await handle.status() == Status.PENDING
    assert await handle.cancel()
    await kit.tq.emit("never")
    await kit.drain()
    assert await handle.status() == Status.CANCELLED


async def test_a_sleep_holds_no_slot_of_a_limit_and_does_not_expire(fake: Kit) -> None:
    ended: list[int] = []

    @fake.tq.task(limit=Limit(1), expires=3600)
    async def work(n: int) -> None:
        await sleep_for("night", hours=8)
        await wait_event(f"go {n}")
        ended.append(n)

    handles = [await work.push(n=n) for n in range(3)]
    await fake.advance(hours=9)
    for n in (2, 0, 1):
        await fake.tq.emit(f"go {n}")
        await fake.drain()
    assert ended == [2, 0, 1]
    assert [await handle.status() for handle in handles] == [Status.COMPLETED] * 3


async def test_a_zombie_stores_nothing(fake: Kit) -> None:
    errors: list[type] = []

    @fake.tq.task
    async def work() -> int:
        if current_task().task.fence == 1:
            (row,) = await fake.tq.queue.backend.get([current_task().task.task_id])
            assert row is not None
            await fake.tq.queue.backend.delete([row.task_id])
            try:
                await step("late", int)
            except LeaseLost as error:
                errors.append(type(error))
        return 1

    await work.push()
    await fake.drain()
    assert errors == [LeaseLost]


async def test_in_a_thread(kit: Kit) -> None:
    calls: list[str] = []

    def charge(n: int) -> dict[str, int]:
        calls.append("charge")
        return {"n": n}

    @kit.tq.task
    def work(n: int) -> list[Any]:
        charged = aiotaskq.sync.step("charge", charge, n)
        child = aiotaskq.sync.step("child", lambda: kit.tq.sync.push("work2", {}))
        aiotaskq.sync.sleep_for("two days", days=2)
        aiotaskq.sync.sleep_until("past", 1)
        return [charged, child, aiotaskq.sync.wait_event("ok", timeout=None)]

    @kit.tq.task
    async def work2() -> None: ...

    handle = await work.push(n=3)
    await kit.drain(delayed=True)
    await kit.tq.emit("ok", 5)
    await kit.drain()
    result = await handle.result()
    assert (result[0], result[2], calls) == ({"n": 3}, 5, ["charge"])
    assert (await kit.tq.get(result[1])).status == Status.COMPLETED


async def test_a_coroutine_function_is_no_step_of_a_def_handler(fake: Kit) -> None:
    async def charge() -> int:
        return 1

    @fake.tq.task(max_retries=0)
    def work() -> Any:
        return aiotaskq.sync.step("charge", charge)

    handle = await work.push()
    await fake.drain()
    error = (await handle.task()).error_message or ""
    assert error.startswith("ValidationError: step: 'charge' is an 'async def' function; write the handler so, too\n")


async def test_inline_lets_a_sleep_pass() -> None:
    async with inline(history=False, retention=None) as made:

        @made.tq.task
        async def work() -> Any:
            await sleep_for("short", 30)
            await sleep_for("long", days=2)
            return await wait_event("ok")

        await made.tq.emit("ok", 1, expires=None)
        began = time.monotonic()
        assert await (await work.push()).result() == 1
        waiting = await made.tq.push("work", {})
        assert await waiting.status() == Status.COMPLETED, "the event is kept"
        assert time.monotonic() - began < within(5)


async def test_events_are_deleted_when_they_have_expired() -> None:
    async with virtual(retention=7 * 86_400.0) as kit, asyncio.timeout(within(30)):
        await kit.tq.emit("short", 1, expires=3600)
        await kit.tq.emit("ever", 1, expires=None)
        await kit.advance(hours=2)
        assert [each.key for each in await kit.tq.list_events()] == ["ever"]
        assert await kit.tq.emit("short", 2)
        assert (await kit.tq.list_events())[1].value == 2
