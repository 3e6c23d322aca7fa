"""A host clock that is set back: intervals, delays and leases follow elapsed time; named times wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from aiotaskq import Limit, Rate, TaskQ
from aiotaskq.backends import connect
from aiotaskq.backends.base import Backend
from aiotaskq.concurrency.clock import SystemClock, VirtualClock
from aiotaskq.core.codec import Codec
from aiotaskq.core.gate import Bounds, Flow, GateChange
from aiotaskq.core.parking import parked
from aiotaskq.core.steps import NEVER
from aiotaskq.core.task import SECOND, Task
from aiotaskq.errors import DatabaseUnavailable
from aiotaskq.runtime.clock_steps import ClockSteps, HostClock, StepLog
from tests.support import step_rows
from tests.support.codecs import Keyed
from tests.support.logs import logged
from tests.support.machine import within
from tests.support.rows import NOW, new, running, worker_info

BACK = 3600
SET_BACK = "the clock was set back by 3600 s: intervals go on; cron expressions wait for the times they name"


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/clock.db"


@pytest.fixture
async def store(url: str) -> AsyncIterator[tuple[TaskQ, VirtualClock, HostClock]]:
    """A TaskQ in virtual time, and what its worker looks at its clock with."""
    clock = VirtualClock()
    async with TaskQ(url, clock=clock) as tq:
        host = HostClock(tq.queue.backend, clock, tq.queue.step_log)
        await host.look()
        yield tq, clock, host


Virtual = tuple[TaskQ, VirtualClock, HostClock]


async def test_delays_go_on(store: Virtual) -> None:  # C12
    tq, clock, host = store
    await tq.push("delayed", delay=30)
    await clock.advance(10)
    with logged() as lines:
        clock.step(-BACK)
        await host.look()
        await host.look()
    assert lines == [SET_BACK]
    for seconds, due in ((19, 0), (1, 1)):
        await clock.advance(seconds)
        assert len(await tq.queue.backend.claim("owner", clock.now(), 1)) == due


async def test_a_dead_workers_lease_is_over_in_time(store: Virtual) -> None:
    tq, clock, host = store
    workers = tq.queue.backend.workers
    assert workers is not None
    for owner in ("dead", "lives"):
        await workers.register(worker_info(owner, lease_until=clock.now() + 300 * SECOND))
    await clock.advance(10)
    clock.step(-BACK)
    said = clock.now() + 60 * SECOND
    assert await workers.heartbeat(worker_info("lives", lease_until=said))
    await host.look()
    dead, lives = await workers.all()
    assert lives.lease_until == said, "its heartbeat has said so since the step"
    assert dead.lease_until == clock.now() + 290 * SECOND


async def test_a_pops_lease_is_over_in_time(store: Virtual) -> None:
    tq, clock, host = store
    backend = tq.queue.backend
    await tq.push("popped")
    (popped,) = await backend.claim("owner", clock.now(), 1, lease_until=clock.now() + 300 * SECOND)
    await clock.advance(10)
    clock.step(-BACK)
    await host.look()
    await clock.advance(289)
    assert await backend.overdue(clock.now(), 10) == []
    await clock.advance(1)
    assert [task.task_id for task in await backend.overdue(clock.now(), 10)] == [popped.task_id]


async def test_gates_go_on(store: Virtual) -> None:
    tq, clock, host = store
    gates = tq.queue.backend.gates
    rate = Rate(1, per=10, name="api")
    for _ in range(2):
        await tq.push("t", rate=rate)
    await gates.change("closed", GateChange(closed_until=clock.now() + 60 * SECOND), clock.now())
    await tq.push("t", limit=Limit(1, name="closed"))
    clock.step(-BACK)
    await host.look()
    backend = tq.queue.backend
    for seconds, ready in ((0, 1), (10, 1), (50, 1)):
        await clock.advance(seconds)
        await gates.admit(clock.now(), 10)
        assert len(await backend.claim("owner", clock.now(), 10)) == ready


async def test_a_store_that_was_away_is_told_later(store: Virtual, monkeypatch: pytest.MonkeyPatch) -> None:
    tq, clock, host = store
    task = await tq.get((await tq.push("t", delay=10_000)).task_id)
    with monkeypatch.context() as patch:

        async def away(*_arguments: object) -> None:
            raise DatabaseUnavailable("away")

        patch.setattr(tq.queue.backend, "clock_set", away)
        for _ in range(2):
            clock.step(-BACK)
            with pytest.raises(DatabaseUnavailable):
                await host.look()
    await host.look()
    assert (await tq.get(task.task_id)).run_at == task.run_at - 2 * BACK * SECOND


async def test_a_process_that_starts_after_the_step_moves_nothing(store: Virtual) -> None:
    tq, clock, _ = store
    task = await tq.get((await tq.push("t", delay=10_000)).task_id)
    clock.step(-BACK)
    for _ in range(2):
        await HostClock(tq.queue.backend, clock, StepLog()).look()
    assert (await tq.get(task.task_id)).run_at == task.run_at


async def test_two_processes_that_see_the_step_move_the_rows_once(url: str) -> None:
    first, second = connect(url), connect(url)
    await first.open()
    await second.open()
    (task,) = await first.push([new(run_at=NOW + 10_000 * SECOND)])
    back = BACK * SECOND
    for backend in (first, second):
        await backend.clock_set(5 * back, 0, NOW)
    for backend in (first, second, first):
        await backend.clock_set(4 * back, back, NOW - back)
    assert await run_at(first, task) == NOW + (10_000 - BACK) * SECOND
    for backend in (first, second):  # again, and now the other one is quicker
        await backend.clock_set(3 * back, back, NOW - 2 * back)
    assert await run_at(second, task) == NOW + (10_000 - 2 * BACK) * SECOND
    await first.clock_set(5 * back, 0, NOW)  # set right: time that has passed
    assert await run_at(second, task) == NOW + (10_000 - 2 * BACK) * SECOND
    await first.close()
    await second.close()


async def run_at(backend: Backend, task: Task) -> int:
    (row,) = await backend.get([task.task_id])
    assert row is not None
    return row.run_at


async def test_what_is_moved(url: str) -> None:
    backend = connect(url)
    await backend.open()
    back = BACK * SECOND
    far, minute = NOW + 2 * back, NOW + 60 * SECOND
    held = await running(backend, lease_until=far)
    renewed = await running(backend, lease_until=minute + 30 * SECOND)
    brief = await running(backend, lease_until=NOW + SECOND)
    due, delayed, put_off, expiring = await backend.push(
        [new(run_at=NOW), new(run_at=far), new(run_at=far, due_at=far), new(run_at=NOW, expires_at=far)]
    )
    soon = (await backend.push([new(run_at=NOW, expires_at=NOW + SECOND)]))[0]
    await backend.clock_set(back, 0, NOW)
    await backend.clock_set(0, back, NOW)
    rows = [row for row in await backend.get([t.task_id for t in (due, delayed, put_off, expiring, soon)]) if row]
    assert [row.run_at for row in rows] == [NOW, far - back, far - back, NOW, NOW]
    assert rows[2].due_at == far - back
    assert [row.expires_at for row in rows] == [None, None, None, far - back, NOW + SECOND]
    leases = [row.lease_until for row in await backend.get([t.task_id for t in (held, renewed, brief)]) if row]
    assert leases == [far - back, minute, NOW + SECOND], "what was renewed after the step is not over by the move"
    await backend.close()


async def test_a_task_that_waits_for_its_time_at_a_gate_is_moved(url: str) -> None:
    backend = connect(url)
    await backend.open()
    back = BACK * SECOND
    far = NOW + 2 * back
    (task,) = await backend.push([parked(new(flow=Flow(gates=(("g", Bounds(cap=1)),))), far)])
    await backend.clock_set(back, 0, NOW)
    await backend.clock_set(0, back, NOW)
    assert await backend.gates.admit(NOW, 10) == far - back
    await backend.gates.admit(far - back, 10)
    (run,) = await backend.claim("o", far - back, 9, lease_until=far)
    assert (run.task_id, run.run_at) == (task.task_id, far - back)
    await backend.close()


@pytest.mark.parametrize("codec", [None, Keyed("k")], ids=["plain", "coded"])
async def test_the_end_of_a_sleep_is_moved_with_its_task(url: str, codec: Codec | None) -> None:
    backend = connect(url, codec=codec)
    await backend.open()
    steps, back = backend.steps, BACK * SECOND
    damaged, sleeps, waits = [await running(backend) for _ in range(3)]
    over = step_rows.of(sleeps, "over", str(NOW - back), kind="sleep")
    found = step_rows.of(sleeps, "found", '"a b"', n=2)
    left = step_rows.of(sleeps, "left", str(NOW + 60 * SECOND), kind="sleep", n=3)
    assert await step_rows.suspend(steps, sleeps, step_rows.asleep(sleeps, left.step.until), over, found, left)
    wrong = step_rows.of(damaged, "wrong", "soon", kind="sleep")
    assert await step_rows.suspend(steps, damaged, step_rows.asleep(damaged, left.step.until), wrong)
    assert await step_rows.wait(steps, waits, until=NEVER)
    await backend.clock_set(back, 0, NOW)
    await backend.clock_set(0, back, NOW - back)
    for task, ends in ((sleeps, [NOW - back, NOW + 60 * SECOND - back]), (waits, [NEVER])):
        kept = await steps.read(task.task_id, task.seq)
        assert [step.until for step in kept if step.kind != "step"] == ends
        assert await run_at(backend, task) == ends[-1]
    assert (await steps.read(sleeps.task_id, sleeps.seq))[1].value == "a b"
    await backend.close()


async def test_the_real_clock_is_set_back(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time_ns
    tq = TaskQ(url, poll_interval=0.1)
    fired = asyncio.Event()

    @tq.task
    async def delayed() -> str:
        return "ran"

    @tq.task
    async def tick() -> None:
        fired.set()

    async with asyncio.timeout(within(60)):
        async with tq.running():
            await tq.schedules.add("s", "tick", interval=1)
            await fired.wait()
            handle = await tq.push("delayed", delay=2)
            monkeypatch.setattr(time, "time_ns", lambda: real() - BACK * 1_000_000_000)
            fired.clear()
            assert await handle.result() == "ran"
            await fired.wait()


def test_a_thread_that_is_held_up_between_two_reads_sees_no_step() -> None:
    class HeldUp(SystemClock):
        def __init__(self) -> None:
            self.reads = 0

        def ticks(self) -> int:
            self.reads += 1
            return 100 * SECOND + (10 * SECOND if self.reads > 2 else 0)  # the second look stops after its `now`

        def now(self) -> int:
            return 500 * SECOND + (10 * SECOND if self.reads > 2 else 0)

    clock = HeldUp()
    steps = ClockSteps(clock, StepLog())
    assert [steps.back() for _ in range(3)] == [0, 0, 0]
    assert clock.anchor() == 400 * SECOND


def test_a_step_is_told_once_in_a_process() -> None:
    clock = VirtualClock()
    log = StepLog()
    users: list[Any] = [ClockSteps(clock, log) for _ in range(3)]
    with logged() as lines:
        assert [user.back() for user in users] == [0] * 3
        clock.step(-2)
        assert [user.back() for user in users] == [0] * 3  # no more than two hosts may differ
        clock.step(-BACK)
        assert [user.back() for user in users] == [BACK * SECOND] * 3
        assert lines == [SET_BACK]
        clock.step(BACK)
        assert [user.back() for user in users] == [0] * 3
