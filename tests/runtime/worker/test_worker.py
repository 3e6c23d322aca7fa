"""The worker: running, timeouts, retries, cancel, leases, the stages of a stop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import itertools
import logging
import os
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import aiotaskq
from aiotaskq import Backoff, ExitCode, TaskFailed, TaskQ, current_task
from aiotaskq.app.run_options import RunOptions
from aiotaskq.backends.base import Backend
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core.outcome import Released, marked, settle
from aiotaskq.core.task import SECOND, Status
from aiotaskq.errors import DatabaseUnavailable, UnknownHandler, ValidationError
from aiotaskq.testing import virtual
from tests.support.machine import within

URLS = ["memory", "sqlite"]


@pytest.fixture(params=URLS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/worker.db"


@pytest.fixture
def tq(url: str) -> TaskQ:
    return TaskQ(url, lease=within(4), poll_interval=0.05)


async def eventually(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Watch the real clock until something that happens elsewhere has happened."""
    async with asyncio.timeout(within(seconds)):
        while not condition():
            await asyncio.sleep(0.005)


async def test_async_and_def_handlers_give_results(tq: TaskQ) -> None:
    @tq.task
    async def add(a: int, b: int) -> int:
        return a + b

    @tq.task
    def thread_name() -> str:
        return threading.current_thread().name

    async with tq.running(concurrency=2):
        assert await (await add.push(a=1, b=2)).result(within(30)) == 3
        assert (await (await thread_name.push()).result(within(30))).startswith("aiotaskq-handler-")
    assert await add(1, 2) == 3


async def test_retry_with_backoff_then_success(tq: TaskQ) -> None:
    runs: list[int] = []

    @tq.task(max_retries=2, backoff=0.02)
    async def flaky() -> str:
        runs.append(current_task().task.retry_count)
        if len(runs) < 3:
            raise RuntimeError("not yet")
        return "done"

    async with tq.running(concurrency=1):
        handle = await flaky.push()
        assert await handle.result(within(30)) == "done"
        task = await handle.task()
    assert runs == [0, 1, 2]
    assert (task.retry_count, task.status, task.fence) == (2, Status.COMPLETED, 3)


async def test_retries_are_spread_and_delayed_by_the_clock() -> None:
    async with virtual(concurrency=1) as kit:
        seen: list[datetime] = []

        @kit.tq.task(max_retries=3, backoff=Backoff(base=10, factor=3, limit=60, jitter=False))
        async def fails() -> None:
            seen.append(kit.now)
            raise ValueError("no")

        handle = await fails.push()
        await kit.drain(delayed=True)
        task = await handle.task()
    assert [(b - a).total_seconds() for a, b in itertools.pairwise(seen)] == [10, 30, 60]
    assert task.status is Status.FAILED and task.error_message.startswith("ValueError: no\n\nTraceback")


async def test_dead_letter_is_listed_and_put_back(tq: TaskQ) -> None:
    good = False

    @tq.task(max_retries=0)
    async def fails() -> str:
        if not good:
            raise KeyError("missing")
        return "fine"

    async with tq.running(concurrency=1):
        handle = await fails.push()
        with pytest.raises(TaskFailed, match="KeyError: 'missing'") as caught:
            await handle.result(within(30))
        assert caught.value.task.task_id == handle.task_id
        assert [task.task_id for task in await tq.find(status="failed")] == [handle.task_id]
        good = True
        again = await tq.retry(handle.task_id)
        assert await again.result(within(30)) == "fine"


async def test_errors_not_in_retry_on_fail_at_once(tq: TaskQ) -> None:
    @tq.task(max_retries=5, retry_on=(ConnectionError,))
    async def fails() -> None:
        raise ValueError("wrong input")

    async with tq.running(concurrency=1):
        handle = await fails.push()
        with pytest.raises(TaskFailed):
            await handle.result(within(30))
        assert (await handle.task()).retry_count == 0


async def test_timeout_is_recorded_and_the_slot_lives_on(tq: TaskQ) -> None:
    @tq.task(timeout=0.05, max_retries=0)
    async def hangs() -> None:
        await asyncio.Event().wait()

    @tq.task
    async def quick() -> int:
        return 1

    async with tq.running(concurrency=1):
        handle = await hangs.push()
        with pytest.raises(TaskFailed, match=r"timed out after 0\.05 s"):
            await handle.result(within(30))
        assert await (await quick.push()).result(within(30)) == 1


async def test_timeout_of_a_thread_keeps_the_slot_until_it_ends(tq: TaskQ) -> None:  # D14, D5
    release = threading.Event()
    others: list[str] = []

    @tq.task(timeout=within(0.05), max_retries=0)  # long enough for a thread to start
    def stuck() -> None:
        release.wait(within(40))

    @tq.task
    async def other() -> None:
        others.append("ran")

    rang = asyncio.Event()
    tq.on("timeout", lambda event: rang.set())
    async with tq.running(concurrency=1):
        handle = await stuck.push()
        await other.push()
        await rang.wait()
        await asyncio.sleep(0)
        # The timeout is known, but the thread lives: neither given back nor replaced.
        assert await handle.status() is Status.RUNNING and not others
        release.set()
        with pytest.raises(TaskFailed, match="timed out"):
            await handle.result(within(30))
        await eventually(lambda: others == ["ran"])


async def test_handlers_own_timeout_error_is_an_ordinary_failure(tq: TaskQ) -> None:
    @tq.task(max_retries=0)
    async def inner() -> None:
        async with asyncio.timeout(0.001):
            await asyncio.sleep(5)

    async with tq.running(concurrency=1):
        with pytest.raises(TaskFailed, match="TimeoutError") as caught:
            await (await inner.push()).result(within(30))
    assert "Traceback" in (caught.value.error or "")


@pytest.mark.parametrize("ending", ["cancelled", "fails", "succeeds", "ignores"])
async def test_cancel_of_a_running_task(tq: TaskQ, ending: str) -> None:  # D6: only legal transitions, the worker lives
    started = asyncio.Event()
    let_go = asyncio.Event()

    @tq.task(max_retries=3, backoff=0.01)
    async def running() -> str:
        started.set()
        try:
            await let_go.wait()
        except asyncio.CancelledError:
            if ending == "cancelled":
                raise
            if ending == "fails":
                raise RuntimeError("while stopping") from None
            if ending == "ignores":
                await let_go.wait()
        return "finished"

    @tq.task
    async def quick() -> int:
        return 1

    async with tq.running(concurrency=1):
        handle = await running.push()
        await started.wait()
        assert await handle.cancel() is True
        let_go.set()
        expected = Status.CANCELLED if ending in ("cancelled", "fails") else Status.COMPLETED
        task = await tq.queue.wait_for_end(handle.task_id, within(30))
        assert task.status is expected
        assert await handle.cancel() is False
        assert await (await quick.push()).result(within(30)) == 1


async def test_handler_that_cancels_itself_fails_and_the_worker_lives(tq: TaskQ) -> None:
    @tq.task(max_retries=0)
    async def odd() -> None:
        raise asyncio.CancelledError

    @tq.task
    async def quick() -> int:
        return 1

    async with tq.running(concurrency=1):
        with pytest.raises(TaskFailed, match="cancelled from within"):
            await (await odd.push()).result(within(30))
        assert await (await quick.push()).result(within(30)) == 1


async def test_cancel_of_a_claimed_but_unstarted_task(url: str) -> None:
    tq = TaskQ(url, poll_interval=0.05)
    ran: list[int] = []

    @tq.task
    async def never() -> None:
        ran.append(1)

    async with tq:
        handle = await never.push()
        assert await handle.cancel() is True
        assert await handle.status() is Status.CANCELLED
        async with tq.running(concurrency=1):
            await tq.queue.wait_for_end(handle.task_id, within(30))
    assert not ran


async def test_progress_and_snooze(tq: TaskQ) -> None:
    runs: list[int] = []

    @tq.task
    async def works() -> str:
        context = current_task()
        runs.append(context.task.fence)
        await context.progress(len(runs), 2, "half \udce9")
        if len(runs) == 1:
            context.snooze(0.02)
        return "ok"

    async with tq.running(concurrency=1):
        handle = await works.push()
        assert await handle.result(within(30)) == "ok"
        assert await handle.progress() == {"done": 2, "total": 2, "message": "half \\udce9"}
        assert (await handle.task()).retry_count == 0
    assert runs == [1, 2]
    with pytest.raises(aiotaskq.NotFound):
        current_task()


async def test_unserializable_result_fails_without_a_retry(tmp_path: Path) -> None:  # I4
    tq = TaskQ(f"sqlite:///{tmp_path}/r.db")
    runs: list[int] = []

    @tq.task(max_retries=3, backoff=0.01)
    async def gives_object() -> Any:
        runs.append(1)
        return {"socket": object()}

    @tq.task
    async def gives_nul() -> Any:
        return ("a\x00b", {"k": "\ud800"})

    async with tq.running(concurrency=1):
        with pytest.raises(TaskFailed, match="result_unserializable: result"):
            await (await gives_object.push()).result(within(30))
        assert await (await gives_nul.push()).result(within(30)) == [
            "a\\x00b",
            {"k": "\\ud800"},
        ]  # I1: escaped, worker lives
    assert runs == [1]


async def test_error_text_with_nul_is_stored_escaped(tq: TaskQ) -> None:  # I1, F16
    @tq.task(max_retries=0)
    async def fails() -> None:
        raise ValueError("nul \x00 and " + "x" * 100_000)

    async with tq.running(concurrency=1):
        with pytest.raises(TaskFailed) as caught:
            await (await fails.push()).result(within(30))
    assert "nul \\x00 and" in (caught.value.error or "") and len(caught.value.error or "") <= 16 * 1024


async def test_only_registered_names_run(tq: TaskQ) -> None:  # J3
    for name in ("os.system", "builtins.exec", "__import__"):
        await tq.push(name, {"command": "true"})
    unknown: list[str] = []
    tq.on("unknown", lambda event: unknown.append(event.task.type))

    @tq.task
    async def known() -> int:
        return 1

    async with tq.running(concurrency=3):
        assert await (await known.push()).result(within(30)) == 1
        await eventually(lambda: len(unknown) >= 3)
        tasks = await tq.find(limit=10)
    left = [task for task in tasks if task.type != "known"]
    assert {task.status for task in left} == {Status.PENDING} and all(task.retry_count == 0 for task in left)


async def test_unknown_type_fails_after_a_set_age() -> None:  # A13
    async with virtual(concurrency=1) as kit:
        handle = await kit.tq.push("of.another.deploy")
        await kit.advance(minutes=30)
        assert await handle.status() is Status.PENDING
        await kit.advance(hours=1)
        task = await handle.task()
    assert task.status is Status.FAILED and "unknown_task" in task.error_message


async def test_the_age_of_an_unknown_type_counts_from_when_it_was_due(url: str) -> None:  # A13
    """A delay, a retry and an operator's retry are no time in which a worker could have known it."""
    async with virtual(url=None if url == "memory://" else url, concurrency=1) as kit:
        delayed = await kit.tq.push("of.another.deploy", delay=2 * 3600)
        await kit.advance(hours=2, minutes=30)
        row = await delayed.task()
        assert row.status is Status.PENDING and row.due_at is not None and row.run_at > row.due_at
        assert (kit.clock.now() - row.due_at) // SECOND == 1800
        await kit.advance(hours=1)
        assert await delayed.status() is Status.FAILED
        await kit.tq.retry(delayed.task_id)
        await kit.advance(minutes=30)
        assert await delayed.status() is Status.PENDING, "an operator has put it back: it counts anew"
        await kit.advance(hours=1)
        assert await delayed.status() is Status.FAILED


async def test_undecodable_row_fails_and_keeps_its_bytes(tmp_path: Path) -> None:  # A16, I5, F21
    import sqlite3

    tq = TaskQ(f"sqlite:///{tmp_path}/u.db", poll_interval=0.05)
    done: list[int] = []

    @tq.task
    async def work(i: int) -> None:
        done.append(i)

    async with tq:
        handles = [await work.push(i=i) for i in range(20)]
        with contextlib.closing(sqlite3.connect(tmp_path / "u.db")) as raw:
            raw.execute("UPDATE task_queue SET params = '{broken' WHERE task_id = ?", (handles[7].task_id,))
            raw.commit()
        async with tq.running(concurrency=4):
            task = await tq.queue.wait_for_end(handles[7].task_id, within(30))
            await eventually(lambda: len(done) == 19)
        assert task.status is Status.FAILED and task.error_message.startswith("undecodable: params is not JSON")
        with contextlib.closing(sqlite3.connect(tmp_path / "u.db")) as raw:
            assert raw.execute("SELECT params FROM task_queue WHERE task_id = ?", (handles[7].task_id,)).fetchone() == (
                "{broken",
            )


async def test_text_that_is_not_utf8_fails_its_own_task_only(tmp_path: Path) -> None:  # A16
    import sqlite3

    tq = TaskQ(f"sqlite:///{tmp_path}/b.db", poll_interval=0.05)

    @tq.task
    async def work(i: int) -> int:
        return i

    async with tq:
        handles = [await work.push(i=i) for i in range(5)]
        with contextlib.closing(sqlite3.connect(tmp_path / "b.db")) as raw:
            broken = (b'{"i": "\xff"}', handles[2].task_id)
            raw.execute("UPDATE task_queue SET params = CAST(? AS TEXT) WHERE task_id = ?", broken)
            raw.commit()
        async with tq.running(concurrency=2):
            assert [await handles[i].result(within(30)) for i in (0, 1, 3, 4)] == [0, 1, 3, 4]
            with pytest.raises(TaskFailed, match="undecodable"):
                await handles[2].result(within(30))


async def test_nothing_secret_is_logged(tmp_path: Path) -> None:  # J8
    from aiotaskq.log import logger

    lines: list[str] = []
    sink = logger.add(lines.append, level="TRACE", format="{message} {extra} {exception}", diagnose=False)
    try:
        tq = TaskQ(f"sqlite:///{tmp_path}/s.db", poll_interval=0.05)

        @tq.task(max_retries=1, backoff=0.001)
        async def fails(token: str) -> None:
            raise ValueError("refused")

        @tq.on("failed")
        def broken(event: Any) -> None:
            raise RuntimeError("a listener's own fault")

        async with tq.running(concurrency=1):
            await tq.store.set_public("cookie", "S3CRET-value", ttl=1)
            handle = await fails.push(token="S3CRET-param")
            await tq.queue.wait_for_end(handle.task_id, within(10))
            assert "S3CRET" not in repr(handle) + repr(tq)
    finally:
        logger.remove(sink)
    assert lines and "S3CRET" not in "".join(lines)


async def test_no_task_vanishes_under_gc(tq: TaskQ) -> None:  # D2
    @tq.task
    async def work(i: int) -> int:
        await asyncio.sleep(0)
        return i

    async with tq.running(concurrency=5):
        handles = await tq.push_many([work.call(i=i) for i in range(100)])
        results = []
        for handle in handles:
            gc.collect(0)
            results.append(await handle.result(within(10)))
    assert results == list(range(100))


async def test_failing_tasks_leave_no_frames(tq: TaskQ, monkeypatch: pytest.MonkeyPatch) -> None:  # H2, in small
    monkeypatch.setattr(logging.getLogger("aiotaskq"), "propagate", False)  # pytest keeps all records

    class Big:
        alive = 0

        def __init__(self) -> None:
            Big.alive += 1

        def __del__(self) -> None:
            Big.alive -= 1

    @tq.task(max_retries=0)
    async def fails() -> None:
        local = Big()
        raise ValueError(id(local))

    async with tq.running(concurrency=3):
        handles = await tq.push_many([fails.call() for _ in range(30)])
        for handle in handles:
            await tq.queue.wait_for_end(handle.task_id, within(10))
        gc.collect()
        assert Big.alive == 0


@pytest.fixture
def fixed_chance() -> Iterator[None]:
    """The same chances in each run: half of 50 waits fall into their first third once in some hundred runs."""
    state = random.getstate()
    random.seed(11)
    yield
    random.setstate(state)


@pytest.mark.usefixtures("fixed_chance")
async def test_tasks_that_failed_together_do_not_come_back_together() -> None:  # H11
    async with virtual(concurrency=50) as kit:

        @kit.tq.task(max_retries=1, backoff=Backoff(base=1000))
        async def fails() -> None:
            raise ValueError("all at once")

        @kit.tq.task(max_retries=1, backoff=Backoff(base=1000), timeout=1)
        async def hangs() -> None:
            await asyncio.Event().wait()

        for handler in (fails, hangs):
            handles = await kit.tq.push_many([handler.call() for _ in range(50)])
            await kit.advance(1)
            waits = sorted([(await kit.task(handle)).run_at - kit.tq._clock.now() for handle in handles])
            # Uniform between 0 and 1,000 s; that a third is empty has a chance of 3 * (2/3)**50.
            assert waits[0] < 333 * SECOND < waits[25] < 900 * SECOND and waits[-1] > 667 * SECOND


# ---- leases ----------------------------------------------------------------------------------------------------------


async def test_heartbeat_keeps_a_long_task(tmp_path: Path) -> None:  # B2
    lease = min(within(1.0), 6.0)
    tq = TaskQ(f"sqlite:///{tmp_path}/b.db", lease=lease, poll_interval=0.05)
    runs: list[int] = []

    @tq.task
    async def long() -> None:
        runs.append(1)
        await asyncio.sleep(3 * lease)  # of the real clock, which is what this test watches

    async with tq.running(concurrency=2):
        await (await long.push()).result(within(30))
    assert runs == [1]


async def test_lost_lease_cancels_the_handler_and_its_write_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:  # B10, A5
    url = f"sqlite:///{tmp_path}/z.db"
    tq = TaskQ(url, lease=within(30), heartbeat=0.05, poll_interval=0.05)
    started, cancelled = asyncio.Event(), asyncio.Event()
    lost: list[str] = []
    tq.on("lost", lambda event: lost.append(event.task.task_id))

    @tq.task
    async def zombie() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with tq.running(concurrency=1):
        handle = await zombie.push()
        await started.wait()
        # Somebody else takes the task over: the fence rises behind the worker's back.
        before = await handle.task()
        held = await tq._backend.update([_change(before, before.replace(status=Status.PENDING, run_at=2**60))])
        assert held == [True]
        await cancelled.wait()
        await eventually(lambda: tq.worker is not None and tq.worker.busy == 0)
        after = await handle.task()
    assert after.status is Status.PENDING and after.retry_count == 0
    assert [record.getMessage().partition(":")[0] for record in caplog.records if record.name == "aiotaskq"] == [
        f"lost zombie {handle.task_id}"
    ]


def _change(before: Any, after: Any) -> Any:
    from aiotaskq.backends.base import Change

    return Change(before, after)


async def test_crashed_workers_tasks_come_back_and_poison_ends(url: str) -> None:  # A1, A4, A14
    clock = VirtualClock()
    tq = TaskQ(url, clock=clock, lease=2)
    async with tq:
        handle = await tq.push("deadly")
        for _ in range(3):
            # A worker that claims and is gone; the reaper belongs to a worker that has no handlers at all.
            await _lose(tq, clock)
        task = await handle.task()
        assert (task.status, task.crashes, task.fence) == (Status.PENDING, 2, 3), "it may never have started"
        await _lose(tq, clock, alone=True)
        task = await handle.task()
    assert (task.status, task.crashes, task.fence) == (Status.FAILED, 3, 4)
    assert task.error_message == "poison: its worker died 3 times, the last time while it ran alone"


async def _lose(tq: TaskQ, clock: VirtualClock, alone: bool = False) -> None:
    (task,) = await tq._backend.claim("worker-gone", clock.now(), 1, lease_until=clock.now() + 2 * SECOND)
    if alone:
        assert await tq._backend.update([_change(task, marked(task))]) == [True]
    clock._now += 3 * SECOND
    await _bare_worker(tq)._reap()


def _bare_worker(tq: TaskQ) -> Any:
    from aiotaskq.runtime.worker.worker import Worker

    return Worker(tq.queue, tq._backend, tq._clock, {}, lease=2, heartbeat=0.5)


async def test_what_never_started_is_given_back_when_its_worker_was_cut_off(  # A4
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tq = TaskQ(f"sqlite:///{tmp_path}/x.db", poll_interval=0.05)
    go, runs = asyncio.Event(), []

    @tq.task
    async def work(name: str) -> None:
        runs.append(name)
        await go.wait()

    async with started(tq):
        await work.push(name="hours")
        await eventually(lambda: runs == ["hours"])
        worker = tq.worker
        assert worker is not None
        await eventually(lambda: not worker._fetcher.busy)
        monkeypatch.setattr(worker._fetcher, "_room", lambda _writes: 0)  # it is claimed by hand
        suspect = await work.push(name="suspect")
        now = tq._clock.now()
        (pending,) = await tq._backend.claim("w", now, 1, lease_until=now + 60 * SECOND)
        worker._fetcher._accept([pending.replace(crashes=2)], tq._clock.ticks())
        worker._fenced()
        await eventually(lambda: not worker._fetcher.unwritten)
        task = await suspect.task()
        go.set()
    assert (task.status, task.crashes, runs) == (Status.PENDING, 0, ["hours"]), "as the row had it: nothing was counted"
    assert "no lease could be renewed in time: 1 running tasks are stopped" in caplog.text


async def test_what_waits_for_a_slot_is_not_started_once_its_lease_is_lost(tmp_path: Path) -> None:  # B10
    async with virtual(url=f"sqlite:///{tmp_path}/b.db", concurrency=1, lease=0.4, heartbeat=0.1) as kit:
        tq, go, ran = kit.tq, asyncio.Event(), list[str]()

        @tq.task
        async def work(name: str) -> None:
            ran.append(name)
            if name == "long":
                await go.wait()

        await tq.push_many([work.call(name="quick") for _ in range(30)])  # so that it claims more than it has slots
        await kit.drain()
        ran.clear()
        _long, waiting, kept = await tq.push_many([work.call(name=name) for name in ("long", "waiting", "kept")])
        await kit.advance(0.01)
        assert ran == ["long"] and await waiting.status() is await kept.status() is Status.RUNNING, "claimed ahead"
        claimed = await kit.task(waiting)
        later = settle(claimed, Released("taken away by a test", 3600 * SECOND), tq._clock.now())
        assert await tq._backend.update([_change(claimed, later)]) == [True]
        await kit.advance(0.15)  # a heartbeat, and not so long that it gives back what waits
        go.set()
        await kit.advance(0.01)
        assert ran == ["long", "kept"]
        assert await kit.task(waiting) == later


async def test_a_reaper_gives_every_worker_a_lease_when_the_store_is_back() -> None:  # F20, B8
    clock = VirtualClock()
    tq = TaskQ("memory://", clock=clock, lease=10, reap_interval=1)
    async with tq.running(concurrency=1, queues=["elsewhere"], scheduler=False):
        handles = [await tq.push(name) for name in ("lives", "died")]
        lives, died = await tq._backend.claim("others", clock.now(), 2, lease_until=clock.now() + 5 * SECOND)

        async def away(*_: Any) -> Any:
            raise DatabaseUnavailable("away")

        tq._backend.overdue = tq._backend.ping = away  # type: ignore[method-assign]
        await clock.advance(60)  # their leases have long been over, since nobody could renew them
        del tq._backend.overdue, tq._backend.ping
        await clock.advance(9)
        assert [await handle.status() for handle in handles] == [Status.RUNNING] * 2
        until = clock.now() + 600 * SECOND
        assert await tq._backend.heartbeat([(lives.task_id, lives.fence)], until) == [False]
        await clock.advance(20)
        assert [await handle.status() for handle in handles] == [Status.RUNNING, Status.PENDING]
        assert (await tq.get(died.task_id)).crashes == 1


async def test_reaper_never_touches_a_fresh_claim(url: str) -> None:  # A7
    clock = VirtualClock()
    tq = TaskQ(url, clock=clock, lease=2)
    async with tq:
        await tq.push("a")
        now = clock.now()
        await tq._backend.claim("w", now, 1, lease_until=now + 2 * SECOND)
        worker = _bare_worker(tq)
        for _ in range(19):
            clock._now += SECOND // 10
            await worker._reap()
        assert (await tq.stats()).counts["running"] == 1
        clock._now += SECOND // 10
        await worker._reap()
        assert (await tq.stats()).counts["pending"] == 1


async def test_reaper_loses_against_a_heartbeat_in_between(url: str) -> None:  # A6
    clock = VirtualClock()
    tq = TaskQ(url, clock=clock, lease=2)
    async with tq:
        handle = await tq.push("a")
        (task,) = await tq._backend.claim("w", clock.now(), 1, lease_until=clock.now() + SECOND)
        clock._now += 2 * SECOND
        overdue = tq._backend.overdue

        async def slow(now: int, limit: int) -> Any:
            late = await overdue(now, limit)
            await tq._backend.heartbeat([(task.task_id, task.fence)], clock.now() + 2 * SECOND)
            return late

        tq._backend.overdue = slow  # type: ignore[method-assign]
        await _bare_worker(tq)._reap()
        after = await handle.task()
    assert (after.status, after.crashes) == (Status.RUNNING, 0)


async def test_a_cancel_within_a_timeout_of_the_fetcher_is_not_the_end_of_the_loop() -> None:  # D1
    """``asyncio.timeout`` cancels its coroutine for a moment; that of the fetcher was taken for the end of the loop."""
    tq = TaskQ("memory://", poll_interval=0.01)

    @tq.task(max_retries=0)
    async def cancels_itself() -> None:
        here = asyncio.current_task()
        assert here is not None
        time.sleep(0.03)  # so that the fetcher's timer is due, and rings after the next step of this
        await asyncio.sleep(0)
        here.cancel()
        await asyncio.sleep(0)

    async with tq.running(concurrency=1, scheduler=False, drain=1, grace=1):
        for _ in range(3):
            with pytest.raises(TaskFailed, match="cancelled from within"):
                await (await cancels_itself.push()).result(within(5))


async def test_a_handler_that_cancels_its_own_coroutine_takes_no_slot_with_it(tq: TaskQ) -> None:  # D1
    def cancel() -> None:
        here = asyncio.current_task()
        assert here is not None
        here.cancel()

    @tq.task(max_retries=0)
    async def stays() -> None:
        cancel()
        await asyncio.Event().wait()

    @tq.task(max_retries=0)
    async def leaves() -> str:
        cancel()
        return "done"

    async with tq.running(concurrency=1):
        for _ in range(3):
            assert await (await leaves.push()).result(within(30)) == "done"
            with pytest.raises(TaskFailed, match="cancelled from within"):
                await (await stays.push()).result(within(30))


async def test_end_of_the_loop_settles_nothing(url: str) -> None:
    tq = TaskQ(url, poll_interval=0.05)
    begun = asyncio.Event()

    @tq.task
    async def endless() -> None:
        begun.set()
        await asyncio.Event().wait()

    async with tq:
        await tq._start_running(RunOptions(1, scheduler=False))
        handle = await endless.push()
        await begun.wait()
        worker = tq.worker
        assert worker is not None
        runs = {each.coroutine for each in worker.executions.values() if each.coroutine is not None}
        for each in asyncio.all_tasks():  # as asyncio.run does with what is left
            if each.get_name().startswith("aiotaskq-"):
                each.cancel()
        await asyncio.wait(runs)
        task = await handle.task()
    assert (task.status, task.retry_count) == (Status.RUNNING, 0)


async def test_outcome_is_stored_after_a_short_outage(tmp_path: Path) -> None:  # A3, A17, G-5
    tq = TaskQ(f"sqlite:///{tmp_path}/o.db", lease=within(20), poll_interval=0.05)
    failures = 3
    update = tq._backend.update
    runs: list[int] = []

    async def refusing(changes: Any) -> Any:
        nonlocal failures
        if failures:
            failures -= 1
            raise DatabaseUnavailable("gone")
        return await update(changes)

    tq._backend.update = refusing  # type: ignore[method-assign]
    tq._backend.exchange = functools.partial(Backend.exchange, tq._backend)  # type: ignore[method-assign]

    @tq.task
    async def work() -> str:
        runs.append(1)
        return "kept"

    async with tq.running(concurrency=1):
        assert await (await work.push()).result(within(10)) == "kept"
    assert runs == [1] and failures == 0


# ---- stopping --------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def started(tq: TaskQ, **options: Any) -> AsyncIterator[None]:
    await tq._start_running(RunOptions(options.get("concurrency", 4), scheduler=False))
    try:
        yield
    finally:
        await tq.close()


async def test_stop_drains_what_runs_and_claims_no_more(tq: TaskQ) -> None:  # D13
    let_go = asyncio.Event()
    begun: list[int] = []

    @tq.task
    async def work(i: int) -> int:
        begun.append(i)
        await let_go.wait()
        return i

    async with started(tq, concurrency=2):
        handles = [await work.push(i=i) for i in range(5)]
        await eventually(lambda: len(begun) == 2)
        stopping = asyncio.create_task(tq._stop_running(5, 1))
        await asyncio.sleep(0)
        let_go.set()
        assert await stopping is ExitCode.DRAINED
        assert [await handle.status() for handle in handles[2:]] == [Status.PENDING] * 3
        assert len(begun) == 2


async def test_who_stops_claims_nothing_while_a_loop_ends(tmp_path: Path) -> None:  # D13
    tq = TaskQ(f"sqlite:///{tmp_path}/x.db", poll_interval=0.05)
    hangs, answers, claims = asyncio.Event(), asyncio.Event(), 0
    claim = tq._backend.claim

    async def overdue(*_: Any) -> list[Any]:
        hangs.set()
        await answers.wait()
        return []

    async def counted(*args: Any, **options: Any) -> Any:
        nonlocal claims
        claims += tq.worker is not None and tq.worker.runner.stopping
        return await claim(*args, **options)

    tq._backend.overdue, tq._backend.claim = overdue, counted  # type: ignore[method-assign]
    async with tq.running():
        await hangs.wait()
        stopping = asyncio.create_task(tq._stop_running(5, 1))
        for _ in range(20):
            await tq.push("nobody handles it")
        answers.set()
        assert await stopping is ExitCode.DRAINED
    assert claims == 0


async def test_cooperative_handlers_are_given_back_without_a_retry(tq: TaskQ) -> None:  # D7, D8
    begun = asyncio.Event()

    @tq.task
    async def endless() -> None:
        begun.set()
        await asyncio.Event().wait()

    async with started(tq):
        handle = await endless.push()
        await begun.wait()
        assert await tq._stop_running(0.01, 5) is ExitCode.GIVEN_BACK
        task = await handle.task()
    assert (task.status, task.retry_count, task.crashes, task.fence) == (Status.PENDING, 0, 0, 1)
    assert task.lease_owner is None


async def test_handler_that_fails_while_stopping_has_one_state(tq: TaskQ) -> None:  # D8
    begun = asyncio.Event()

    @tq.task(max_retries=3)
    async def fails() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise RuntimeError("during the stop")

    async with started(tq):
        handle = await fails.push()
        await begun.wait()
        await tq._stop_running(0.01, 5)
        task = await handle.task()
    assert (task.status, task.retry_count) == (Status.PENDING, 1)


async def test_stubborn_handler_is_abandoned(tq: TaskQ) -> None:  # D4
    begun = asyncio.Event()
    stop = False

    @tq.task
    async def stubborn() -> None:
        begun.set()
        while not stop:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)

    async with started(tq):
        handle = await stubborn.push()
        await begun.wait()
        assert await tq._stop_running(0.01, 0.05) is ExitCode.ABANDONED
        assert await handle.status() is Status.RUNNING  # its lease ends by itself
        stop = True
        await asyncio.sleep(0.05)
        assert await handle.status() is Status.RUNNING  # a late end writes nothing


async def test_stop_is_idempotent_also_in_parallel(tq: TaskQ) -> None:  # D12
    @tq.task
    async def work() -> None: ...

    await tq.close()
    async with started(tq):
        await work.push()
        worker = tq.worker
        assert worker is not None
        codes = await asyncio.gather(*[worker.stop(1, 1) for _ in range(5)])
        assert set(codes) == {ExitCode.DRAINED}
    await tq.close()
    await tq.close()


async def test_heartbeat_goes_on_through_the_drain(tmp_path: Path) -> None:  # B9
    lease = min(within(1.0), 6.0)
    tq = TaskQ(f"sqlite:///{tmp_path}/d.db", lease=lease, poll_interval=0.05)
    runs: list[int] = []
    begun = asyncio.Event()

    @tq.task
    async def long() -> None:
        runs.append(1)
        begun.set()
        await asyncio.sleep(2.2 * lease)  # of the real clock

    async with started(tq):
        handle = await long.push()
        await begun.wait()
        assert await tq._stop_running(within(10), 1) is ExitCode.DRAINED
        assert await handle.status() is Status.COMPLETED
    assert runs == [1]


async def test_loop_that_ends_takes_the_worker_along(url: str) -> None:  # D1: cancellation always arrives
    tq = TaskQ(url, poll_interval=0.05)
    begun = asyncio.Event()

    @tq.task
    async def endless() -> None:
        begun.set()
        await asyncio.Event().wait()

    async def app() -> None:
        async with tq.running(concurrency=1, drain=0.01, grace=1):
            await endless.push()
            await asyncio.Event().wait()

    running = asyncio.create_task(app())
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert asyncio.all_tasks() == {asyncio.current_task()}


# ---- what surrounds a run ------------------------------------------------------------------------------------------


async def test_callbacks_come_after_the_commit(tq: TaskQ) -> None:
    seen: list[tuple[str, str]] = []

    @tq.task(max_retries=0)
    async def work(ok: bool) -> int:
        if not ok:
            raise ValueError("no")
        return 41

    @tq.task
    async def after(task_id: str, type: str, result: Any, error: str | None) -> None:
        seen.append((type, str(await tq.handle(task_id).status())))

    async with tq.running(concurrency=2):
        await work.options(on_success=after, on_failure="after").push(ok=True)
        await work.options(on_success="after", on_failure="after").push(ok=False)
        await eventually(lambda: len(seen) == 2)
    assert sorted(seen) == [("work", "completed"), ("work", "failed")]


async def test_a_follow_up_that_nobody_handles_is_refused_when_it_is_asked_for(tq: TaskQ) -> None:
    @tq.task
    async def work() -> None: ...

    @tq.task
    async def after(**_: Any) -> None: ...

    for name in ("on_success", "on_failure"):
        with pytest.raises(UnknownHandler, match=f"{name}: no handler is registered for 'aftr'; did you mean 'after'"):
            await work.options(**{name: "aftr"}).push()  # type: ignore[typeddict-item]
    tq.elsewhere("aftr")
    await work.options(on_success="aftr").push()
    await tq.close()


async def test_function_callback_in_memory_only(tmp_path: Path) -> None:
    tq = TaskQ("memory://")
    got: list[Any] = []

    @tq.task
    async def work() -> int:
        return 7

    async with tq.running():
        await (await work.options(on_success=lambda task: got.append(task.result)).push()).result(within(30))
        await eventually(lambda: got == [7])
    durable = TaskQ(f"sqlite:///{tmp_path}/f.db")
    durable.elsewhere("x")
    with pytest.raises(ValidationError, match="on_success: a function cannot be stored"):
        await durable.push("x", on_success=print)
    await durable.close()


async def test_middleware_wraps_run_and_push_in_order(tq: TaskQ) -> None:
    log: list[str] = []

    class Both:
        async def push(self, tasks: Any, call_next: Any) -> Any:
            log.append(f"push {len(tasks)}")
            return await call_next([task.replace(extra={"trace": "t1"}) for task in tasks])

        async def run(self, task: Any, call_next: Any) -> Any:
            log.append(f"outer {task.extra['trace']}")
            return await call_next(task) + 1

    tq.middleware(Both())

    @tq.middleware
    async def inner(task: Any, call_next: Any) -> Any:
        log.append("inner")
        return await call_next(task) * 10

    @tq.task
    async def work() -> int:
        return 1

    async with tq.running():
        assert await (await work.push()).result(within(30)) == 11
    assert log == ["push 1", "outer t1", "inner"]


async def test_resources_are_made_once_given_by_type_and_closed(tq: TaskQ) -> None:
    class Client:
        closed = False

    made: list[Client] = []

    async def client() -> AsyncIterator[Client]:
        made.append(Client())
        yield made[-1]
        made[-1].closed = True

    client.__annotations__["return"] = AsyncIterator[Client]
    tq.resource(client)

    async def uses(i: int, client: Client = aiotaskq.injected()) -> bool:
        return client is made[0] and not client.closed

    uses.__annotations__.update(client=Client)
    work = tq.task(uses)
    async with tq.running(concurrency=3):
        handles = [await work.push(i=i) for i in range(5)]
        assert all([await handle.result(within(30)) for handle in handles])
    assert len(made) == 1 and made[0].closed


async def test_events_tell_what_happened_and_never_harm(tq: TaskQ) -> None:
    names: list[str] = []
    for name in ("pushed", "started", "completed", "retried", "failed", "cancelled"):
        tq.on(name, lambda event: names.append(event.name))

    @tq.on("started")
    def broken(event: Any) -> None:
        raise RuntimeError("a listener's own fault")

    @tq.on("completed")
    async def slow(event: Any) -> None:
        await asyncio.sleep(0)
        names.append("async listener")

    @tq.task(max_retries=1, backoff=0.001)
    async def flaky() -> None:
        if current_task().task.retry_count == 0:
            raise ValueError("once")

    async with tq.running(concurrency=1):
        await (await flaky.push()).result(within(30))
    assert names == ["pushed", "started", "retried", "started", "completed", "async listener"]
    with pytest.raises(ValidationError, match="event: 'done' is not one of pushed"):
        tq.on("done", print)


@pytest.mark.parametrize("kind", ["StopIteration", "SystemExit", "KeyboardInterrupt"])
async def test_what_would_end_a_program_is_a_failure_in_a_thread(tq: TaskQ, kind: str) -> None:
    @tq.task(max_retries=0)
    def legacy() -> None:
        raise {"StopIteration": StopIteration, "SystemExit": SystemExit, "KeyboardInterrupt": KeyboardInterrupt}[kind]

    @tq.task
    async def quick() -> int:
        return 1

    async with tq.running(concurrency=1):
        with pytest.raises(TaskFailed, match=f"the handler raised {kind}"):
            await (await legacy.push()).result(within(30))
        assert await (await quick.push()).result(within(30)) == 1


async def test_an_exception_outside_of_exception_fails_its_task_only(tq: TaskQ) -> None:
    class Stop(BaseException):
        pass

    @tq.task(max_retries=0)
    async def odd() -> None:
        raise Stop("now")

    @tq.task
    async def quick() -> int:
        return 1

    async with tq.running(concurrency=1):
        with pytest.raises(TaskFailed, match="Stop: now"):
            await (await odd.push()).result(within(30))
        assert await (await quick.push()).result(within(30)) == 1


async def test_registrations_and_runs_that_could_never_work_are_refused(tq: TaskQ) -> None:
    with pytest.raises(ValidationError, match="a generator's body would never run"):

        @tq.task
        def generates() -> Any:
            yield 1

    with pytest.raises(ValidationError, match="retry_on: exception classes are needed"):
        tq.task(retry_on=5)(os.getcwd)  # type: ignore[arg-type]
    for queues in ("default", [], [5]):
        with pytest.raises(ValidationError, match="queues: "):
            async with tq.running(queues=queues):  # type: ignore[arg-type]
                pass
    with pytest.raises(ValidationError, match="drain: must be at least 0"):
        async with tq.running(drain=-1):
            pass


in_processes = TaskQ("memory://")


@in_processes.task(executor="process", max_retries=0)
def dies() -> None:
    os._exit(3)


async def test_a_handler_that_takes_its_process_down_is_poison_and_harms_no_other() -> None:  # A4
    async with in_processes.running(concurrency=1):
        with pytest.raises(TaskFailed, match="poison"):
            await (await dies.push()).result(within(60))
        assert await (await process_id.push()).result(within(30)) != os.getpid()


@in_processes.task(executor="process", max_retries=0)
def process_id(fail: bool = False) -> int:
    if fail:
        raise ValueError("in the other process")
    return os.getpid()


async def test_process_executor() -> None:
    async with in_processes.running(concurrency=1):
        assert await (await process_id.push()).result(within(30)) != os.getpid()
        with pytest.raises(TaskFailed, match="in the other process"):
            await (await process_id.push(fail=True)).result(within(30))
    with pytest.raises(ValidationError, match="cannot be found by another process"):
        in_processes.task(executor="process")(lambda: 1)


async def test_latency_of_an_idle_worker_is_a_hint_not_a_poll(url: str) -> None:
    tq = TaskQ(url, poll_interval=3600)

    @tq.task
    async def work() -> float:
        return time.monotonic()

    async with tq.running(concurrency=1):
        await asyncio.sleep(0.1)  # the worker is idle, asleep for its whole poll interval
        pushed = time.monotonic()
        assert await (await work.push()).result(within(29)) - pushed < within(5)


async def test_a_store_that_cannot_be_opened_is_said_as_it_is(tmp_path: Path) -> None:
    tq = TaskQ(f"sqlite:///{tmp_path}/no/such/folder/x.db")
    with pytest.raises(DatabaseUnavailable, match="check the folder"):
        async with tq.running():
            pytest.fail("it cannot run")
    with pytest.raises(DatabaseUnavailable, match="check the folder"):
        await tq.run()


async def test_processes_that_are_signalled_with_us_are_no_crash(tmp_path: Path) -> None:  # D7
    from concurrent.futures.process import BrokenProcessPool

    tq = TaskQ(f"sqlite:///{tmp_path}/pool.db", poll_interval=0.05)
    started, die = asyncio.Event(), asyncio.Event()

    @tq.task
    async def in_a_process() -> None:
        started.set()
        await die.wait()
        raise BrokenProcessPool("its process was signalled, too")

    async with tq:
        handle = await in_a_process.push()
        stop = asyncio.Event()
        running = asyncio.ensure_future(tq.run_until(stop, RunOptions(1)))
        await started.wait()
        stop.set()
        await eventually(lambda: tq.worker is not None and tq.worker.runner.stopping)
        die.set()
        assert await running is ExitCode.GIVEN_BACK
        await tq.open()
        task = await handle.task()
    assert (task.status, task.crashes, task.retry_count) == (Status.PENDING, 0, 0)
