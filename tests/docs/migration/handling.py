"""Handlers: what is around them, what they know, and what happens when they fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

import aiotaskq.testing
from aiotaskq import Backoff, Limit, Rate, Retry, TaskQ, current_task, injected
from aiotaskq.core.task import SECOND
from aiotaskq.errors import TaskFailed
from aiotaskq.testing import Kit, virtual
from aiotaskq.types import HookCall, Task
from tests.docs.migration.rows import ended, row
from tests.support.machine import within


class Client: ...


@row("Celery", "self.retry(countdown=60)")
@row("arq", "raise Retry(defer=5)")
@row("dramatiq", "raise dramatiq.errors.Retry(delay=60_000)")
@row("Huey", "raise RetryTask(delay=60)")
async def retried_after_a_pause(kit: Kit) -> None:
    @kit.tq.task(max_retries=2)
    async def retries() -> None:
        try:
            raise OSError("busy")
        except OSError as error:
            raise Retry(after=60) from error

    @kit.tq.task(max_snoozes=10)
    async def snoozes() -> None:
        current_task().snooze(60)

    retried, snoozed = await retries.push(), await snoozes.push()
    await kit.advance(minutes=2)
    assert (await retried.task()).retry_count == 2 and await retried.status() == "failed"
    assert (await snoozed.task()).retry_count == 0 and await snoozed.status() == "pending"
    await kit.advance(minutes=8)
    assert await snoozed.status() == "failed"


@row("Celery", "autoretry_for")
@row("arq", "max_tries=5")
async def never_retried(kit: Kit) -> None:
    @kit.tq.task(max_retries=0)
    async def once() -> None:
        raise OSError

    @kit.tq.task
    async def four_times() -> None:
        raise OSError

    handles = [await once.push(), await four_times.push()]
    await kit.drain(delayed=True)
    assert [len(await handle.attempts()) for handle in handles] == [1, 4]


@row("Celery", "autoretry_for=(E,)")
@row("dramatiq", "max_retries=20")
@row("dramatiq", "min_backoff=15_000")
@row("Huey", "raise CancelExecution(retry=False)")
async def retried_for_some_exceptions(kit: Kit) -> None:
    @kit.tq.task(max_retries=3, retry_on=ConnectionError, backoff=Backoff(base=2, factor=2, limit=600, jitter=True))
    async def f(error: str) -> None:
        raise {"broken": ConnectionError, "wrong": ValueError}[error]

    handles = [await f.push("broken"), await f.push("wrong")]
    await kit.drain(delayed=True)
    assert [len(await handle.attempts()) for handle in handles] == [4, 1]


@row("Celery", "acks_late")
async def run_again_after_a_crash() -> None:
    async with virtual(TaskQ("sqlite:///app.db"), lease=60) as kit:

        @kit.tq.task
        async def f() -> int:
            return current_task().task.crashes

        handle = await f.push()
        now = kit.clock.now()
        assert await kit.tq.queue.backend.claim("a worker that dies", now, 1, lease_until=now + 60 * SECOND)
        await kit.advance(120)
        assert await handle.result(timeout=0) == 1


@row("Celery", "AsyncResult(id).get(timeout=5)")
@row("arq", "job.result(timeout=5)")
@row("dramatiq", "store_results=True")
@row("RQ", "job.return_value()")
@row("RQ", "Job.fetch(id)")
@row("Huey", "result()")
async def the_result_by_the_id(kit: Kit) -> None:
    @kit.tq.task
    async def f() -> int:
        return 1

    handle = kit.tq.handle((await f.push()).task_id)
    assert await handle.result(timeout=within(5)) == 1 and await handle.status() == "completed"


@row("Celery", "AsyncResult(id).revoke(terminate=True)")
@row("arq", "job.abort()")
@row("RQ", "job.cancel()")
@row("Huey", "result.revoke()")
async def cancelled(kit: Kit) -> None:
    began = asyncio.Event()

    @kit.tq.task
    async def f() -> None:
        began.set()
        await asyncio.Event().wait()

    handle = await f.push()
    await began.wait()
    assert await kit.tq.cancel(handle.task_id)
    later = [await f.options(delay=60).push() for _ in range(2)]
    assert await later[0].cancel() and await kit.tq.cancel_many(type="f") >= 1
    await kit.drain()
    assert {await each.status() for each in (handle, *later)} == {"cancelled"}


@row("Celery", "bind=True")
@row("arq", 'ctx["job_id"]')
@row("dramatiq", "CurrentMessage.get_current_message()")
@row("RQ", "get_current_job()")
@row("Huey", "@huey.task(context=True)")
async def the_task_in_its_handler(kit: Kit) -> None:
    @kit.tq.task
    async def f() -> tuple[str, int]:
        return current_task().task.task_id, current_task().task.retry_count

    handle = await f.push()
    assert tuple(await ended(kit, handle)) == (handle.task_id, 0)


@row("Celery", 'self.update_state(state="PROGRESS", meta=…)')
@row("RQ", 'job.meta["done"] = 5')
async def progress_is_shown(kit: Kit) -> None:
    @kit.tq.task
    async def f(done: int, total: int, message: str) -> None:
        await current_task().progress(done, total, message)

    handle = await f.push(1, 3, "reading")
    await kit.drain()
    assert await handle.progress() == {"done": 1, "total": 3, "message": "reading"}


@row("Celery", 'rate_limit="10/m"')
@row("dramatiq", 'WindowRateLimiter(backend, "api", limit=10, window=60)')
async def at_most_ten_a_minute(kit: Kit) -> None:
    @kit.tq.task(rate=Rate(10, per=60, name="api"))
    async def f(x: int) -> None: ...

    await kit.tq.push_many([f.call(x) for x in range(30)])
    await kit.advance(minutes=1)
    assert 10 <= await kit.tq.count(status="completed") <= 11
    await kit.advance(minutes=2)
    assert await kit.tq.count(status="completed") == 30


@row("Celery", "ignore_result")
@row("arq", "keep_result=3600")
@row("RQ", "result_ttl=3600")
async def results_are_kept_for_an_hour() -> None:
    async with virtual(TaskQ("sqlite:///app.db"), retention=3600, retention_failed=3600) as kit:

        @kit.tq.task(max_retries=0)
        async def f(x: int) -> int:
            return 1 // x

        handles = [await f.push(1), await f.push(0)]
        await kit.drain()
        assert [await handle.status() for handle in handles] == ["completed", "failed"]
        await kit.advance(days=2)
        assert await kit.tq.count() == 0


@row("Celery", "task_always_eager")
@row("RQ", "Queue(is_async=False)")
@row("Huey", "huey.immediate = True")
async def inside_the_push() -> None:
    tq = TaskQ("sqlite:///app.db")

    @tq.task
    async def f() -> int:
        return 1

    async with aiotaskq.testing.inline(tq):
        assert await (await f.push()).result(timeout=0) == 1


@row("Celery", "@worker_process_init.connect")
@row("arq", 'ctx["client"]')
@row("Huey", "@huey.on_startup()")
async def opened_once_in_a_worker() -> None:
    tq, made = TaskQ("sqlite:///app.db"), list[Client]()

    @tq.resource
    async def client() -> AsyncIterator[Client]:
        made.append(Client())
        yield made[0]

    @tq.task
    async def f(client: Client = injected()) -> bool:
        return client is made[0]

    async with virtual(tq) as kit:
        await f.push()
        assert await ended(kit, await f.push()) and len(made) == 1


@row("Celery", "@task_failure.connect")
@row("dramatiq", "class Timed(dramatiq.Middleware)")
@row("Huey", "@huey.pre_execute()")
@row("Huey", "@huey.signal(SIGNAL_ERROR)")
async def hooks_and_middleware() -> None:
    tq, seen = TaskQ("sqlite:///app.db"), list[str]()

    @tq.on("failed")
    def note(call: HookCall) -> None:
        seen.append(call.name)

    @tq.middleware
    async def around(task: Task, call_next: Callable[[Task], Awaitable[Any]]) -> Any:
        seen.append("began")
        return await call_next(task)

    @tq.task(max_retries=0)
    async def f() -> None:
        raise OSError

    async with virtual(tq) as kit:
        with pytest.raises(TaskFailed):
            await ended(kit, await f.push())
    assert seen == ["began", "failed"]


@row("RQ", "retry=Retry(max=3, interval=[10, 30, 90])")
@row("Huey", "@huey.task(retries=2, retry_delay=60)")
async def pauses(kit: Kit) -> None:
    runs: list[int] = []
    began = kit.clock.now()

    @kit.tq.task(max_retries=3, backoff=Backoff(base=10, factor=3, jitter=False))
    async def growing() -> None:
        runs.append((kit.clock.now() - began) // SECOND)
        raise OSError

    @kit.tq.task(max_retries=2, backoff=60)
    async def fixed() -> None:
        runs.append((kit.clock.now() - began) // SECOND)
        raise OSError

    await growing.push()
    await kit.drain(delayed=True)
    assert runs == [0, 10, 40, 130]
    await fixed.push()
    await kit.drain(delayed=True)
    assert runs[4:] == [130, 190, 250]


@row("Celery", "time_limit=30")
@row("arq", "_expires=60")
@row("arq", "job_timeout=30")
@row("dramatiq", "time_limit=30_000")
@row("dramatiq", "max_age=3_600_000")
@row("RQ", "job_timeout=30")
async def timeouts_and_expiry(kit: Kit) -> None:
    @kit.tq.task(timeout=30, max_retries=0)
    async def f() -> None:
        await asyncio.Event().wait()

    @kit.tq.task(expires=60, queue="mail")
    async def g() -> None: ...

    running = await f.push()
    await kit.tq.pause("mail")
    waiting = await g.push()
    await kit.advance(60)
    assert [await handle.status() for handle in (running, waiting)] == ["failed", "expired"]


@row("dramatiq", 'ConcurrentRateLimiter(backend, "api", limit=5)')
@row("Huey", '@huey.lock_task("report")')
async def at_most_some_at_a_time(kit: Kit) -> None:
    counts = {"api": 0, "report": 0}
    end = asyncio.Event()

    @kit.tq.task(limit=Limit(5, name="api"))
    async def call(x: int) -> None:
        counts["api"] += 1
        await end.wait()

    @kit.tq.task(limit=Limit(1, name="report"))
    async def report(x: int) -> None:
        counts["report"] += 1
        await end.wait()

    @kit.tq.task(unique=True)
    async def once() -> None: ...

    await kit.tq.push_many([task.call(x) for x in range(8) for task in (call, report)])
    assert [(await once.push()).created for _ in range(2)] == [True, False]
    await kit.advance(1)
    assert counts == {"api": 5, "report": 1}
    end.set()
    await kit.drain()
    assert counts == {"api": 8, "report": 8}


@row("dramatiq", "StubBroker")
async def tests_of_tasks() -> None:
    tq = TaskQ("sqlite:///app.db")

    @tq.task
    async def f() -> int:
        return 1

    async with aiotaskq.testing.virtual(tq) as kit:
        handle = await f.push()
        await kit.drain()
        assert await handle.result(timeout=0) == 1


@row("RQ", "FailedJobRegistry")
async def dead_letters(kit: Kit) -> None:
    broken = True

    @kit.tq.task(max_retries=0)
    async def f() -> None:
        if broken:
            raise OSError

    await kit.tq.push_many([f.call() for _ in range(3)])
    await kit.drain()
    failed = await kit.tq.find(status="failed")
    broken = False
    await kit.tq.retry(failed[0].task_id)
    assert len(failed) == 3 and await kit.tq.retry_many(type="f") == 2
    await kit.drain()
    assert await kit.tq.count(status="completed") == 3


@row("Huey", "huey.pending()")
async def what_waits(kit: Kit) -> None:
    @kit.tq.task
    async def f() -> None: ...

    handle = await f.options(delay=60).push()
    assert [task.task_id for task in await kit.tq.find(status="pending")] == [handle.task_id]


@row("Huey", 'huey.put("key", 1)')
async def values_for_all(kit: Kit) -> None:
    await kit.tq.values.set_public("key", 1)
    assert await kit.tq.values.get_public("key") == 1
