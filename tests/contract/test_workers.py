"""Workers on each store: blocked event loops, outages, lost leases, other processes, clocks that differ."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest

import aiotaskq.sync
from aiotaskq.app.taskq import TaskQ
from aiotaskq.backends.base import Change
from aiotaskq.concurrency.clock import StoreClock, SystemClock, VirtualClock
from aiotaskq.core.outcome import Released, settle
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND
from aiotaskq.errors import DatabaseUnavailable, LeaseLost
from aiotaskq.runtime.context import current_task
from aiotaskq.runtime.queue.queue import Queue
from tests.support.backends import Store
from tests.support.machine import within
from tests.support.rows import completed, running
from tests.support.waiting import eventually


def quick() -> dict[str, Any]:
    """Options of a worker whose leases end soon, but not while the machine is slow to renew them."""
    lease = min(within(1.5), 3.0)
    return {"lease": lease, "heartbeat": lease / 8, "reap_interval": lease / 8, "poll_interval": lease / 6}


@pytest.mark.promise("one run, though the handler blocks the loop")
async def test_a_handler_that_blocks_the_loop_is_run_once(shared_store: Store) -> None:  # B3
    tq = TaskQ(shared_store.url, **quick())
    runs: list[int] = []

    @tq.task
    def never() -> None: ...

    @tq.task
    async def blocks() -> str:
        runs.append(current_task().task.fence)
        time.sleep(2 * quick()["lease"])  # as code does that forgets whose loop it is on
        return "done"

    other = aiotaskq.sync.TaskQ(shared_store.url, **quick())  # on a loop of its own; its reaper would take what is lost

    def watch() -> None:
        with other.running(concurrency=1, queues=["elsewhere"]):
            ended.wait(within(20))

    import threading

    ended = threading.Event()
    watching = asyncio.get_running_loop().run_in_executor(None, watch)
    async with tq.running(concurrency=2):
        handle = await blocks.push()
        assert await handle.result(within(40)) == "done"
        task = await handle.task()
    ended.set()
    await watching
    await asyncio.to_thread(other.close)
    assert (runs, task.crashes, task.fence) == ([1], 0, 1)


async def test_a_worker_that_cannot_renew_stops_its_handlers_and_claims_nothing(shared_store: Store) -> None:  # B8
    tq = TaskQ(shared_store.url, **quick())
    cancelled: list[str] = []
    runs: list[int] = []

    @tq.task
    async def long() -> None:
        runs.append(1)
        if len(runs) > 1:
            return
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append("long")
            raise

    @tq.task
    async def short() -> str:
        return "short"

    async with tq.running(concurrency=2):
        worker = tq.worker
        assert worker is not None
        first = await long.push()
        await eventually(lambda: runs)
        keeper: Any = worker.heartbeat._backend.workers

        async def refused(*_: Any) -> Any:
            raise DatabaseUnavailable("cut off")

        keeper.heartbeat = refused
        await eventually(lambda: cancelled)
        assert worker.problem is not None
        second = await short.push()
        assert await tq.queue.backend.claim("nobody", tq.queue.clock.now(), 0) == []
        for _ in range(5):
            await worker._fetcher._round()
        assert await second.status() is Status.PENDING, "claimed while its leases were not trusted"
        del keeper.heartbeat
        assert await second.result(within(40)) == "short"
        await first.result(within(40))
        assert worker.problem is None
    assert cancelled == ["long"]


async def test_two_runs_of_one_task_never_overlap_in_one_worker(shared_store: Store) -> None:  # B4
    tq = TaskQ(shared_store.url, **{**quick(), "lease": 30.0})
    now_running, most, runs = [0], [0], [0]

    @tq.task
    async def deaf() -> int:
        runs[0] += 1
        now_running[0] += 1
        most[0] = max(most[0], now_running[0])
        try:
            while runs[0] == 1 and not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue  # it does not hear that its lease is lost
        finally:
            now_running[0] -= 1
        return runs[0]

    release = asyncio.Event()
    async with tq.running(concurrency=4):
        handle = await deaf.push()
        await eventually(lambda: runs[0])
        task = await handle.task()
        back = settle(task, Released("taken away by a test"), tq.queue.clock.now())
        assert await tq.queue.backend.update([Change(task, back)]) == [True]
        await eventually(lambda: _fence_of(tq, handle.task_id, 2))  # it was claimed again, by the only worker there is
        assert runs == [1]
        release.set()
        assert await handle.result(within(40)) == 2
    assert most == [1]


async def _fence_of(tq: TaskQ, task_id: str, at_least: int) -> bool:
    return (await tq.get(task_id)).fence >= at_least


async def test_a_cancel_by_another_process_reaches_a_running_handler_without_a_wake_up(
    shared_store: Store,
) -> None:  # D9
    tq = TaskQ(shared_store.url, lease=60, poll_interval=0.05)
    started = asyncio.Event()

    @tq.task
    async def long() -> None:
        started.set()
        await asyncio.Event().wait()

    far = await shared_store.another()
    async with tq.running(concurrency=1):
        handle = await long.push()
        await started.wait()
        far.listeners.forward = lambda _kind, _names: None
        assert await far.request_cancel([handle.task_id]) == [True]
        task = await tq.queue.wait_for_end(handle.task_id, within(10))
    assert task.status is Status.CANCELLED


async def test_results_and_progress_reach_another_process(shared_store: Store) -> None:
    tq, far = TaskQ(shared_store.url, poll_interval=0.05), TaskQ(shared_store.url, poll_interval=0.05)
    reported, go_on = asyncio.Event(), asyncio.Event()

    @tq.task
    async def work(n: int) -> list[int]:
        await current_task().progress(1, 2, "half")
        reported.set()
        await go_on.wait()
        return [n]

    async with far, tq.running(concurrency=1):
        handle = await far.push("work", {"n": 5})
        await reported.wait()
        assert await handle.progress() == {"done": 1, "total": 2, "message": "half"}
        go_on.set()
        assert await handle.result(within(10)) == [5]


async def test_pausing_a_queue_holds_in_every_process(shared_store: Store) -> None:
    tq, far = TaskQ(shared_store.url, poll_interval=0.05), TaskQ(shared_store.url)

    @tq.task
    async def work() -> str:
        return "ran"

    async with far, tq.running(concurrency=1):
        await far.pause("default")
        paused = await work.push()
        other = await work.options(queue="other").push()
        assert await other.result(within(10)) == "ran"
        assert await paused.status() is Status.PENDING
        await far.resume("default")
        assert await paused.result(within(10)) == "ran"


async def test_a_claim_whose_answer_was_lost_is_counted_as_no_crash(shared_store: Store) -> None:  # A9
    tq = TaskQ(shared_store.url, **quick())

    @tq.task(max_retries=0)
    async def work() -> str:
        return "ran"

    claim, lost = tq.queue.backend.claim, []

    async def cut_off(*args: Any, **kwargs: Any) -> Any:
        tasks = await claim(*args, **kwargs)
        if tasks and len(lost) < 4:
            lost.extend(tasks)
            raise DatabaseUnavailable("the answer was lost on its way")
        return tasks

    tq.queue.backend.claim = cut_off  # type: ignore[method-assign]
    handle = await work.push()  # before there is a worker, for which a push may claim
    async with tq.running(concurrency=1):
        assert await handle.result(within(30)) == "ran"
        task = await handle.task()
    assert len(lost) == 4  # more often than a task may crash
    assert (task.crashes, task.retry_count) == (0, 0)


async def test_dead_letters_come_back_by_filter(durable_store: Store) -> None:
    tq = TaskQ(durable_store.url)
    async with tq:
        now = tq.queue.clock.now() + SECOND  # a store whose time was asked meanwhile may be some milliseconds behind
        for kind, status in (
            ("a", Status.FAILED),
            ("a", Status.CANCELLED),
            ("b", Status.FAILED),
            ("a", Status.COMPLETED),
        ):
            await tq.push(kind)
            (task,) = await tq.queue.backend.claim("w", now, 1, lease_until=now + 3600 * SECOND)
            after = task.replace(status=status, completed_at=now // SECOND, retry_count=3, crashes=3)
            assert await tq.queue.backend.update([Change(task, after)]) == [True]
        assert await tq.retry_many(type="a") == 1
        assert await tq.retry_many(type="a") == 0
        (back,) = await tq.find(status="pending")
        assert (back.type, back.retry_count, back.crashes) == ("a", 0, 0)
        assert await tq.retry_many(status=["failed", "cancelled"], limit=1) == 1
        assert await tq.retry_many(status=["failed", "cancelled"]) == 1
        assert (await tq.stats()).counts["pending"] == 3
        assert await tq.purge(status="completed") == 1


@pytest.mark.promise("a popped task is leased")
async def test_a_pop_that_is_never_settled_is_taken_back_without_a_worker(durable_store: Store) -> None:
    clock = VirtualClock(1_750_000_000 * SECOND)
    one = Queue(durable_store.backend, clock, visibility=30)
    two = Queue(durable_store.backend, clock, visibility=30)
    await one.push_task({"type": "mail", "task_id": "m", "max_retries": 1})
    assert (await one.pop_task(0) or {})["retry_count"] == 0
    clock._now += 29 * SECOND
    assert await two.pop_task(0) is None
    clock._now += 10 * SECOND
    assert (await two.pop_task(0) or {})["retry_count"] == 1
    with pytest.raises(LeaseLost):
        await one.task_done("m")  # too late: its visibility timeout is over, and the task is another consumer's
    clock._now += 40 * SECOND
    assert await two.pop_task(0) is None
    task = await two.get("m")
    assert (task.status, task.retry_count) == (Status.FAILED, 1)
    assert "visibility" in (task.error_message or "")


@pytest.mark.promise("a worker in another process wakes")
async def test_a_push_by_another_process_wakes_a_worker(shared_store: Store) -> None:
    # MySQL has no way to tell; where there is one, only a hint comes within the patience of this test.
    tq = TaskQ(shared_store.url, lease=240, poll_interval=1.0 if shared_store.name == "mysql" else 3600.0)

    @tq.task
    async def work() -> str:
        return "woken"

    async with TaskQ(shared_store.url) as far, tq.running(concurrency=1):
        for _ in range(3):
            handle = await far.push("work")
            assert await handle.result(within(10)) == "woken"


@pytest.mark.stores("sqlite", "postgresql", "redis")  # MySQL has no way to tell
async def test_an_end_in_another_process_wakes_a_wait(shared_store: Store) -> None:
    backend, other = shared_store.backend, await shared_store.another()
    task = await running(other)
    looked, get = asyncio.Event(), backend.get

    async def noted(ids: Sequence[str]) -> Any:
        found = await get(ids)
        looked.set()
        return found

    backend.get = noted  # type: ignore[method-assign]
    waiting = asyncio.create_task(Queue(backend, SystemClock(), poll_interval=3600.0).wait_for_end(task.task_id))
    await looked.wait()
    assert await other.update([Change(task, completed(task))]) == [True]
    async with asyncio.timeout(within(10)):
        assert (await waiting).status is Status.COMPLETED


class Shifted(StoreClock):
    """The clock of a host that is set wrong."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.shift = int(seconds * SECOND)

    def ticks(self) -> int:
        return super().ticks() + self.shift

    def now(self) -> int:
        return super().now() + (0 if self.foreign else self.shift)


@pytest.mark.promise("hosts whose clocks differ")
@pytest.mark.stores("postgresql", "mysql", "redis")  # SQLite goes by the host's clock, of which there is one
async def test_hosts_whose_clocks_differ_agree_about_leases_and_due_times(shared_store: Store) -> None:
    assert await shared_store.backend.ping() is not None
    slow, fast = (TaskQ(shared_store.url, clock=Shifted(seconds), **quick()) for seconds in (-5, 5))

    @slow.task
    async def work(leases: int) -> int:
        await asyncio.sleep(leases * quick()["lease"])
        return current_task().task.fence

    async with slow.running(concurrency=1):
        handle = await slow.push("work", {"leases": 2})
        await eventually(lambda: _fence_of(slow, handle.task_id, 1))
        async with fast.running(concurrency=1, queues=["elsewhere"]):  # whose reaper believes that it is 10 s later
            assert abs(fast.queue.clock.now() - slow.queue.clock.now()) < SECOND
            delayed = await fast.push("work", {"leases": 0}, delay=0.2)
            assert await handle.result(within(40)) == 1
            assert await delayed.result(within(40)) == 1


async def test_an_outage_longer_than_the_lease_is_counted_as_no_crash(shared_store: Store) -> None:  # F20, B8
    lease = within(3.0)  # within so long of its return, every living worker has to be back
    given_up = asyncio.Event()
    tqs = [TaskQ(shared_store.url, **{**quick(), "lease": lease}) for _ in range(2)]
    runs: list[int] = []

    async def long() -> str:
        runs.append(current_task().task.fence)
        if current_task().task.fence == 1:
            try:
                await asyncio.Event().wait()
            finally:
                given_up.set()
        return "done"

    for tq in tqs:
        tq.task(name="long")(long)
    async with tqs[0].running(concurrency=2), tqs[1].running(concurrency=2):
        handle = await tqs[0].push("long")
        await eventually(lambda: runs)
        cut: list[tuple[Any, str]] = []

        async def away(*_args: Any, **_options: Any) -> Any:
            raise DatabaseUnavailable("cut off")

        for tq in tqs:
            worker = tq.worker
            assert worker is not None
            for backend in (tq.queue.backend, worker.heartbeat._backend):
                for verb in ("claim", "update", "overdue", "ping", "cancelling", "get"):
                    setattr(backend, verb, away)
                    cut.append((backend, verb))
                for verb in ("register", "heartbeat", "remove", "all"):
                    setattr(backend.workers, verb, away)
                    cut.append((backend.workers, verb))
        async with asyncio.timeout(within(40)):
            await given_up.wait()  # the lease is over: it was last renewed before all that
        for backend, verb in cut:
            delattr(backend, verb)
        assert await handle.result(within(40)) == "done"
        task = await handle.task()
    assert (task.crashes, task.retry_count) == (0, 0)


async def test_a_claim_under_way_at_the_stop_is_undone_before_the_end(shared_store: Store) -> None:  # A9, D13
    tq = TaskQ(shared_store.url)

    @tq.task
    async def work() -> None: ...

    claim = tq.queue.backend.claim
    begun = asyncio.Event()

    async def slow(*args: Any, **options: Any) -> Any:
        begun.set()
        await asyncio.sleep(1.5)
        return await claim(*args, **options)

    async with tq:
        handle = await work.push()
        tq.queue.backend.claim = slow  # type: ignore[method-assign]  # before the first claim, which would take it
        async with tq.running(concurrency=1):
            await begun.wait()
    del tq.queue.backend.claim
    async with TaskQ(shared_store.url) as after:
        task = await after.get(handle.task_id)
    assert (task.status, task.crashes) == (Status.PENDING, 0)
