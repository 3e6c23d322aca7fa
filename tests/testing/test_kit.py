"""The testing kit: due and delayed tasks, draining, schedules and leases in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from aiotaskq import Backoff, Limit, TaskFailed, TaskQ, current_task
from aiotaskq.core.ids import restart_seq
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND
from aiotaskq.errors import ValidationError
from aiotaskq.testing import START, Kit, VirtualClock, override, virtual
from aiotaskq.testing.harness import opened
from tests.support.machine import watchdog, within
from tests.testing.backoffs import STEADY


@pytest.fixture(params=["durable_fake", "memory", "sqlite"])
async def kit(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Kit]:
    url = {"durable_fake": None, "memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/kit.db"}[request.param]
    async with virtual(url=url) as made:
        yield made


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


async def test_an_idle_day_is_a_few_looks_at_the_store(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    await kit.drain()
    waits: list[float] = []
    call_later = kit.clock.call_later

    def counted(delay: float, callback: Callable[[], object]) -> Callable[[], None]:
        waits.append(delay)
        return call_later(delay, callback)

    monkeypatch.setattr(kit.clock, "call_later", counted)
    await kit.advance(days=1)
    assert 1 <= len(waits) < 20


async def test_a_short_retention_is_kept_in_virtual_time() -> None:
    async with virtual(retention=120) as kit:

        @kit.tq.task
        async def work() -> None: ...

        await work.push()
        await kit.drain()
        await kit.advance(minutes=5)
        assert await kit.tasks() == []


async def test_what_is_not_claimed_expires_at_its_instant(kit: Kit) -> None:
    expired: list[tuple[datetime, int]] = []
    kit.tq.on("expired", lambda event: expired.append((kit.now, event.task.params["n"])))

    @kit.tq.task(limit=Limit(1))
    async def work(n: int) -> None: ...

    await kit.tq.limits.pause("work")
    for n, seconds in enumerate((10, 70)):
        await work.options(expires=seconds).push(n=n)
    await kit.advance(60)
    assert expired == [(START + timedelta(seconds=10), 0)]
    await kit.drain(delayed=True)
    assert expired[1:] == [(START + timedelta(seconds=70), 1)]
    await work.push(n=2)
    with pytest.raises(AssertionError, match=r"pending: 1 x work\n  limit work: 1 wait, 0 hold a slot, paused"):
        await kit.drain(delayed=True)


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
    with pytest.raises(ValidationError, match="seconds"):
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
    monkeypatch.setattr("aiotaskq.testing.kit.MAX_JUMPS", 500)
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


async def test_drain_waits_for_threads_and_sockets_and_names_handlers_that_do_not_end(kit: Kit) -> None:
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


async def test_drain_reports_a_handler_that_waits_for_time(kit: Kit) -> None:
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
    await kit.advance(hours=1)
    assert await handle.result() == "done"


async def test_schedules_declared_before_and_in_the_test() -> None:
    tq = TaskQ("memory://")
    fired: list[tuple[str, datetime]] = []

    @tq.schedule(cron="0 9 * * mon", timezone="Asia/Shanghai")
    @tq.task
    async def weekly() -> None:
        fired.append(("weekly", kit.now))

    async with virtual(tq, url="memory://durable-fake") as kit:

        @tq.schedule(interval=86_400)
        @tq.task
        async def daily() -> None:
            fired.append(("daily", kit.now))

        await kit.advance(days=7)
    days = [("daily", START + timedelta(days=n)) for n in range(1, 8)]
    assert fired == sorted([*days, ("weekly", datetime(2026, 1, 5, 1, tzinfo=UTC))], key=lambda item: item[1])
    assert list(tq._registered.handlers) == list(tq._registered.schedules) == ["weekly"]  # the test's own ones are gone


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
        (taken,) = await kit.tq.queue.backend.claim("another-process", now, 1, lease_until=now + 60 * SECOND)
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


async def test_the_durable_fake_refuses_what_a_database_refuses() -> None:
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
        assert mine == {"numbers": [1, 2]} and (await handle.task()).params == {"what": mine}  # it is a copy


async def test_a_push_in_a_session_passes_its_limit_after_the_commit(tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/other.db")
    ran: list[int] = []
    async with virtual() as kit:

        @kit.tq.task(limit=Limit(1))
        async def limited(number: int) -> None:
            ran.append(number)

        async with AsyncSession(engine) as session:
            for number in range(3):
                await limited.options(session=session).push(number=number)
            await session.execute(text("SELECT 1"))
            await session.commit()
        await kit.drain()
    assert ran == [0, 1, 2]
    await engine.dispose()


async def test_a_run_that_ends_while_the_kit_reads_is_settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with virtual(url=f"sqlite:///{tmp_path}/kit.db") as kit:
        told = asyncio.Event()

        @kit.tq.task
        async def waits() -> None:
            await told.wait()

        handle = await waits.push()
        backend = kit.tq.queue.backend
        read = backend.next_run_at

        async def next_run_at(*args: Any) -> int | None:
            if (await handle.task()).status is Status.RUNNING and not told.is_set():
                told.set()
                for _ in range(5):  # the handler returns, and its end is not written yet
                    await asyncio.sleep(0)
                return None
            return await read(*args)

        monkeypatch.setattr(backend, "next_run_at", next_run_at)
        await kit.drain()
        assert await handle.status() is Status.COMPLETED


def test_a_loop_may_end_while_an_outcome_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where anyio runs a test: the kit is stopped by the end of the loop, which has cancelled all asyncio tasks."""

    async def test() -> None:
        tq = kit.tq
        writes = asyncio.Event()

        async def exchange(*_: Any) -> Any:
            writes.set()
            await asyncio.Event().wait()

        @tq.task
        async def work() -> None:
            monkeypatch.setattr(tq.queue.backend, "exchange", exchange)

        await work.push()
        await asyncio.wait_for(writes.wait(), watchdog())
        asyncio.get_running_loop().call_later(within(10), stuck)

    def stuck() -> None:
        raise SystemExit("the loop does not end")

    with opened(Kit, None, None, clock=VirtualClock()) as kit:
        asyncio.run(test())


async def test_what_an_earlier_test_has_pushed_makes_no_first_call_later() -> None:
    restart_seq(int(START.timestamp() * SECOND) + SECOND // 2)  # it pushed half a second after the same start
    ran: list[float] = []
    async with virtual() as kit:

        @kit.tq.task(debounce=2, max_wait=3)
        async def rebuild() -> None:
            ran.append((kit.now - START).total_seconds())

        for _ in range(3):
            await rebuild.push()
            await kit.advance(1.5)
        assert ran == [3.0]


async def test_the_history_of_a_kit_has_the_tags_of_the_application() -> None:
    tq = TaskQ("memory://", history_tags=("tenant",))

    @tq.task(tags={"tenant": "acme"})
    async def bill() -> None: ...

    async with virtual(tq) as kit:
        await bill.push()
        await kit.advance(120)
        assert [(each.tag, each.n) for each in await tq.history(tag="tenant")] == [("tenant=acme", 1)]
