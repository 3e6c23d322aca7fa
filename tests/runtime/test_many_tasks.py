"""The operator's verbs for many tasks: cancel, and the time and error of a filter."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from aiotaskq.app.taskq import TaskQ
from aiotaskq.backends.base import Change
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task
from aiotaskq.errors import ValidationError
from aiotaskq.runtime.queue.bulk import RETRY_CHUNK


@pytest.fixture(params=["memory", "sqlite"])
async def tq(request: pytest.FixtureRequest, tmp_path: Path) -> TaskQ:
    url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/r.db"
    return TaskQ(url, clock=VirtualClock())


def virtual(tq: TaskQ) -> VirtualClock:
    assert isinstance(tq._clock, VirtualClock)
    return tq._clock


async def fail(tq: TaskQ, error: str) -> Task:
    """Let a new task fail."""
    backend, now = tq._backend, virtual(tq).now()
    handle = await tq.push("broken", queue="failing")
    (task,) = await backend.claim("w", now, 1, queues=["failing"])
    after = task.replace(status=Status.FAILED, completed_at=now // SECOND, error_message=error)
    assert task.task_id == handle.task_id and await backend.update([Change(task, after)]) == [True]
    return after


async def test_cancel_many_cancels_pending_tasks_and_asks_running_ones(tq: TaskQ) -> None:
    async with tq:
        cancelled: list[str] = []
        tq.on("cancelled", lambda event: cancelled.append(event.task.type))
        failed = await fail(tq, "no")
        await tq.push("mail", priority=-1)
        (running,) = await tq._backend.claim("w", virtual(tq).now(), 1)
        await tq.push_many([("mail", {})] * (RETRY_CHUNK + 3))
        await tq.push("audio")
        seen: list[int] = []
        count = RETRY_CHUNK + 4
        assert await tq.cancel_many(type="mail", progress=seen.append) == count
        assert seen == [RETRY_CHUNK, count]
        counts = (await tq.stats()).counts
        assert (counts["cancelled"], counts["pending"], counts["running"], counts["failed"]) == (count - 1, 1, 1, 1)
        assert (await tq.get(running.task_id)).cancel_requested
        assert cancelled == ["mail"] * (count - 1)
        assert await tq.cancel_many(queue="other") == 0
        assert await tq.cancel_many(status="pending") == 1
        assert (await tq.get(failed.task_id)).status is Status.FAILED


async def test_a_task_that_was_claimed_after_it_was_read_is_asked_to_stop(
    tq: TaskQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tq:
        await tq.push("mail")
        backend, find = tq._backend, tq._backend.find

        async def find_and_claim(*args: object) -> list[Task]:
            tasks = await find(*args)  # type: ignore[arg-type]
            await backend.claim("w", virtual(tq).now(), 1)
            return tasks

        monkeypatch.setattr(backend, "find", find_and_claim)
        assert await tq.cancel_many() == 1
        (task,) = await tq.find()
        assert (task.status, task.cancel_requested) == (Status.RUNNING, True)


@pytest.mark.parametrize("status", ["failed", "completed"])
async def test_only_live_tasks_are_cancelled(tq: TaskQ, status: str) -> None:
    async with tq:
        with pytest.raises(ValidationError, match=f"only pending and running tasks are cancelled, not {status} ones"):
            await tq.cancel_many(status=["pending", status])


async def test_since_and_error_restrict_every_verb(tq: TaskQ) -> None:
    async with tq:
        await fail(tq, "ValueError: no disk")
        virtual(tq)._now += 60 * SECOND
        at = virtual(tq).now() // SECOND
        later = await fail(tq, "ValueError: no luck")
        waiting = await tq.push("mail")
        found = await tq.find(since=at)
        assert [task.task_id for task in found] == [waiting.task_id, later.task_id]
        assert await tq.find(since=datetime.fromtimestamp(at, UTC), error="luck") == [later]
        assert len(await tq.find(error="ValueError")) == 2 and await tq.find(error="valueerror") == []
        assert [await tq.count(since=at - back) for back in (0, 60)] == [2, 3]
        assert await tq.count(error="disk", status="failed") == 1
        assert await tq.retry_many(error="disk") == 1
        assert await tq.purge(since=at + 1) == 0 and await tq.purge(error="disk") == 0
        assert await tq.purge(since=at) == 1
        assert await tq.cancel_many(since=at) == 1
        assert (await tq.stats()).counts["pending"] == 1


@pytest.mark.parametrize("filters", [{"error": ""}, {"error": "a\0"}, {"error": 1}, {"since": "2h"}, {"since": -1}])
async def test_a_wrong_filter_is_refused(tq: TaskQ, filters: dict[str, object]) -> None:
    async with tq:
        with pytest.raises(ValidationError, match=next(iter(filters))):
            await tq.find(**filters)  # type: ignore[arg-type]
