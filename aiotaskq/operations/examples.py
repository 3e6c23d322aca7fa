"""Examples for the documentation: what an operation is given; and what it answers, made from the type of the answer."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import inspect

from aiotaskq.core.instants import from_iso
from aiotaskq.core.schedule import new_schedule
from aiotaskq.operations.schedules import schedule_view
from aiotaskq.operations.table import MANY, Operation

TASK = "019ab0a4-6f00-7c3a-9d2e-3f6f3f8a2b11"
AT = "2026-01-31T08:00:00Z"
GIVEN: dict[str, dict[str, Any]] = {
    "tasks.push": {
        "type": "send_mail",
        "params": {"to": "you@example.com"},
        "delay": 60,
        "idempotency_key": "order-17",
    },
    "tasks.edit": {"priority": -1, "delay": 0.0},
    "tasks.rerun": {"params": {"to": "me@example.com"}},
    "tasks.retry_many": {"status": ["failed"], "type": "send_mail"},
    "tasks.cancel_many": {"type": "send_mail"},
    "tasks.delete_many": {"status": ["completed"], "older_than": 86_400.0},
    "schedules.add": {"name": "Nightly report", "type": "report", "cron": "0 2 * * *", "timezone": "Asia/Shanghai"},
    "schedules.update": {"cron": "30 2 * * *", "max_runs": 10},
    "schedules.backfill": {"since": "2026-01-28T00:00:00Z", "until": "2026-01-31T00:00:00Z"},
    "groups.budget": {"budget": {"tokens": 2_000_000}},
    "limits.set": {"cap": 5},
    "limits.pause": {"seconds": 60},
    "workers.resize": {"concurrency": 4},
    "events.emit": {"value": {"by": "boss"}},
    "values.set": {"value": 1.08, "ttl": 3600},
}
"""Parameters beside the thing, by the name of an operation that changes something."""

COMMON: dict[str, Any] = {
    **dict.fromkeys(("task_id", "group_id", "rerun_of"), TASK),
    **dict.fromkeys(("created_at", "run_at", "at", "due", "start", "first_at", "last_at"), AT),
    **dict.fromkeys(("began_at", "started_at"), "2026-01-31T08:00:14.500000Z"),
    **dict.fromkeys(("ended_at", "completed_at"), "2026-01-31T08:00:15Z"),
    **dict.fromkeys(("run_p50", "run_p95", "run_p99", "wait_p50", "wait_p95", "wait_p99", "oldest_age"), 0.25),
    **dict.fromkeys(("count", "waiting", "n"), 17),
    **dict.fromkeys(("max_retries", "retry_count"), 3),
    **dict.fromkeys(("seconds", "ttl", "timeout"), 60),
    "schedule_id": "nightly-report",
    "type": "send_mail",
    "task_type": "report",
    "name": "order 1",
    "queue": "mail",
    "status": "failed",
    "created": True,
    "run_time": 0.5,
    "error": "ConnectionError",
    "progress": {"done": 1, "total": 2},
    "usage": {"tokens": 1200, "cost": 0.018},
    "times": [AT],
    "outcome": "failed",
    "key": "tenant:42",
    "cap": 5,
    "held": 5,
    "keys": ["cookie", "rate:eur"],
    "workers": 1,
    "id": "worker-db1-4242-0b5c1f",
    "host": "db1",
    "pid": 4242,
    "action": "queues.pause",
    "actor": "mara",
}
"""Values of fields, by their names."""
TIMING: dict[str, Any] = {"cron_expression": "0 2 * * *", "timezone": "Asia/Shanghai"}
NIGHTLY = new_schedule("Nightly report", "report", "cron", **TIMING, task_id="nightly-report", now=from_iso(AT))
OF: dict[str, dict[str, Any]] = {
    "TaskState": {"status": "pending"},
    "TaskDetail": {"waiting": None, "params": {"to": "you@example.com"}},
    "GroupView": {"total": 2, "failed": 1, "cancelled": 1, "generation": 1, "budget": {"tokens": 1_000_000}},
    "ScheduleView": msgspec.to_builtins(schedule_view(NIGHTLY)),
    "FiringView": {"outcome": "fired", "count": 1},
    "EventView": {"key": "approved:17"},
    "Emitted": {"key": "approved:17", "emitted": True},
    "Value": {"key": "rate:eur", "value": 1.08},
    "ValueName": {"key": "rate:eur"},
    "StepView": {"kind": "step", "name": "charge", "number": 1},
    "WorkerView": {"kind": "worker", "concurrency": 10, "busy": 1, "types": ["send_mail"], "tasks": 1},
    "TotalView": {"kind": "completed", "usage": {}},
    "FailureView": {"error": "KeyError: 'order-#'", "periods": [0, 5, 12]},
    "FailureList": {"begin": AT, "errors": 1, "read": 17, "seconds": 3600},
    "AuditView": {"door": "dashboard", "targets": ["mail"], "count": 1},
    "StatsView": {"counts": {"pending": 2, "completed": 40}, "ready": 1, "queues": {"mail": {"pending": 2}}},
}
"""Values of fields of one answer, or of what is made from it, where those differ from the common ones."""

AFTER: dict[str, dict[str, Any]] = {
    "tasks.cancel": {"status": "cancelled"},
    "tasks.rerun": {"task_id": f"{TASK[:-1]}2"},
    "schedules.pause": {"enabled": False},
    "schedules.backfill": {"pushed": True},
    "queues.pause": {"paused": True},
    "groups.cancel": {"status": "running", "remaining": 1, "cancel_requested": True, "ended_at": None},
    "groups.retry": {"retried": 2},
    "limits.pause": {"state": "paused"},
    "workers.quiet": {"quiet": True},
    "workers.resize": {"wanted_concurrency": 4},
}
"""Values of fields of the answer to one operation, where those differ."""


def given(operation: Operation) -> dict[str, Any] | None:
    """Return an example of the parameters beside the thing; None where there need not be any."""
    found = GIVEN.get(operation.name)
    return (found or {}) | {"dry_run": True} if operation.name.endswith(MANY) else found


def answer(operation: Operation) -> Any:
    """Return an example of the answer as JSON."""
    found = _example("", inspect.type_info(operation.answer)) | AFTER.get(operation.name, {})
    if operation.name.endswith(MANY):
        found["dry_run"] = True
    return msgspec.to_builtins(msgspec.convert(found, operation.answer))


def _example(name: str, kind: inspect.Type) -> Any:
    """Return an example of a field, as short as its type allows where none is written down for its name."""
    match kind:
        case inspect.Metadata():
            return _example(name, kind.type)
        case inspect.StructType():
            own: dict[str, Any] = {}
            for each in reversed(kind.cls.__mro__):
                own |= OF.get(each.__name__, {})
            known = {*own, *COMMON}
            fields = [each for each in kind.fields if each.required or each.name in known]
            return {
                each.name: own[each.name] if each.name in own else _example(each.name, each.type) for each in fields
            }
        case inspect.ListType(item_type=inspect.StructType()):
            return [_example(name, kind.item_type)]
    if name in COMMON:
        return COMMON[name]
    match kind:
        case inspect.UnionType():
            return None if kind.includes_none else _example(name, kind.types[0])
        case inspect.EnumType():
            return next(iter(kind.cls)).value
        case inspect.LiteralType():
            return kind.values[0]
        case inspect.StrType() | inspect.AnyType():
            return name
    return {inspect.ListType: [], inspect.DictType: {}, inspect.BoolType: False}.get(type(kind), 0)
