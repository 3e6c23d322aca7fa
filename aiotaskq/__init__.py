"""aiotaskq: a task queue and scheduler inside an asyncio application; the blocking twins are in ``aiotaskq.sync``."""

from __future__ import annotations

from aiotaskq.backends.base import OddRow
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
    preview,
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
from aiotaskq.log import logger as _logger
from aiotaskq.outcome import Backoff
from aiotaskq.queue import Stats
from aiotaskq.registry import injected
from aiotaskq.schedule import Schedule
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
