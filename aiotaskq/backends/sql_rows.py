"""Between rows and values: the only place that knows which column holds what."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Row

from aiotaskq.models import SchedulerTask, TaskQueue
from aiotaskq.schedule import Schedule
from aiotaskq.task import Status, Task

TASKS: Any = TaskQueue.__table__  # a Table; the declarative stubs say only FromClause
SCHEDULES: Any = SchedulerTask.__table__
LIVE = (Status.PENDING, Status.RUNNING)

_encode = msgspec.json.encode
_decode = msgspec.json.decode
_STATUS: dict[object, Any] = {str(status): status for status in Status} | {None: Status.PENDING}


def json_text(value: Any) -> str:
    """Return JSON text."""
    return _encode(value).decode()


def content(task: Task) -> dict[str, Any]:
    """Return the columns that a push sets for good, except after it is handed back."""
    return {
        "task_type": task.type,
        "params": json_text(task.params),
        "extra": json_text(task.extra) if task.extra else None,
    }


def state(task: Task) -> dict[str, Any]:
    """Return the columns that change in a task's life."""
    return {
        "status": str(task.status),
        "priority": task.priority,
        "retry_count": task.retry_count,
        "max_retries": task.max_retries,
        "started_at": task.started_at,
        "completed_at": task.completed_at,
        "error_message": task.error_message,
        "queue": task.queue,
        "run_at": task.run_at,
        "seq": task.seq,
        "expires_at": task.expires_at,
        "crashes": task.crashes,
        "lease_owner": task.lease_owner,
        "lease_until": task.lease_until,
        "live_key": task.unique_key if task.status in LIVE else None,
        "result": None if task.result is None else json_text(task.result),
        "cancel_requested": task.cancel_requested,
    }


def new_row(task: Task) -> dict[str, Any]:
    """Return all columns of a task."""
    return {
        "task_id": task.task_id,
        "created_at": task.created_at,
        "scheduler_task_id": task.scheduler_task_id,
        "timeout": task.timeout,
        "fence": task.fence,
        "unique_key": task.unique_key,
        "idempotency_key": task.idempotency_key,
        "progress": None if task.progress is None else json_text(task.progress),
        "on_success": task.on_success,
        "on_failure": task.on_failure,
        **content(task),
        **state(task),
    }


def to_task(row: Row[Any]) -> Task:
    """Return the task of a full row of ``task_queue``; what cannot be read is said in ``undecodable``."""
    m = row._mapping
    params, problem = _object("params", m["params"])
    extra, extra_problem = _object("extra", m["extra"])
    return Task(
        task_id=m["task_id"],
        type=m["task_type"],
        params=params,
        status=_STATUS.get(m["status"], m["status"]),
        priority=_int(m["priority"], 0),
        retry_count=_int(m["retry_count"], 0),
        max_retries=_int(m["max_retries"], 3),
        created_at=_int(m["created_at"], 0),
        started_at=m["started_at"],
        completed_at=m["completed_at"],
        error_message=m["error_message"],
        scheduler_task_id=m["scheduler_task_id"],
        queue=m["queue"],
        run_at=m["run_at"],
        seq=m["seq"],
        expires_at=m["expires_at"],
        timeout=m["timeout"],
        fence=m["fence"],
        crashes=m["crashes"],
        lease_owner=m["lease_owner"],
        lease_until=m["lease_until"],
        unique_key=m["unique_key"],
        idempotency_key=m["idempotency_key"],
        result=_value(m["result"]),
        progress=_value(m["progress"]),
        cancel_requested=bool(m["cancel_requested"]),
        on_success=m["on_success"],
        on_failure=m["on_failure"],
        extra=extra,
        undecodable=problem or extra_problem,
    )


def _int(value: Any, default: int) -> int:
    # SQLite stores text in an INT column if somebody puts it there.
    return value if type(value) is int else default


def _object(column: str, text: str | None) -> tuple[dict[str, Any], str | None]:
    if text is None:
        return {}, None
    try:
        value = _decode(text)
    except (msgspec.DecodeError, TypeError, UnicodeError, RecursionError) as error:
        return {}, f"{column} is not JSON: {error}"
    if not isinstance(value, dict):
        return {}, f"{column} is not a JSON object but {type(value).__name__}"
    return value, None


def _value(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return _decode(text)
    except (msgspec.DecodeError, TypeError, UnicodeError, RecursionError):
        return None  # a result that somebody else wrote; the text stays in the row


_tasks = msgspec.json.Decoder(tuple[Task, ...]).decode


def schedule_row(schedule: Schedule) -> dict[str, Any]:
    """Return all columns of a schedule."""
    row = msgspec.structs.asdict(schedule)
    row["params"] = json_text(schedule.params)
    row["outbox"] = json_text(schedule.outbox) if schedule.outbox else None
    return {column.name: row[column.name] for column in SCHEDULES.columns if column.name in row}


_NAMES = tuple(column.name for column in SCHEDULES.columns)
_FIELDS = tuple(name for name in _NAMES if name not in ("task_id", "version"))


def changed_columns(before: Schedule, after: Schedule) -> dict[str, Any]:
    """Return those columns of a schedule that are others now."""
    row = {name: new for name in _FIELDS if (new := getattr(after, name)) != getattr(before, name)}
    row["enabled"] = after.enabled  # a row that cannot be decoded was read as a disabled one
    if "params" in row:
        row["params"] = json_text(after.params)
    if "outbox" in row:
        row["outbox"] = json_text(after.outbox) if after.outbox else None
    return row


def to_schedule(row: Row[Any]) -> Schedule:
    """Return the schedule of a full row of ``scheduler_task``."""
    known = dict(zip(_NAMES, row, strict=True))
    params, problem = _object("params", known.pop("params"))
    outbox = known.pop("outbox")
    defaults = {"run_count": 0, "max_runs": 0, "misfire": "fire_once", "overlap": "allow"}
    known.update({name: value for name, value in defaults.items() if known[name] is None})
    known["enabled"] = bool(known["enabled"]) and problem is None
    return Schedule(params=params, outbox=_tasks(outbox) if outbox else (), **known)
