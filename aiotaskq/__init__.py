"""aiotaskq: a task queue and scheduler inside an asyncio application; the blocking twins are in ``aiotaskq.sync``."""

from __future__ import annotations

from datetime import datetime as _datetime
from datetime import timedelta as _timedelta

from loguru import logger as _logger

from aiotaskq.backends.base import OddRow
from aiotaskq.clock import SystemClock as _SystemClock
from aiotaskq.context import TaskContext, current_task
from aiotaskq.documented import (
    DatabaseQueue,
    MemoryQueue,
    RedisQueue,
    Scheduler,
    delete_public,
    get_public,
    get_queue,
    get_scheduler,
    pop_task,
    push_task,
    set_public,
)
from aiotaskq.errors import (
    AiotaskqError,
    CallTimeout,
    ClosedError,
    CronError,
    DatabaseUnavailable,
    LeaseLost,
    MissingExtra,
    NoOpenTask,
    NotFound,
    NotSupported,
    QueueFull,
    ResultTimeout,
    SchemaTooNew,
    TaskConflict,
    TaskFailed,
    UnknownHandler,
    ValidationError,
    WrongLoop,
)
from aiotaskq.events import Event
from aiotaskq.handles import TaskCall, TaskFunction, TaskHandle
from aiotaskq.outcome import Backoff
from aiotaskq.queue import Stats
from aiotaskq.registry import injected
from aiotaskq.schedule import Schedule
from aiotaskq.schedule import preview as _preview
from aiotaskq.task import Status, Task
from aiotaskq.taskq import TaskQ
from aiotaskq.worker import ExitCode

__version__ = "0.1.0"

__all__ = [
    "AiotaskqError",
    "Backoff",
    "CallTimeout",
    "ClosedError",
    "CronError",
    "DatabaseQueue",
    "DatabaseUnavailable",
    "Event",
    "ExitCode",
    "LeaseLost",
    "MemoryQueue",
    "MissingExtra",
    "NoOpenTask",
    "NotFound",
    "NotSupported",
    "OddRow",
    "QueueFull",
    "RedisQueue",
    "ResultTimeout",
    "Schedule",
    "Scheduler",
    "SchemaTooNew",
    "Stats",
    "Status",
    "Task",
    "TaskCall",
    "TaskConflict",
    "TaskContext",
    "TaskFailed",
    "TaskFunction",
    "TaskHandle",
    "TaskQ",
    "UnknownHandler",
    "ValidationError",
    "WrongLoop",
    "current_task",
    "delete_public",
    "get_public",
    "get_queue",
    "get_scheduler",
    "injected",
    "pop_task",
    "preview",
    "push_task",
    "set_public",
]

# A library is silent until the application asks: logger.enable("aiotaskq").
_logger.disable("aiotaskq")


def preview(
    *,
    cron: str | None = None,
    interval: int | _timedelta | None = None,
    at: float | _datetime | None = None,
    timezone: str | None = None,
    after: _datetime | None = None,
    count: int = 5,
) -> list[_datetime]:
    """Return the next ``count`` instants of a schedule, strictly after ``after`` (default now), as aware datetimes.

    Exactly one of ``cron``, ``interval`` (seconds or timedelta) and ``at``; ``timezone`` is an IANA name, default the
    system's. Raises ValidationError (CronError for a cron expression) naming the argument.
    """
    return _preview(
        cron=cron, interval=interval, at=at, timezone=timezone, after=after, count=count, now=_SystemClock().now()
    )
