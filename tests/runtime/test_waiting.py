"""Why a task waits: each reason, in the order in which a task passes them, in memory and in a SQL store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from aiotaskq import Limit, Rate, TaskQ, Workflow
from aiotaskq.app.handle import TaskCall
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core.task import SECOND
from aiotaskq.runtime.waiting import Waiting, look, waiting
from aiotaskq.runtime.waiting import why as reasons
from tests.support.backends import sqlite
from tests.support.rows import worker_info


@pytest.fixture(params=["memory", "sqlite"])
async def tq(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[TaskQ]:
    url = "memory://"
    if request.param == "sqlite":
        async with sqlite(tmp_path) as store:
            url = store.url
    async with TaskQ(url) as tq:

        @tq.task
        async def plain() -> None: ...

        @tq.task(limit=Limit(1, key="tenant"))
        async def limited(tenant: str) -> None: ...

        @tq.task(rate=Rate(1, per=3600, key="api"))
        async def rated(api: str) -> None: ...

        yield tq


async def why(tq: TaskQ, task_id: str) -> Waiting:
    found = await waiting(tq.queue, await tq.get(task_id))
    assert found is not None
    return found


def _call() -> TaskCall[Any]:
    return TaskCall("plain", {}, {})


async def pushed(tq: TaskQ, type: str, params: dict[str, Any] | None = None, **options: Any) -> str:
    return (await tq.push(type, params or {}, **options)).task_id


async def test_a_ready_task_waits_for_a_worker(tq: TaskQ) -> None:
    first, second = await pushed(tq, "plain"), await pushed(tq, "plain")
    found = await why(tq, second)
    assert (found.reason, found.ahead, found.workers) == ("ready", 2, None if tq.url == "memory://" else 0)
    await tq.cancel(first)
    assert await waiting(tq.queue, await tq.get(first)) is None


async def test_a_quiet_worker_claims_nothing_that_waits(tq: TaskQ) -> None:
    registry = tq.queue.backend.workers
    if registry is None:
        assert tq.url == "memory://"
        return
    task_id, now = await pushed(tq, "plain"), tq.queue.clock.now()
    await registry.register(worker_info("a", lease_until=now + 60 * SECOND, concurrency=3))
    await registry.register(worker_info("b", lease_until=now + 60 * SECOND, concurrency=4))
    assert ((await why(tq, task_id)).workers, (await why(tq, task_id)).slots) == (2, 7)
    await tq.workers.quiet("a")
    assert ((await why(tq, task_id)).workers, (await why(tq, task_id)).slots) == (1, 4)


async def test_a_delay_and_a_retry_have_a_time(tq: TaskQ) -> None:
    task_id = await pushed(tq, "plain", delay=60)
    found = await why(tq, task_id)
    assert found.reason == "delayed" and found.until is not None
    assert 50 < (found.until - tq.queue.clock.now()) / SECOND <= 60
    task = (await tq.get(task_id)).replace(retry_count=1)
    again = await waiting(tq.queue, task)
    assert again is not None and again.reason == "retry"


async def test_a_paused_queue_comes_first(tq: TaskQ) -> None:
    task_id = await pushed(tq, "limited", {"tenant": "a"}, delay=60)
    await tq.pause()
    assert (await why(tq, task_id)).reason == "paused"


async def test_a_limit_is_full_paused_or_its_rate_is_used_up(tq: TaskQ) -> None:
    _, second = [await pushed(tq, "limited", {"tenant": "a"}) for _ in range(2)]
    found = await why(tq, second)
    assert found.reason == "full" and found.limit is not None
    assert (found.limit.key, found.limit.held, found.limit.waiting) == ("tenant:a", 1, 1)
    await tq.limits.pause("tenant:a")
    closed = await why(tq, second)
    assert (closed.reason, closed.until) == ("limit_paused", None)
    await tq.limits.pause("tenant:a", 100)
    bounded = await why(tq, second)
    assert bounded.reason == "limit_paused" and bounded.until is not None
    _, later = [await pushed(tq, "rated", {"api": "x"}) for _ in range(2)]
    rate = await why(tq, later)
    assert rate.reason == "rate" and rate.until is not None
    assert 3500 < (rate.until - tq.queue.clock.now()) / SECOND <= 3600


async def test_a_child_names_the_parents_that_have_not_ended(tq: TaskQ) -> None:
    flow = Workflow()
    flow.add("charge", _call())
    flow.add("reserve", _call())
    flow.add("ship", _call(), after=["charge", "reserve"])
    group = await tq.start(flow)
    ship, charge = await group.task("ship"), await group.task("charge")
    found = await why(tq, ship.task_id)
    assert found.reason == "parents"
    assert [(each.name, each.status) for each in found.parents] == [("charge", "pending"), ("reserve", "pending")]
    assert found.parents[0].task_id == charge.task_id
    await charge.cancel()
    await tq.retry(ship.task_id)
    alone = await why(tq, ship.task_id)
    assert [(each.name, each.status) for each in alone.parents] == [("charge", "cancelled"), ("reserve", "pending")]


async def test_a_task_that_no_worker_knows_says_so(tq: TaskQ) -> None:
    now = tq.queue.clock.now()
    task = (await tq.get(await pushed(tq, "plain"))).replace(due_at=now - SECOND, run_at=now + 30 * SECOND)
    found = await waiting(tq.queue, task)
    assert found == Waiting(reason="unknown_type", until=now + 30 * SECOND)


async def test_a_ready_task_whose_type_no_worker_knows_says_so(tq: TaskQ) -> None:
    registry = tq.queue.backend.workers
    if registry is None:
        assert tq.url == "memory://"
        return
    tq.elsewhere("legacy")
    task_id, now = await pushed(tq, "legacy"), tq.queue.clock.now()
    until = now + 60 * SECOND
    await registry.register(worker_info("a", lease_until=until, types=("plain",)))
    await registry.register(worker_info("b", lease_until=until, queues=("other",), types=("legacy",)))
    assert await why(tq, task_id) == Waiting(reason="unknown_type")
    put_off = (await tq.get(task_id)).replace(due_at=now - SECOND, run_at=now + 30 * SECOND)
    assert await waiting(tq.queue, put_off) == Waiting(reason="unknown_type", until=put_off.run_at)
    await registry.register(worker_info("c", lease_until=until, types=("legacy", "plain")))
    assert (await why(tq, task_id)).reason == "ready"
    assert await waiting(tq.queue, put_off) == Waiting(reason="delayed", until=put_off.run_at)
    await tq.workers.quiet("c")
    assert (await why(tq, task_id)).reason == "unknown_type"
    await registry.register(worker_info("d", lease_until=until))  # it does not tell what it can run
    assert (await why(tq, task_id)).reason == "ready"


async def test_why_several_tasks_wait_takes_few_reads(tq: TaskQ) -> None:
    flow = Workflow()
    flow.add("first", _call())
    flow.add("second", _call(), after=["first"])
    group = await tq.start(flow)
    ids = [await pushed(tq, "limited", {"tenant": tenant}) for tenant in "aabbcc"]
    ids += [await pushed(tq, "plain", delay=60), await pushed(tq, "plain"), (await group.task("second")).task_id]
    await tq.push("plain", {}, queue="held")
    await tq.pause("held")
    ids += [task.task_id for task in await tq.find(queue="held")]
    tasks = [await tq.get(task_id) for task_id in ids]
    now = tq.queue.clock.now()
    seen = await look(tq.queue, tasks, now)
    assert sorted(seen.limits) == ["tenant:a", "tenant:b", "tenant:c"]
    found = [reasons(task, seen, now) for task in tasks]
    reason = ["ready", "full"] * 3 + ["delayed", "ready", "parents", "paused"]
    assert [each and each.reason for each in found] == reason
    assert (found[8] and found[8].behind) == 1
    assert reasons(tasks[0].replace(status="completed"), seen, now) is None


async def test_a_task_whose_rate_would_let_it_pass_waits_for_a_worker(tmp_path: Path) -> None:
    clock = VirtualClock()
    async with sqlite(tmp_path) as store, TaskQ(store.url, clock=clock) as tq:

        @tq.task(rate=Rate(1, per=10, name="api"))
        async def call() -> None: ...

        await call.push()
        task_id = (await call.push()).task_id
        assert (await why(tq, task_id)).reason == "rate"
        await clock.advance(10)
        found = await why(tq, task_id)
        assert (found.reason, found.workers, found.limit is not None) == ("ready", 0, True)
        registry = tq.queue.backend.workers
        assert registry is not None
        await registry.register(worker_info("a", lease_until=clock.now() + 60 * SECOND))
        assert (await why(tq, task_id)).reason == "passing"
