"""Leases: they are renewed, lost, taken back by a reaper, and never settled by a former owner."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from aiotaskq import TaskQ, current_task, sleep_for
from aiotaskq.backends.base import Backend
from aiotaskq.backends.url import DURABLE_FAKE
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core.history import Period
from aiotaskq.core.outcome import Released, marked, settle
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND
from aiotaskq.core.worker_info import WorkerInfo
from aiotaskq.errors import DatabaseUnavailable
from aiotaskq.testing import virtual
from tests.runtime.worker.workers import started
from tests.support.machine import within
from tests.support.rows import worker_info
from tests.support.waiting import eventually


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
        # Another worker takes the task over: the fence rises without this worker's knowledge.
        before = await handle.task()
        held = await tq.queue.backend.update([_change(before, before.replace(status=Status.PENDING, run_at=2**60))])
        assert held == [True]
        await cancelled.wait()
        await eventually(lambda: tq.worker is not None and not tq.worker.executions)
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
    (task,) = await tq.queue.backend.claim("worker-gone", clock.now(), 1, lease_until=clock.now() + 2 * SECOND)
    if alone:
        assert await tq.queue.backend.update([_change(task, marked(task))]) == [True]
    clock._now += 3 * SECOND
    await _bare_worker(tq).leases.reap()


def _bare_worker(tq: TaskQ) -> Any:
    from aiotaskq.runtime.worker.worker import Worker

    return Worker(tq.queue, {}, lease=2, heartbeat=0.5)


async def test_buffered_tasks_are_given_back_when_the_worker_is_cut_off(  # A4
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
        (pending,) = await tq.queue.backend.claim(worker.owner, tq.queue.clock.now(), 1)
        worker._fetcher._accept([pending.replace(crashes=2)])
        worker.leases.fenced()
        await eventually(lambda: not worker._fetcher.unwritten)
        task = await suspect.task()
        go.set()
    assert (task.status, task.crashes, runs) == (Status.PENDING, 0, ["hours"]), "as the row had it: nothing was counted"
    assert "no lease could be renewed in time: 1 running tasks are stopped" in caplog.text


async def test_a_buffered_task_is_not_started_once_its_lease_is_lost(tmp_path: Path) -> None:  # B10
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
        later = settle(claimed, Released("taken away by a test", 3600 * SECOND), tq.queue.clock.now())
        assert await tq.queue.backend.update([_change(claimed, later)]) == [True]
        await kit.advance(0.15)  # a heartbeat, and not so long that it gives back what waits
        go.set()
        await kit.advance(0.01)
        assert ran == ["long", "kept"]
        assert await kit.task(waiting) == later


async def test_a_task_that_has_just_begun_to_sleep_is_not_taken_for_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with virtual(url=f"sqlite:///{tmp_path}/b.db", lease=0.4, heartbeat=0.1) as kit:
        steps = kit.tq.queue.backend.steps
        assert steps is not None
        suspend, answer = steps.suspend, asyncio.Event()

        async def late(*args: Any) -> list[bool]:
            held = await suspend(*args)
            await answer.wait()
            return held

        monkeypatch.setattr(steps, "suspend", late)

        @kit.tq.task
        async def napping() -> None:
            await sleep_for("nap", days=3)

        handle = await napping.push()
        await kit.advance(0.25)  # two heartbeats
        assert await handle.status() is Status.PENDING, "its sleep is written"
        answer.set()
        await kit.advance(0.01)
        assert kit.tq.worker is not None and not kit.tq.worker.executions
    assert [record.getMessage() for record in caplog.records if record.name == "aiotaskq"] == []


async def test_a_handler_that_has_completed_its_task_may_go_on(tmp_path: Path) -> None:
    async with virtual(url=f"sqlite:///{tmp_path}/b.db", lease=0.4, heartbeat=0.1) as kit:
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/b.db")
        done, reached = asyncio.Event(), asyncio.Event()

        @kit.tq.task
        async def booking() -> None:
            async with AsyncSession(engine) as session, session.begin():
                await current_task().complete(session, "booked")
            await done.wait()
            reached.set()

        handle = await booking.push()
        await kit.advance(0.55)  # heartbeats, and more than a lease
        assert await handle.status() is Status.COMPLETED
        done.set()
        await kit.advance(0.01)
        assert reached.is_set(), "it was not interrupted"
        assert await handle.result() == "booked"
        await engine.dispose()


async def test_a_reaper_gives_every_worker_a_lease_when_the_store_is_back() -> None:  # F20, B8
    clock = VirtualClock()
    tq = TaskQ(DURABLE_FAKE, clock=clock, lease=10, reap_interval=1)
    backend = tq.queue.backend
    workers = _registry(backend)
    async with tq.running(concurrency=1, queues=["elsewhere"], scheduler=False):
        handles = [await tq.push(name) for name in ("lives", "died")]
        for owner, handle in zip(("lives", "died"), handles, strict=True):
            await workers.register(_info(owner, clock.now() + 5 * SECOND))
            (task,) = await backend.claim(owner, clock.now(), 1)
            assert task.task_id == handle.task_id

        async def away(*_: Any) -> Any:
            raise DatabaseUnavailable("away")

        backend.overdue = backend.ping = workers.all = away  # type: ignore[method-assign]
        await clock.advance(60)  # their leases have long been over, since they could not be renewed
        del backend.overdue, backend.ping, workers.all  # type: ignore[method-assign]
        await clock.advance(9)
        assert [await handle.status() for handle in handles] == [Status.RUNNING] * 2
        assert await workers.heartbeat(_info("lives", clock.now() + 600 * SECOND))
        await clock.advance(20)
        assert [await handle.status() for handle in handles] == [Status.RUNNING, Status.PENDING]
        assert (await handles[1].task()).crashes == 1


async def test_reaper_never_touches_a_fresh_claim(url: str) -> None:  # A7
    clock = VirtualClock()
    tq = TaskQ(url, clock=clock, lease=2)
    async with tq:
        await tq.push("a")
        now = clock.now()
        await tq.queue.backend.claim("w", now, 1, lease_until=now + 2 * SECOND)
        worker = _bare_worker(tq)
        for _ in range(19):
            clock._now += SECOND // 10
            await worker.leases.reap()
        assert (await tq.stats()).counts["running"] == 1
        clock._now += SECOND // 10
        await worker.leases.reap()
        assert (await tq.stats()).counts["pending"] == 1


async def test_reaper_loses_against_a_heartbeat_in_between(shared_url: str) -> None:  # A6
    clock = VirtualClock()
    tq = TaskQ(shared_url, clock=clock, lease=2)
    async with tq:
        workers = _registry(tq.queue.backend)
        await workers.register(_info("w", clock.now() + SECOND))
        handle = await tq.push("a")
        await tq.queue.backend.claim("w", clock.now(), 1)
        clock._now += 2 * SECOND
        remove = workers.remove

        async def slow(worker: WorkerInfo) -> bool:
            assert await workers.heartbeat(_info("w", clock.now() + 2 * SECOND))
            return await remove(worker)

        workers.remove = slow  # type: ignore[method-assign]
        await _bare_worker(tq).leases.reap()
        after = await handle.task()
        assert (after.status, after.crashes) == (Status.RUNNING, 0)
        workers.remove = remove  # type: ignore[method-assign]
        clock._now += 2 * SECOND
        await _bare_worker(tq).leases.reap()
        after = await handle.task()
    assert (after.status, after.crashes) == (Status.PENDING, 1)


async def test_a_lost_task_is_counted_before_it_may_kill_the_next_worker(shared_url: str) -> None:
    clock = VirtualClock()
    tq = TaskQ(shared_url, clock=clock, lease=2)
    happened: list[object] = []
    ran = asyncio.Event()

    @tq.task
    async def deadly() -> None:
        happened.append("runs again")
        ran.set()

    async with tq:
        backend = tq.queue.backend
        await _registry(backend).register(_info("w", clock.now() + SECOND))
        handle = await deadly.push()
        await backend.claim("w", clock.now(), 1)
        clock._now += 2 * SECOND
        add = backend.history.add

        async def slow(periods: Sequence[Period]) -> None:
            await asyncio.wait({asyncio.ensure_future(ran.wait())}, timeout=0 if ran.is_set() else within(0.5))
            happened.extend(each.kind for each in periods)
            await add(periods)

        backend.history.add = slow  # type: ignore[method-assign]
        async with started(tq):
            await handle.result(within(20))
    assert happened == ["lost", "runs again", "completed"]


async def test_a_reaper_that_dies_halfway_leaves_the_rest_to_another(shared_url: str) -> None:  # A1
    clock = VirtualClock()
    tq = TaskQ(shared_url, clock=clock, lease=2)
    async with tq:
        backend = tq.queue.backend
        await _registry(backend).register(_info("w", clock.now() + SECOND))
        await tq.push_many([("a", {}), ("b", {}), ("c", {})])
        await backend.claim("w", clock.now(), 3)
        clock._now += 2 * SECOND
        queue: Any = tq.queue
        settle, written = queue.settle, 0

        async def dies(*arguments: Any, **options: Any) -> Any:
            nonlocal written
            written += 1
            if written == 2:
                raise DatabaseUnavailable("killed")
            return await settle(*arguments, **options)

        queue.settle = dies
        with pytest.raises(DatabaseUnavailable):
            await _bare_worker(tq).leases.reap()
        assert (await tq.stats()).counts["running"] == 2 and await _registry(backend).all() == []
        await _bare_worker(tq).leases.reap()
        tasks = await tq.find()
    assert [(task.status, task.crashes) for task in tasks] == [(Status.PENDING, 1)] * 3


def _registry(backend: Backend) -> Any:
    assert backend.workers is not None
    return backend.workers


def _info(owner: str, lease_until: int) -> WorkerInfo:
    return worker_info(owner, seen_at=lease_until - 2 * SECOND, lease_until=lease_until)


async def test_outcome_is_stored_after_a_short_outage(tmp_path: Path) -> None:  # A3, A17, G-5
    tq = TaskQ(f"sqlite:///{tmp_path}/o.db", lease=within(20), poll_interval=0.05)
    failures = 3
    update = tq.queue.backend.update
    runs: list[int] = []

    async def refusing(changes: Any) -> Any:
        nonlocal failures
        if failures:
            failures -= 1
            raise DatabaseUnavailable("gone")
        return await update(changes)

    tq.queue.backend.update = refusing  # type: ignore[method-assign]
    tq.queue.backend.exchange = functools.partial(Backend.exchange, tq.queue.backend)  # type: ignore[method-assign]

    @tq.task
    async def work() -> str:
        runs.append(1)
        return "kept"

    async with tq.running(concurrency=1):
        assert await (await work.push()).result(within(10)) == "kept"
    assert runs == [1] and failures == 0
