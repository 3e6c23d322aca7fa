"""Retention: old ended tasks are deleted in small batches; dead letters and all other tasks stay."""

from __future__ import annotations

from pathlib import Path

import pytest

from aiotaskq.app.taskq import TaskQ
from aiotaskq.backends.base import Backend, Change
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core.status import FINAL, Status
from aiotaskq.core.steps import NewStep, Step
from aiotaskq.core.task import SECOND, TaskFilter, new_task
from aiotaskq.errors import ValidationError
from aiotaskq.runtime.queue.bulk import PURGE_CHUNK
from aiotaskq.runtime.retention import PAUSE, Retention
from tests.backends.sql.migrations.legacy import legacy

DAY = 86_400
ENDED = set(map(str, FINAL))


@pytest.fixture(params=["memory", "sqlite"])
async def tq(request: pytest.FixtureRequest, tmp_path: Path) -> TaskQ:
    url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/r.db"
    return TaskQ(url, clock=VirtualClock(), retention=7 * DAY, retention_failed=30 * DAY)


async def end(backend: Backend, clock: VirtualClock, status: Status, count: int = 1) -> None:
    """Let ``count`` tasks end now."""
    await backend.push([new_task(str(status), {}, now=clock.now()) for _ in range(count)])
    tasks = await backend.claim("w", clock.now(), count)
    assert len(tasks) == count
    second = clock.now() // SECOND
    await backend.update([Change(task, task.replace(status=status, completed_at=second)) for task in tasks])


def virtual(tq: TaskQ) -> VirtualClock:
    assert isinstance(tq.queue.clock, VirtualClock)
    return tq.queue.clock


async def left(tq: TaskQ) -> set[str]:
    return {task.type for task in await tq.find(limit=1000)}


async def test_each_status_goes_at_its_age(tq: TaskQ) -> None:  # F23
    clock, backend = virtual(tq), tq.queue.backend
    async with tq:
        for status in FINAL:
            await end(backend, clock, status)
        await tq.push("waiting")
        clock._now += 7 * DAY * SECOND
        await tq._retention._sweep()
        assert await left(tq) == {*map(str, FINAL), "waiting"}, "exactly a week is not older than a week"
        clock._now += SECOND
        await tq._retention._sweep()
        assert await left(tq) == {"failed", "waiting"}
        clock._now += 23 * DAY * SECOND
        await tq._retention._sweep()
        assert await left(tq) == {"waiting"}


async def test_many_go_in_chunks_with_a_breath_between(tmp_path: Path) -> None:  # F23, D16
    clock = VirtualClock()
    tq = TaskQ(f"sqlite:///{tmp_path}/many.db", clock=clock, retention=1)
    async with tq:
        await end(tq.queue.backend, clock, Status.COMPLETED, PURGE_CHUNK + 5)
        clock._now += 10 * SECOND
        assert await tq._retention._sweep() == PAUSE
        assert len(await tq.find(limit=1000)) == 5
        assert await tq._retention._sweep() > PAUSE
        assert await tq.find() == []


async def test_running_workers_delete_in_the_background(tmp_path: Path) -> None:
    clock = VirtualClock()
    tq = TaskQ(f"sqlite:///{tmp_path}/workers.db", clock=clock, retention=60)
    async with tq:
        await end(tq.queue.backend, clock, Status.COMPLETED)
        clock._now += 61 * SECOND
        async with tq.running(concurrency=1):
            for _ in range(1000):
                if not await tq.queue.backend.find(TaskFilter(), 1):
                    break
                await clock.settle()
        assert await tq.find() == []
        assert not tq._retention.running


async def swept(tq: TaskQ, clock: VirtualClock) -> set[str]:
    """Let a task end in each way, and a week and a minute pass with workers; return what is left."""
    async with tq:
        for status in FINAL:
            await end(tq.queue.backend, clock, status)
        clock._now += (7 * DAY + 60) * SECOND
        async with tq.running(concurrency=1, scheduler=False):
            await clock.settle()
            await tq._retention._sweep()
        return await left(tq)


async def test_a_durable_store_keeps_a_week_and_dead_letters_for_ever(tmp_path: Path) -> None:
    clock = VirtualClock()
    assert await swept(TaskQ(f"sqlite:///{tmp_path}/week.db", clock=clock), clock) == {"failed"}
    assert await swept(TaskQ(f"sqlite:///{tmp_path}/kept.db", clock=clock, retention=None), clock) == set(
        map(str, FINAL)
    )
    assert await swept(TaskQ("memory://", clock=clock), clock) == set(map(str, FINAL))


async def test_an_adopted_database_keeps_everything_until_told(tmp_path: Path) -> None:
    clock, path = VirtualClock(), tmp_path / "adopted.db"
    legacy(path)
    assert await swept(TaskQ(f"sqlite:///{path}", clock=clock), clock) >= set(map(str, FINAL))
    assert await swept(TaskQ(f"sqlite:///{path}", clock=clock, retention=7 * DAY), clock) & set(map(str, FINAL)) == {
        "failed"
    }


@pytest.mark.parametrize("name", ["retention", "retention_failed"])
@pytest.mark.parametrize("age", [0, -1, "1d", True, float("nan")])
def test_nonsense_is_refused(name: str, age: object) -> None:  # I9
    with pytest.raises(ValidationError, match=name):
        TaskQ("memory://", **{name: age})  # type: ignore[arg-type]


def test_retention_needs_no_both() -> None:
    clock = VirtualClock()
    backend = TaskQ("memory://").queue.backend
    assert list(Retention(backend, clock, ended=None, failed=5)._ages) == [Status.FAILED]


async def test_only_ended_tasks_are_retried_or_purged(tq: TaskQ) -> None:
    async with tq:
        for status in ("pending", "running", "completed"):
            with pytest.raises(ValidationError, match=f"status: {status} tasks are not retried"):
                await tq.retry_many(status=status)
        for status in ("pending", "running"):
            with pytest.raises(ValidationError, match="only ended tasks are purged"):
                await tq.purge(status=status)
        with pytest.raises(ValidationError, match="limit"):
            await tq.retry_many(limit=0)


async def test_steps_of_tasks_that_are_gone_go_at_the_second_look(tq: TaskQ) -> None:
    clock, backend = virtual(tq), tq.queue.backend
    gone, late = (new_task("t", {}, now=clock.now()) for _ in range(2))
    async with tq:
        await backend.steps.put([NewStep(each.task_id, each.seq, 1, Step(name="a", text="1")) for each in (gone, late)])
        for _ in range(3):
            await tq._retention._sweep()
        assert len(await backend.steps.orphans(10)) == 2, "these may be about to be pushed"
        await backend.push([late])
        clock._now += 2 * 3600 * SECOND
        await tq._retention._sweep()
        assert await backend.steps.orphans(10) == [] and len(await backend.steps.read(late.task_id, late.seq)) == 1
