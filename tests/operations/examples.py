"""A store with one thing of each kind, and an example of each operation on it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from aiotaskq.app.handle import TaskCall
from aiotaskq.app.taskq import TaskQ
from aiotaskq.core.history import MINUTE, Sums, begin_of
from aiotaskq.core.limits import Limit
from aiotaskq.core.schedule import new_schedule
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, new_task
from aiotaskq.core.worker_info import RunStack, WorkerStack
from aiotaskq.operations.schedules import fields_seen
from aiotaskq.runtime.audit import audit
from tests.support.rows import worker_info

WORKER = "worker-db1-4242-0b5c1f"
AT = 4_000_000_000  # epoch seconds


@dataclass(frozen=True)
class Example:
    """One call of an operation, which must be possible on the store of ``fill``."""

    given: dict[str, Any] = field(default_factory=dict)
    missing: str | None = None
    """The name of a thing that is not there, where the operation needs one that is."""
    form: dict[str, str] = field(default_factory=dict)
    """Fields of the dashboard's form that differ from ``given``."""


DONE = {"dry_run": False}  # by default an assistant only counts
LIVE = ["pending", "running"]
SEEN = fields_seen(
    new_schedule("nightly", "a", "cron", None, None, "0 2 * * *", timezone="UTC", task_id="n1", now=0), True
)
"""What a form shows of the schedule."""
NIGHTLY = {"schedule": "nightly"}


EXAMPLES: dict[str, Example] = {
    "tasks.push": Example({"type": "a", "params": {"n": 1}, "task_id": "new-1"}, form={"params": '{"n": 1}'}),
    "tasks.list": Example({"status": ["pending"], "limit": 1, "params": True}),
    "tasks.get": Example({"task_id": "pending-1"}, "none"),
    "tasks.steps": Example({"task_id": "pending-1"}, "none"),
    "tasks.edit": Example({"task_id": "pending-1", "priority": 3}, "none"),
    "tasks.run_now": Example({"task_id": "later-1"}, "none"),
    "tasks.retry": Example({"task_id": "ended-1"}, "none"),
    "tasks.retry_many": Example({"status": ["cancelled"], **DONE}, form={"which": "all", "status": "cancelled"}),
    "tasks.rerun": Example({"task_id": "ended-1"}, "none"),
    "tasks.cancel": Example({"task_id": "pending-1"}, "none"),
    "tasks.cancel_many": Example({"status": LIVE, "type": "a", **DONE}, form={"which": "all", "status": ""}),
    "tasks.delete": Example({"task_id": "ended-1"}, "none"),
    "tasks.delete_many": Example({"status": ["cancelled"], **DONE}, form={"which": "all", "status": "cancelled"}),
    "failures.list": Example({"type": "c", "limit": 9}),
    "queues.list": Example(),
    "queues.pause": Example({"queue": "mail"}),
    "queues.resume": Example({"queue": "slow"}),
    "groups.list": Example({"status": ["running"], "limit": 1}),
    "groups.get": Example({"group_id": "night"}, "none"),
    "groups.cancel": Example({"group_id": "night"}, "none"),
    "groups.budget": Example({"group_id": "night", "budget": {"tokens": 20}}, "none", {"budget": '{"tokens": 20}'}),
    "groups.retry": Example({"group_id": "past"}, "none"),
    "groups.mend": Example(),
    "limits.list": Example({"prefix": "tenant"}),
    "limits.get": Example({"key": "tenant:42"}, "none"),
    "limits.set": Example({"key": "tenant:42", "cap": None, "max_waiting": 9}, form={"cap": ""}),
    "limits.pause": Example({"key": "tenant:42"}),
    "limits.resume": Example({"key": "tenant:42"}),
    "limits.reset": Example({"key": "tenant:42"}),
    "workers.list": Example(),
    "workers.get": Example({"worker_id": WORKER}, "none"),
    "workers.stack": Example({"worker_id": WORKER, "within": 5.0}, "none"),
    "workers.quiet": Example({"worker_id": WORKER}, "none"),
    "workers.quiet_many": Example(DONE),
    "workers.wake": Example({"worker_id": WORKER}, "none"),
    "workers.wake_many": Example(DONE),
    "workers.resize": Example({"worker_id": WORKER, "concurrency": 4}, "none"),
    "events.list": Example({"prefix": "app"}),
    "events.get": Example({"key": "approved:17"}, "none"),
    "events.emit": Example({"key": "approved:18", "value": {"by": "é"}}, form={"value": '{"by": "é"}'}),
    "values.list": Example({"limit": 1}),
    "values.get": Example({"key": "cookie"}, "none"),
    "values.set": Example({"key": "rate", "value": [1.5], "ttl": 60}, form={"value": "[1.5]"}),
    "values.delete": Example({"key": "cookie"}, "none"),
    "schedules.list": Example({"enabled": True}),
    "schedules.preview": Example({**NIGHTLY, "count": 2}),
    "schedules.get": Example(NIGHTLY, "none"),
    "schedules.add": Example(
        {"name": "hourly", "type": "a", "interval": 3600, "params": {"n": 1}, "schedule_id": "hourly"},
        form={"schedule_type": "interval", "timing": "3600", "params": '{"n": 1}'},
    ),
    "schedules.update": Example({**NIGHTLY, "priority": 3}, "none", {"seen": SEEN}),
    "schedules.pause": Example(NIGHTLY, "none"),
    "schedules.resume": Example(NIGHTLY, "none"),
    "schedules.delete": Example(NIGHTLY, "none"),
    "schedules.run_now": Example(NIGHTLY, "none"),
    "schedules.history": Example(NIGHTLY, "none"),
    "schedules.backfill": Example(
        {**NIGHTLY, "since": "2026-01-05T00:00:00Z", "until": "2026-01-07T00:00:00Z"}, "none"
    ),
    "history.list": Example({"type": "a", "step": 3600}),
    "audit.list": Example({"target": "mail"}),
    "stats.get": Example(),
    "scale.get": Example({"queue": "mail", "within": 30.0}),
}


def fill(url: str) -> None:
    """Write the things that the examples are about."""

    async def main() -> None:
        async with TaskQ(url) as tq:
            await tq.push("a", {"tenant": 42}, task_id="pending-1", queue="mail", limit=Limit(2, key="tenant"))
            await tq.push("a", {"tenant": 42}, task_id="later-1", delay=3600)
            await tq.push("b", {"tenant": 42}, task_id="ended-1", queue="mail", limit=Limit(2, key="tenant"))
            await tq.cancel("ended-1")
            await tq.group([TaskCall("a", {}, {}), TaskCall("b", {}, {})], group_id="night", budget={"tokens": 10})
            past = await tq.group([TaskCall("c", {}, {})], group_id="past")
            await past.cancel()
            failed = new_task("c", {}, now=tq.queue.clock.now(), task_id="failed-1")
            ended = failed.replace(status=Status.FAILED, completed_at=AT, error_message="KeyError: 'order-17'")
            await tq.queue.backend.push([ended])
            await tq.pause("slow")
            await tq.schedules.add("nightly", "a", cron="0 2 * * *", timezone="UTC", schedule_id="n1")
            await tq.emit("approved:17", {"by": "boss"})
            await tq.values.set_public("cookie", {"a": 1})
            now, registry = tq.queue.clock.now(), tq.queue.backend.workers
            assert registry is not None
            await registry.register(
                worker_info(WORKER, concurrency=2, started_at=now, seen_at=now, lease_until=now + 3600 * SECOND)
            )
            stood = RunStack("a", "a", now, 1, "process", ("shop.py:7 pay",), (4242,))
            await registry.answer(WORKER, WorkerStack(AT * SECOND, AT * SECOND, (stood,)))
            sums = Sums()
            sums.add_runs([250_000], [10_000])
            at = begin_of(now - MINUTE * SECOND, MINUTE)
            await tq.queue.backend.history.add([sums.period((at, MINUTE, "mail", "a", "completed", ""))])
            await audit(tq.queue, "cli", "queues.pause", "mara", ["mail"])

    asyncio.run(main())
