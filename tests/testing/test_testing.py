"""The testing kit: virtual time, draining, inline mode, the swap of a store, assertions on pushes."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import ANY

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

import aiotaskq.testing
from aiotaskq import Backoff, QueueFull, TaskFailed, TaskQ, ValidationError, WrongLoop, current_task, injected
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core.task import SECOND, Status, Task
from aiotaskq.testing import START, Kit, inline, override, virtual
from tests.support.machine import within

STEADY = Backoff(base=10, factor=1, limit=10, jitter=False)


class Client:
    """A resource."""


@pytest.fixture(params=["rehearsal", "memory", "sqlite"])
async def kit(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Kit]:
    url = {"rehearsal": None, "memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/kit.db"}[request.param]
    async with virtual(url=url) as made:
        yield made


# ---- the clock ------------------------------------------------------------------------------------------------------


async def test_time_passes_only_when_told_and_each_timer_at_its_instant() -> None:
    clock = VirtualClock(0)
    seen: list[tuple[str, int]] = []

    async def every(name: str, seconds: float) -> None:
        while True:
            await clock.sleep(seconds)
            seen.append((name, clock.now() // SECOND))

    sleepers = [asyncio.create_task(every("a", 2)), asyncio.create_task(every("b", 3))]
    await clock.settle()
    assert seen == [] and clock.next_at == 2 * SECOND
    await clock.advance(6)
    assert seen == [("a", 2), ("b", 3), ("a", 4), ("b", 6), ("a", 6)]
    assert set(clock.sleepers) == set(sleepers)
    for sleeper in sleepers:
        sleeper.cancel()
    await asyncio.gather(*sleepers, return_exceptions=True)
    assert not clock.sleepers and clock.next_at is None


async def test_a_wait_ends_by_its_event_by_time_or_by_cancel() -> None:
    clock, event = VirtualClock(0), asyncio.Event()
    waiting = asyncio.create_task(clock.wait(event, 5))
    late = asyncio.create_task(clock.wait(asyncio.Event(), 5))
    gone = asyncio.create_task(clock.wait(asyncio.Event(), 5))
    await clock.advance(1)
    event.set()
    gone.cancel()
    await clock.settle()
    assert (waiting.done(), late.done(), gone.cancelled()) == (True, False, True)
    await clock.advance(4)
    assert (await waiting, await late) == (True, False)
    assert await clock.wait(asyncio.Event(), 0) is False
    assert await clock.wait(event, 0) is True


async def test_what_a_timer_wakes_has_run_however_long_the_chain_before_the_next_one() -> None:
    clock = VirtualClock(0)
    seen: list[str] = []

    async def deep(level: int) -> None:
        if level:
            await asyncio.create_task(deep(level - 1))
        else:
            seen.append("deep")

    async def first() -> None:
        await clock.sleep(1)
        await deep(200)

    async def second() -> None:
        await clock.sleep(1.000001)
        seen.append("second")

    tasks = [asyncio.create_task(first()), asyncio.create_task(second())]
    await clock.advance(2)
    assert seen == ["deep", "second"]
    await asyncio.gather(*tasks)


async def test_a_loop_that_does_not_show_what_is_ready_gets_enough_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    class Opaque:
        """A loop as uvloop's, which has no such attribute."""

    monkeypatch.setattr("aiotaskq.concurrency.clock.asyncio.get_running_loop", Opaque)
    rounds = 0

    async def busy() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(busy())
    await VirtualClock(0).settle()
    assert 15 <= rounds <= 25
    task.cancel()


async def test_a_busy_wait_does_not_stop_virtual_time() -> None:
    clock, done = VirtualClock(0), False

    async def busy() -> None:
        while not done:
            await asyncio.sleep(0)

    task = asyncio.create_task(busy())
    await clock.advance(1)
    assert clock.now() == SECOND
    done = True
    await task


async def test_cancelled_timers_do_not_pile_up() -> None:
    clock = VirtualClock(0)
    for _ in range(20_000):
        clock.call_later(3600, lambda: None)()
    assert len(clock._timers) < 3_000
    rang: list[int] = []
    clock.call_later(1, lambda: rang.append(clock.now()))
    await clock.advance(7200)
    assert rang == [SECOND] and clock._timers == [] and clock._cancelled == 0


async def test_time_waits_for_watched_work_but_not_for_ever() -> None:
    clock = VirtualClock(0)
    loop = asyncio.get_running_loop()
    work, hung = loop.create_future(), loop.create_future()
    clock.watch(lambda: [work])
    patience = within(0.05)
    clock.watch(lambda: [hung], patience=patience)
    threading.Timer(0.15, loop.call_soon_threadsafe, (work.set_result, None)).start()
    began = time.perf_counter()
    await clock.advance(1)
    assert work.done() and time.perf_counter() - began >= 0.1
    began = time.perf_counter()
    for _ in range(20):
        await clock.advance(1)
    assert time.perf_counter() - began < 10 * patience  # what took too long once is not waited for again


# ---- the kit --------------------------------------------------------------------------------------------------------


async def test_a_due_task_runs_without_time_a_delayed_one_with_it(kit: Kit) -> None:
    ran: list[tuple[int, datetime]] = []

    @kit.tq.task
    async def note(x: int) -> int:
        ran.append((x, kit.now))
        return 2 * x

    handle = await note.push(x=1)
    later = await note.options(delay=90).push(x=2)
    assert await handle.result() == 2
    await kit.advance(89.999999)
    assert ran == [(1, START)]
    await kit.advance(timedelta(microseconds=1))
    assert ran == [(1, START), (2, START + timedelta(seconds=90))]
    assert (await kit.task(later)).status is Status.COMPLETED
    assert [task.params["x"] for task in await kit.tasks("completed")] == [1, 2]


async def test_advance_in_all_its_units(kit: Kit) -> None:
    await kit.advance(days=1, hours=2, minutes=3)
    await kit.advance(4.5)
    await kit.advance(timedelta(seconds=0.5), hours=1)
    assert kit.now == START + timedelta(days=1, hours=3, minutes=3, seconds=5)
    await kit.advance_to(START + timedelta(days=2))
    assert kit.now == START + timedelta(days=2)
    with pytest.raises(ValidationError, match=r"when: .* is past; it is 2026-01-03T00:00:00\+00:00"):
        await kit.advance_to(START)
    with pytest.raises(ValidationError, match="when"):
        await kit.advance_to(datetime(2027, 1, 1))
    with pytest.raises(ValidationError, match="by"):
        await kit.advance(-1)


async def test_drain_runs_what_is_due_and_what_that_pushes(kit: Kit) -> None:
    ran: list[str] = []

    @kit.tq.task
    def leaf(n: int) -> None:
        ran.append(f"leaf {n}")

    @kit.tq.task
    async def root() -> None:
        for n in range(20):
            await leaf.push(n=n)
        await leaf.options(delay=60).push(n=99)
        ran.append("root")

    await root.push()
    await kit.drain()
    assert sorted(ran) == sorted(["root", *(f"leaf {n}" for n in range(20))])
    assert kit.now == START
    await kit.drain(delayed=True)
    assert ran[-1] == "leaf 99" and kit.now == START + timedelta(minutes=1)


async def test_drain_jumps_through_retries(kit: Kit) -> None:
    tried: list[datetime] = []

    @kit.tq.task(max_retries=5, backoff=Backoff(base=60, factor=10, limit=86_400, jitter=False))
    async def flaky() -> str:
        tried.append(kit.now)
        if len(tried) < 4:
            raise ConnectionError("not yet")
        return "done"

    handle = await flaky.push()
    await kit.drain(delayed=True)
    assert [(b - tried[0]).total_seconds() for b in tried] == [0, 60, 660, 6660]
    assert await handle.result() == "done"


async def test_drain_refuses_what_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiotaskq.testing.kit.JUMPS", 500)
    async with virtual() as kit:

        @kit.tq.task
        async def again(after: int) -> None:
            await again.options(delay=after).push(after=after)

        @kit.tq.schedule(interval=3600, name="tick")
        @kit.tq.task
        async def tock() -> None: ...

        await again.push(after=3600)
        with pytest.raises(
            AssertionError, match=r"no end after \d+ jumps, over 2 days.*(\n.*)*pending: 1 x again(\n.*)*tick"
        ):
            await kit.drain(delayed=True, within=timedelta(days=2))
        with pytest.raises(AssertionError, match=r"no end after \d+ jumps, over .*(\n.*)*1 x again"):
            await kit.drain(0.1, delayed=True)
        await again.push(after=1)
        with pytest.raises(AssertionError, match=r"no end after 500 jumps, over 0:.*(\n.*)*2 x again"):
            await kit.drain(timeout=30, delayed=True)


async def test_drain_waits_for_threads_and_sockets_and_says_who_does_not_end(kit: Kit) -> None:
    go = threading.Event()

    @kit.tq.task
    def thread() -> str:
        time.sleep(0.05)
        return "thread"

    @kit.tq.task
    async def outside() -> str:
        await asyncio.sleep(0.05)  # stands for a socket: nothing that the clock knows of
        return "outside"

    @kit.tq.task
    def stuck() -> None:
        go.wait(within(20))

    handles = [await thread.push(), await outside.push()]
    await kit.drain()
    assert [await handle.result() for handle in handles] == ["thread", "outside"]
    await stuck.push()
    seconds = within(0.2)
    kit.clock._watched = kit.clock._watched[:1]  # or the clock would wait for 5 s, too
    with pytest.raises(AssertionError, match=rf"after {seconds:g} s there is work left\n  running: 1 x stuck"):
        await kit.drain(timeout=seconds)
    go.set()
    await kit.drain()


async def test_drain_tells_a_handler_that_waits_for_time(kit: Kit) -> None:
    @kit.tq.task
    async def slow() -> str:
        await kit.clock.sleep(3600)
        return "slept"

    @kit.tq.task(timeout=30, max_retries=0)
    async def hangs() -> None:
        await kit.clock.wait(asyncio.Event(), 1e6)

    handle, hung = await slow.push(), await hangs.push()
    with pytest.raises(AssertionError, match=r"handlers wait for time: advance(.*\n)*.*1 x hangs, 1 x slow"):
        await kit.drain()
    await kit.drain(delayed=True)
    assert await handle.result() == "slept" and kit.now == START + timedelta(hours=1)
    with pytest.raises(TaskFailed, match="timed out after 30 s"):
        await hung.result()


async def test_a_handler_in_a_thread_takes_no_virtual_time(kit: Kit) -> None:
    @kit.tq.task(timeout=1, max_retries=0)
    def works() -> str:
        time.sleep(0.1)
        return "done"

    handle = await works.push()
    await kit.advance(days=1)
    assert await handle.result() == "done"


async def test_schedules_declared_before_and_in_the_test() -> None:
    tq = TaskQ("memory://")
    fired: list[tuple[str, datetime]] = []

    @tq.schedule(cron="0 9 * * mon", timezone="Asia/Shanghai")
    @tq.task
    async def weekly() -> None:
        fired.append(("weekly", kit.now))

    async with virtual(tq, url="memory://rehearsal") as kit:

        @tq.schedule(interval=86_400)
        @tq.task
        async def daily() -> None:
            fired.append(("daily", kit.now))

        await kit.advance(days=7)
    days = [("daily", START + timedelta(days=n)) for n in range(1, 8)]
    assert fired == sorted([*days, ("weekly", datetime(2026, 1, 5, 1, tzinfo=UTC))], key=lambda item: item[1])
    assert list(tq._handlers) == ["weekly"] and list(tq._declared) == ["weekly"]  # what the test added is gone


async def test_a_lost_lease_in_virtual_time() -> None:
    async with virtual(lease=60) as kit:
        ran: list[int] = []

        @kit.tq.task(backoff=STEADY)
        async def work() -> None:
            ran.append(current_task().task.fence)

        lost: list[Any] = []
        kit.tq.on("lost", lost.append)
        handle = await work.push()
        now = kit.clock.now()
        (taken,) = await kit.tq._backend.claim("another-process", now, 1, lease_until=now + 60 * SECOND)
        assert taken.task_id == handle.task_id
        await kit.advance(59)
        assert ran == []
        await kit.advance(60)
        assert ran == [2] and [event.task.task_id for event in lost] == [handle.task_id]
        assert (await kit.task(handle)).crashes == 1


async def test_leases_of_long_handlers_are_renewed_in_virtual_time() -> None:
    async with virtual(lease=60) as kit:

        @kit.tq.task
        async def long() -> str:
            await kit.clock.sleep(86_400)
            return "once"

        handle = await long.push()
        await kit.advance(days=1)
        assert await handle.result() == "once" and (await handle.task()).fence == 1


async def test_stopping_a_kit_is_quick_whatever_its_handlers_do() -> None:
    async with virtual() as kit:

        @kit.tq.task
        async def stubborn() -> None:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            await asyncio.Event().wait()

        await stubborn.push()
        await kit.clock.settle()
        began = time.perf_counter()
    assert time.perf_counter() - began < within(3)


async def test_what_a_database_would_refuse_is_refused() -> None:
    tq = TaskQ("sqlite:///nowhere/never-opened.db")

    @tq.task
    async def work(what: Any) -> Any:
        what["changed"] = True
        return what

    with override(tq) as pushes:
        with pytest.raises(ValidationError, match="params"):
            await tq.push("work", {"what": object()})
        with pytest.raises(ValidationError, match="on_success"):
            await work.options(on_success=print).push(what={})
    assert pushes.pushed == []
    async with virtual(tq):
        mine = {"numbers": [1, 2]}
        handle = await work.push(what=mine)
        assert await handle.result() == {"numbers": [1, 2], "changed": True}
        assert mine == {"numbers": [1, 2]} and (await handle.task()).params == {"what": mine}  # nobody shares it


# ---- the swap -------------------------------------------------------------------------------------------------------


async def test_an_applications_own_queue_is_swapped_and_put_back(tmp_path: Path) -> None:
    tq = TaskQ(f"sqlite:///{tmp_path}/app.db", timezone="Asia/Shanghai", maxsize=2, when_full="raise")
    heard: list[str] = []

    @tq.task(queue="mails")
    async def mail(to: str) -> str:
        return to

    @tq.on("pushed")
    def told(event: Any) -> None:
        heard.append(event.task.params["to"])

    @tq.middleware
    async def around(task: Task, call_next: Callable[[Task], Any]) -> Any:
        return f"<{await call_next(task)}>"

    scheduler, before = tq.scheduler, dict(vars(tq))
    with override(tq) as pushes:
        await mail.push(to="ann")
        assert tq.scheduler is not scheduler
        await mail.push(to="bob")
        with pytest.raises(QueueFull):
            await mail.push(to="eve")
        assert tq._timezone == "Asia/Shanghai" and repr(tq) == "TaskQ('memory://rehearsal')"
        assert [task.status for task in await tq.find()] == ["pending", "pending"]  # nobody runs them
    assert vars(tq) == before and not (tmp_path / "app.db").exists()
    assert [task.params["to"] for task in pushes.assert_pushed(mail, queue="mails", count=2)] == ["ann", "bob"]
    assert heard == ["ann", "bob"]
    async with virtual(tq) as kit:
        assert await (await mail.push(to="carl")).result() == "<carl>"
        with override(tq) as pushes:
            await mail.push(to="dora")
            assert [task.status for task in await tq.find()] == ["pending"]  # its workers stay with their store
        pushes.assert_pushed(mail, {"to": "dora"})
        kit.assert_pushed(mail, {"to": "carl"})
    assert vars(tq) == before


async def test_a_swap_into_a_database_that_is_there_for_the_test(tmp_path: Path) -> None:
    tq = TaskQ("postgresql://nobody@localhost:1/nothing")

    @tq.task
    async def work() -> int:
        return 1

    async with virtual(tq, f"sqlite:///{tmp_path}/test.db"):
        assert await (await work.push()).result() == 1
    assert (tmp_path / "test.db").exists()


def test_only_a_task_queue_is_swapped() -> None:
    with pytest.raises(ValidationError, match=r"override: an aiotaskq\.TaskQ is needed \(got builtins\.str\)"):
        override("sqlite:///app.db").__enter__()  # type: ignore[arg-type]


def test_one_queue_in_a_loop_for_each_test_and_a_kit_in_one_only() -> None:  # E12
    tq = TaskQ("sqlite:///never-opened.db")
    kits: list[Kit] = []

    @tq.task
    async def work() -> int:
        return 1

    async def first() -> None:
        async with virtual(tq) as kit:
            kits.append(kit)
            assert await (await work.push()).result() == 1
            with pytest.raises(WrongLoop, match="another event loop"):
                await asyncio.to_thread(asyncio.run, kit.drain())

    async def abandoned() -> None:
        with override(tq):
            await tq.open()
            await work.push()

    for _ in range(3):
        asyncio.run(first())
        asyncio.run(abandoned())
    assert len({id(kit.clock) for kit in kits}) == 3


# ---- inline ---------------------------------------------------------------------------------------------------------


async def test_inline_runs_in_the_caller_by_all_rules() -> None:
    tq = TaskQ("sqlite:///never-opened.db")
    told: list[str] = []

    @tq.resource
    async def client() -> AsyncIterator[Client]:
        yield Client()

    @tq.middleware
    async def around(task: Task, call_next: Callable[[Task], Any]) -> Any:
        told.append("before")
        try:
            return await call_next(task)
        finally:
            told.append("after")

    for name in ("pushed", "started", "completed"):
        tq.on(name, lambda event: told.append(event.name))

    @tq.task
    async def work(x: int, client: Client = injected()) -> dict[str, Any]:
        assert isinstance(client, Client) and asyncio.current_task() is caller
        await current_task().progress(1, 1)
        return {"x": x}

    caller = asyncio.current_task()
    async with inline(tq) as kit:
        handle = await work.push(x=3)
        task = await handle.task()
        assert (task.status, task.fence, task.result) == (Status.COMPLETED, 1, {"x": 3})
        assert await handle.result() == {"x": 3} and task.progress is not None
        assert told == ["pushed", "started", "before", "after", "completed"]
        kit.assert_pushed(work, {"x": 3}, count=1)


async def test_inline_raises_what_the_handler_raised() -> None:
    async with inline() as kit:

        @kit.tq.task(max_retries=2, backoff=STEADY)
        async def fails() -> None:
            raise LookupError("no such user")

        with pytest.raises(LookupError, match="no such user"):
            await fails.push()
        (task,) = await kit.tasks()
        assert (task.status, task.retry_count) == (Status.PENDING, 1)  # a worker would try again

        @kit.tq.task(timeout=1, max_retries=0)
        async def hangs() -> None:
            await asyncio.gather(kit.clock.sleep(10), kit.clock.advance(2))

        with pytest.raises(TaskFailed, match="timed out after 1 s"):
            await hangs.push()


@pytest.mark.parametrize("raise_errors", [True, False])
async def test_inline_retries_at_once(raise_errors: bool) -> None:
    async with inline(retries=True, raise_errors=raise_errors) as kit:
        tried: list[int] = []

        @kit.tq.task(max_retries=2, backoff=STEADY)
        async def flaky(failures: int) -> str:
            tried.append(kit.clock.now() // SECOND)
            if len(tried) <= failures:
                raise ConnectionError(f"number {len(tried)}")
            return "done"

        handle = await flaky.push(failures=2)
        assert await handle.result() == "done" and [at - tried[0] for at in tried] == [0, 10, 20]
        tried.clear()
        with pytest.raises(ConnectionError, match="number 3") if raise_errors else contextlib.nullcontext():
            await flaky.push(failures=9)
        (failed,) = await kit.tasks("failed")
        assert "number 3" in (failed.error_message or "") and len(tried) == 3


async def test_inline_nests_follows_up_and_leaves_delayed_ones() -> None:
    async with inline() as kit:
        ran: list[str] = []

        @kit.tq.task
        async def inner(n: int) -> int:
            ran.append(f"inner {n}")
            return n

        @kit.tq.task
        def told(task_id: str, type: str, result: Any, error: Any) -> None:
            ran.append(f"told of {type} {result}")

        @kit.tq.task
        async def outer() -> int:
            total = sum([await (await inner.push(n=n)).result() for n in (1, 2)])
            ran.append("outer")
            return total

        handle = await outer.options(on_success="told").push()
        assert ran == ["inner 1", "inner 2", "outer", "told of outer 3"]
        assert await handle.result() == 3
        later = await inner.options(delay=5).push(n=9)
        assert await later.status() is Status.PENDING
        many = await asyncio.gather(*[inner.push(n=n) for n in range(10, 20)])
        assert [await handle.result() for handle in many] == list(range(10, 20))
        same = await outer.options(idempotency_key="once").push()
        again = await outer.options(idempotency_key="once").push()
        assert (same.task_id, again.created) == (again.task_id, False) and ran.count("outer") == 3 - 1


async def test_inline_in_the_transaction_of_a_test_database(tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/inline.db")
    async with inline(url=f"sqlite:///{tmp_path}/inline.db", raise_errors=False) as kit:

        @kit.tq.task(max_retries=0)
        async def once(commit: bool) -> str:
            async with AsyncSession(engine) as session:
                await current_task().complete(session=session, result="exactly once")
                if commit:
                    await session.commit()
            return "ignored"

        assert await (await once.push(commit=True)).result() == "exactly once"
        async with AsyncSession(engine) as session:
            handle = await once.options(session=session).push(commit=True)
            await session.rollback()
        assert [task.status for task in await kit.tasks()] == [Status.COMPLETED]  # and this one never was
        handle = await once.push(commit=False)
        with pytest.raises(TaskFailed, match="not committed"):
            await handle.result()
    await engine.dispose()


# ---- assertions -----------------------------------------------------------------------------------------------------


async def test_assertions_say_what_was_pushed_instead() -> None:
    tq = TaskQ("memory://")

    @tq.task(queue="mails")
    async def send(to: str, subject: str = "") -> None: ...

    with override(tq) as pushes:
        with pytest.raises(AssertionError, match=r"^send: at least one expected, 0 pushed\nnothing was pushed$"):
            pushes.assert_pushed(send)
        pushes.assert_not_pushed(send)
        await send.push(to="ann", subject="hello")
        await send.options(queue="bulk").push(to="bob")
        (task,) = pushes.assert_pushed("send", {"to": "ann"})
        assert task.params == {"to": "ann", "subject": "hello"}
        assert len(pushes.assert_pushed(send, {"to": ANY}, count=2)) == 2
        pushes.assert_pushed(send, {"to": "bob"}, queue="bulk", count=1)
        pushes.assert_pushed("other", count=0)
        pushes.assert_not_pushed(send, {"to": "ann", "subject": "other"})
        with pytest.raises(AssertionError) as caught:
            pushes.assert_pushed(send, {"to": "eve"}, queue="bulk", count=3)
        assert str(caught.value) == (
            "send with {'to': 'eve'} in queue bulk: 3 expected, 0 pushed\n"
            "2 x send:\n"
            "  send {'to': 'ann', 'subject': 'hello'} in queue mails\n"
            "  send {'to': 'bob'} in queue bulk"
        )
        with pytest.raises(AssertionError, match=r"send: none expected, 2 pushed"):
            pushes.assert_not_pushed(send)
        for _ in range(30):
            await send.push(to="x" * 500)
        assert str(pushes).endswith("…  in queue mails\n  … and 12 more".replace("  in", " in"))
        pushes.pushed.clear()
        pushes.assert_not_pushed(send)


def test_the_door_names_what_it_has() -> None:
    public = {
        name
        for name, value in vars(aiotaskq.testing).items()
        if not name.startswith("_") and not isinstance(value, ModuleType) and name != "annotations"
    }
    assert public == set(aiotaskq.testing.__all__)
