"""Workers that are quieted, woken and resized while they run, from elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aiotaskq.app.taskq import TaskQ
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND
from aiotaskq.errors import NotFound, NotSupported, ResultTimeout, ValidationError
from tests.support.backends import Store
from tests.support.machine import within
from tests.support.rows import worker_info
from tests.support.waiting import eventually


class Handlers:
    """Tasks that run until they are let go."""

    def __init__(self, tq: TaskQ) -> None:
        self.running = 0
        self.go_on = asyncio.Event()
        self.task = tq.task(name="holds")(self._run)

    async def _run(self) -> str:
        self.running += 1
        try:
            await self.go_on.wait()
        finally:
            self.running -= 1
        return "done"


@contextlib.asynccontextmanager
async def fleet(store: Store, **options: Any) -> AsyncIterator[tuple[TaskQ, TaskQ, Handlers, str]]:
    """A worker, a TaskQ as that of another process, the handlers, and the id of the worker."""
    tq = TaskQ(store.url, **{"heartbeat": 0.1, "poll_interval": 0.05, **options})
    handlers = Handlers(tq)
    async with TaskQ(store.url) as far, tq.running(concurrency=2):
        assert tq.worker is not None
        try:
            yield tq, far, handlers, tq.worker.owner
        finally:
            handlers.go_on.set()


async def test_a_quiet_worker_ends_what_it_runs_and_claims_nothing_until_it_is_woken(shared_store: Store) -> None:
    async with fleet(shared_store) as (tq, far, handlers, owner):
        told: list[tuple[str, Any]] = []
        for name in ("quieted", "woken", "resized"):
            tq.on(name)(lambda event: told.append((event.name, event.detail)))
        first = await far.push("holds")
        await eventually(lambda: handlers.running == 1)
        assert await far.workers.quiet(owner) == 1
        worker = tq.worker
        assert worker is not None
        await eventually(lambda: worker.quiet)
        assert (await far.workers.get(owner)).quiet
        assert [task.task_id for task in await far.workers.tasks(owner)] == [first.task_id]
        second = await far.push("holds")
        third = await tq.push("holds")
        handlers.go_on.set()
        assert await first.result(within(20)) == "done"
        for _ in range(5):
            await worker._fetcher._round()
        assert [await handle.status() for handle in (second, third)] == [Status.PENDING] * 2
        assert await far.workers.tasks(owner) == []
        assert await far.workers.wake() == 1
        assert await second.result(within(20)) == "done"
        assert await third.result(within(20)) == "done"
        detail = {"owner": owner, "concurrency": 2}
        assert told == [("quieted", {**detail, "quiet": True}), ("woken", {**detail, "quiet": False})]


async def test_a_worker_is_resized_while_it_runs(shared_store: Store) -> None:
    async with fleet(shared_store) as (tq, far, handlers, owner):
        worker = tq.worker
        assert worker is not None
        handles = [await far.push("holds") for _ in range(6)]
        await eventually(lambda: handlers.running == 2)
        assert (await far.workers.resize(owner, 4)).wanted_concurrency == 4
        await eventually(lambda: handlers.running == 4)
        await far.workers.resize(owner, 1)
        await eventually(lambda: worker.concurrency == 1)
        assert handlers.running == 4, "what runs goes on"
        assert worker.occupancy().slots == 1
        most = 0
        running = [handle for handle in handles if await handle.status() is Status.RUNNING]
        for handle in running[:3]:
            await far.cancel(handle.task_id)
        await eventually(lambda: handlers.running == 1)
        for _ in range(5):
            await worker._fetcher._round()
            most = max(most, handlers.running)
        assert most == 1
        handlers.go_on.set()
        ends = [await tq.queue.wait_for_end(handle.task_id, within(30)) for handle in handles]
        assert sorted(str(task.status) for task in ends) == ["cancelled"] * 3 + ["completed"] * 3


async def test_a_worker_tells_where_its_handlers_stand(shared_store: Store) -> None:
    async with fleet(shared_store) as (_, far, handlers, owner):
        assert (await far.workers.stack(owner, within(10))).runs == ()
        task = await far.push("holds")
        await eventually(lambda: handlers.running == 1)
        found = await far.workers.stack(owner, within(10))
        (run,) = found.runs
        assert (run.task_id, run.type, run.attempt, run.executor) == (task.task_id, "holds", 1, "loop")
        assert run.began_at is not None and run.began_at <= found.at
        assert [line.rpartition(" ")[2] for line in run.lines] == ["Handlers._run", "Event.wait"]
        one, other = await asyncio.gather(*(far.workers.stack(owner, within(10)) for _ in range(2)))
        assert min(one.at, other.at) > found.at, "not the answer to an earlier one"


async def test_a_worker_looks_between_heartbeats_at_what_it_is_asked_for(
    shared_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiotaskq.runtime.worker.heartbeat.LOOK", 0.05)  # not every store notifies it
    async with fleet(shared_store, heartbeat=1_000, lease=3_000) as (tq, far, _, owner):
        assert (await far.workers.stack(owner, within(20))).runs == ()
        worker = tq.worker
        assert worker is not None and await far.workers.quiet(owner) == 1
        await eventually(lambda: worker.quiet)


async def test_a_worker_that_does_not_answer_is_told_of(shared_store: Store) -> None:
    registry, now = shared_store.backend.workers, SystemClock().now()
    assert registry is not None
    await registry.register(worker_info("gone", seen_at=now - 90 * SECOND, lease_until=now - 30 * SECOND))
    await registry.register(worker_info("still", seen_at=now - 7 * SECOND, lease_until=now + 3600 * SECOND))
    async with TaskQ(shared_store.url) as far:
        with pytest.raises(ResultTimeout, match=r"gone has not .* seen 9\d s ago, and its lease is over"):
            await far.workers.stack("gone", 0.05)
        with pytest.raises(ResultTimeout, match=r"still has not answered within 0.05 s; .* look into its log"):
            await far.workers.stack("still", 0.05)
        with pytest.raises(NotFound, match="there is no worker nobody"):
            await far.workers.stack("nobody")
        with pytest.raises(ValidationError, match="timeout"):
            await far.workers.stack("still", 0)


async def test_an_unknown_worker_and_a_wrong_number_are_refused(shared_store: Store) -> None:
    async with fleet(shared_store) as (_, far, _handlers, owner):
        for call in (far.workers.get, far.workers.tasks, far.workers.quiet, far.workers.wake):
            with pytest.raises(NotFound, match="there is no worker nobody"):
                await call("nobody")  # type: ignore[operator]
        with pytest.raises(NotFound, match="there is no worker nobody"):
            await far.workers.resize("nobody", 3)
        for wrong in (0, 10_001, True, 1.5):
            with pytest.raises(ValidationError, match="concurrency"):
                await far.workers.resize(owner, wrong)  # type: ignore[arg-type]
        (info,) = await far.workers.list()
        assert (info.owner, info.quiet, info.wanted_concurrency, info.concurrency) == (owner, False, None, 2)
        assert info.types == ("holds",) and info.knows("holds") and not info.knows("other")


async def test_memory_has_no_registry_and_its_worker_is_steered_itself() -> None:
    tq = TaskQ("memory://")
    handlers = Handlers(tq)
    async with tq.running(concurrency=1):
        with pytest.raises(NotSupported, match="this store has no registry of workers"):
            await tq.workers.list()
        worker = tq.worker
        assert worker is not None
        worker.set_quiet(True)
        handles = [await tq.push("holds") for _ in range(3)]
        await worker._fetcher._round()
        assert handlers.running == 0
        worker.set_quiet(False)
        await eventually(lambda: handlers.running == 1)
        worker.resize(2)
        await eventually(lambda: handlers.running == 2)
        worker.resize(1)
        await tq.cancel(next(task.task_id for task in worker.tasks))
        await eventually(lambda: handlers.running == 1)
        await worker._fetcher._round()
        assert handlers.running == 1
        handlers.go_on.set()
        await asyncio.gather(*(tq.queue.wait_for_end(handle.task_id, within(20)) for handle in handles))


PROGRAM = """
import asyncio, pathlib
from aiotaskq import TaskQ

tq = TaskQ({url!r}, lease=20, heartbeat=0.1, poll_interval=0.05)
go_on = pathlib.Path({folder!r}) / "go_on"


@tq.task
async def holds() -> str:
    while not go_on.exists():
        await asyncio.sleep(0.02)
    return "done"


asyncio.run(tq.run(concurrency=1))
"""


@pytest.mark.stores("sqlite")
async def test_a_worker_in_another_process_is_quieted_resized_and_woken(shared_store: Store, tmp_path: Any) -> None:
    import signal
    import sys

    program = PROGRAM.format(url=shared_store.url, folder=str(tmp_path))
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    tq = TaskQ(shared_store.url)

    async def count(status: str) -> int:
        return await tq.count(status=status)

    async def busy(number: int) -> bool:
        return await count("running") == number

    async def applied(slots: int) -> bool:
        return [each.concurrency for each in await tq.workers.list()] == [slots]

    try:
        async with tq:
            handles = [await tq.push("holds") for _ in range(3)]
            await eventually(lambda: busy(1))
            (worker,) = await tq.workers.list()
            assert worker.pid == process.pid
            (run,) = (await tq.workers.stack(worker.owner, within(10))).runs
            assert [line.rpartition(" ")[2] for line in run.lines] == ["holds", "sleep"]
            await tq.workers.resize(worker.owner, 2)
            await eventually(lambda: busy(2))
            assert await tq.workers.quiet() == 1
            await tq.workers.resize(worker.owner, 3)  # seen with or after the other one
            await eventually(lambda: applied(3))
            (tmp_path / "go_on").touch()
            await eventually(lambda: busy(0))
            assert await count("pending") == 1
            assert len(await tq.workers.list()) == 1, "it stays alive"
            await tq.workers.wake(worker.owner)
            assert [await handle.result(within(30)) for handle in handles] == ["done"] * 3
    finally:
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
