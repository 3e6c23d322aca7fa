"""What a worker adds up of its tasks, and when it writes that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from aiotaskq.app.groups import Workflow
from aiotaskq.app.taskq import TaskQ
from aiotaskq.backends.memory.backend import MemoryBackend
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core.history import MINUTE, Period, begin_of
from aiotaskq.core.outcome import (
    ALONE,
    MAX_CRASHES,
    Completed,
    Expired,
    Failed,
    LeaseExpired,
    Outcome,
    Released,
    settle,
)
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task
from aiotaskq.errors import DatabaseUnavailable, TaskFailed
from aiotaskq.runtime.worker.tally import MANY, MOST_LABELS, Tally

START = begin_of(1_790_000_000 * SECOND, MINUTE)


def run(type: str = "mail", *, queue: str = "default", began: int = START, took: int = SECOND, wait: int = 0) -> Task:
    return Task(
        task_id="t",
        type=type,
        queue=queue,
        status=Status.RUNNING,
        run_at=began - wait,
        began_at=began,
        ended_at=began + took,
        fence=1,
    )


def ended(task: Task, outcome: Outcome | None = None) -> tuple[Task, Outcome, Task]:
    assert task.ended_at is not None
    outcome = outcome or Completed()
    return task, outcome, settle(task.replace(ended_at=None), outcome, task.ended_at)


async def written(tally: Tally, backend: MemoryBackend) -> dict[tuple[str, str, str], Period]:
    await tally.write()
    found = await backend.history.read(0, 2**62, 0)
    return {(period.type, period.queue, period.kind): period for period in found}


@pytest.fixture
def backend() -> MemoryBackend:
    return MemoryBackend()


@pytest.fixture
def tally(backend: MemoryBackend) -> Tally:
    return Tally(backend.history, VirtualClock())


@pytest.mark.parametrize("together", [True, False])
async def test_completed_tasks_are_summed_by_type_queue_and_minute(
    tally: Tally, backend: MemoryBackend, together: bool
) -> None:
    tasks = [run("a", took=n, wait=10 * n) for n in range(1, 60)] + [run("b"), run("a", queue="q")]
    late = run("a", began=START + 61 * SECOND)
    for task in [*tasks, late]:
        tally.settled(*ended(task))
        if not together:
            tally.collect()
    await tally.write()
    found = {(p.type, p.queue, p.at): p for p in await backend.history.read(0, 2**62, 0)}
    assert {key: period.n for key, period in found.items()} == {
        ("a", "default", START): 59,
        ("b", "default", START): 1,
        ("a", "q", START): 1,
        ("a", "default", START + MINUTE * SECOND): 1,
    }
    mail = found["a", "default", START]
    assert (mail.kind, mail.seconds, mail.run_us, mail.wait_us) == ("completed", 60, 59 * 30, 590 * 30)
    assert mail.run_percentile(100) == pytest.approx(59 / SECOND, rel=1 / 16)
    assert mail.wait_percentile(100) == pytest.approx(590 / SECOND, rel=1 / 16)


async def test_each_kind_of_outcome_is_counted_and_what_was_given_back_is_not(
    tally: Tally, backend: MemoryBackend
) -> None:
    tally.settled(*ended(run(took=3 * SECOND), Failed("ValueError: x")))
    tally.settled(*ended(run().replace(max_retries=0), Failed("ValueError: x")))
    tally.settled(*ended(run(), Failed("ValueError: x", retryable=False)))
    tally.settled(*ended(run().replace(cancel_requested=True), Released("stopped", ran=True)))
    tally.settled(*ended(run(), Released("snoozed", 5 * SECOND, ran=True)))
    tally.settled(*ended(run()))
    found = await written(tally, backend)
    assert {kind: period.n for (_, _, kind), period in found.items()} == {
        "retried": 1,
        "failed": 2,
        "cancelled": 1,
        "completed": 1,
    }
    assert found["mail", "default", "retried"].run_us == 3 * SECOND


async def test_what_a_dead_worker_held_is_lost_and_counts_by_how_it_ended(tally: Tally, backend: MemoryBackend) -> None:
    def reaped(task: Task, outcome: Outcome) -> None:
        tally.reaped(task, outcome, settle(task, outcome, START + SECOND))

    running = run().replace(ended_at=None)
    reaped(running, LeaseExpired())
    reaped(running.replace(crashes=MAX_CRASHES - 1, lease_owner=f"w{ALONE}"), LeaseExpired())
    reaped(running.replace(cancel_requested=True), LeaseExpired())
    waiting = running.replace(status=Status.PENDING, began_at=None, expires_at=START)
    reaped(waiting, Expired())
    tally.settled(*ended(run(), LeaseExpired()))
    found = await written(tally, backend)
    assert {kind: period.n for (_, _, kind), period in found.items()} == {
        "lost": 4,
        "failed": 1,
        "cancelled": 1,
        "expired": 1,
    }


async def test_what_was_put_off_has_waited_since_it_was_due(tally: Tally, backend: MemoryBackend) -> None:
    for outcome in (Completed(), Failed("x")):
        tally.settled(*ended(run().replace(run_at=START - 1, due_at=START - 5 * SECOND), outcome))
    found = await written(tally, backend)
    assert {kind: period.wait_us for (_, _, kind), period in found.items()} == {
        "completed": 5 * SECOND,
        "retried": 5 * SECOND,
    }


async def test_completed_tasks_are_not_kept(tally: Tally) -> None:
    for _ in range(10 * MANY):
        tally.settled(*ended(run()))
        assert len(tally.completed) < MANY


async def test_sums_that_cannot_be_written_are_kept(tally: Tally, backend: MemoryBackend) -> None:
    add: Any = backend.history.add

    async def away(periods: Sequence[Period]) -> None:
        tally.settled(*ended(run()))  # while it is being written
        raise DatabaseUnavailable("cut off")

    tally.settled(*ended(run()))
    backend.history.add = away  # type: ignore[method-assign]
    with pytest.raises(DatabaseUnavailable):
        await tally.write()
    backend.history.add = add  # type: ignore[method-assign]
    assert (await written(tally, backend))["mail", "default", "completed"].n == 2
    await tally.write()
    assert (await written(tally, backend))["mail", "default", "completed"].n == 2


async def test_an_outage_lets_no_more_values_be_told_apart(
    backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(_periods: Sequence[Period]) -> None:
        raise DatabaseUnavailable("cut off")

    tally = Tally(backend.history, VirtualClock(), tags=("order",))
    with monkeypatch.context() as outage:
        outage.setattr(backend.history, "add", away)
        for number in range(MOST_LABELS + 20):
            tally.settled(*ended(run().replace(extra={"tags": {"order": str(number)}})))
            if number % 100 == 0:
                with pytest.raises(DatabaseUnavailable):
                    await tally.write()
    await tally.write()
    assert len(await backend.history.read(0, 2**62, 0, tag="order")) <= MOST_LABELS + 1


async def test_a_worker_writes_within_a_minute_and_when_it_stops() -> None:
    clock = VirtualClock()
    tq = TaskQ("memory://", clock=clock)

    @tq.task
    async def work() -> None: ...

    async with tq:
        async with tq.running():
            assert tq.worker is not None
            await (await work.push()).result()
            assert await tq.history() == []
            await clock.advance(61)
            assert [(p.type, p.kind, p.n) for p in await tq.history()] == [("work", "completed", 1)]
            for _ in range(3):
                await (await work.push()).result()
        found = await tq.history(step=3_600, since=0)
        assert sum(p.n for p in found) == 4
        assert {p.seconds for p in found} == {3_600}


async def test_values_of_tags_beyond_a_limit_are_added_up(backend: MemoryBackend) -> None:
    tally = Tally(backend.history, VirtualClock(), tags=("order",))
    for number in range(MOST_LABELS + 20):
        tally.settled(*ended(run().replace(extra={"tags": {"order": str(number)}})))
    tally.settled(*ended(run().replace(extra={"tags": {"order": "0"}})))
    await tally.write()
    found = {period.tag: period.n for period in await backend.history.read(0, 2**62, 0, tag="order")}
    assert len(found) == MOST_LABELS + 1
    assert found["order=0"] == 2 and found["order=other"] == 20 and set(found.values()) == {1, 2, 20}


async def test_what_the_store_fails_is_counted() -> None:
    tq = TaskQ("memory://", clock=VirtualClock())

    @tq.task
    async def broken() -> None:
        raise ValueError

    @tq.task
    async def behind() -> None: ...

    failing = broken.options(max_retries=0).call()
    flow = Workflow().add("a", failing).add("b", behind.call(), after="a", on_failure="fail")
    flow.add("c", behind.call(), after="b", on_failure="fail").add("d", behind.call(), after="a")
    async with tq:
        async with tq.running():
            with pytest.raises(TaskFailed):
                await (await tq.start(flow)).result()
            await tq.queue.hooks.idle(5)
        found = {(period.type, period.kind): period.n for period in await tq.history()}
    assert found == {("broken", "failed"): 1, ("behind", "failed"): 2}, "what was cancelled before it began is not"


async def test_without_history_nothing_is_written() -> None:
    tq = TaskQ("memory://", history=False)

    @tq.task
    async def work() -> None: ...

    async with tq.running():
        await (await work.push()).result()
        assert tq.worker is not None
        assert tq.worker.tally is None
    assert await tq.history() == []


async def test_old_minutes_become_hours_and_days() -> None:
    clock = VirtualClock()
    tq = TaskQ("memory://", clock=clock, poll_interval=7_200, lease=86_400, cleanup_interval=3_600)

    @tq.task
    async def work() -> None: ...

    async with tq.running(scheduler=False):
        await (await work.push()).result()
        await clock.advance(120)
        (minute,) = await tq.history(since=0)
        await clock.advance(3 * 86_400)
        (hour,) = await tq.history(since=0)
        await clock.advance(31 * 86_400)
        (day,) = await tq.history(since=0)
        assert [p.seconds for p in (minute, hour, day)] == [60, 3_600, 86_400]
        assert minute.runs == hour.runs == day.runs
        assert minute.at >= hour.at >= day.at
        await clock.advance(60 * 86_400)
        assert await tq.history(since=0) == []
