"""aiotaskq: a task queue and scheduler inside an asyncio application; the blocking twins are in ``aiotaskq.sync``."""

from __future__ import annotations

import importlib
import typing

from aiotaskq.app.groups import GroupHandle, Workflow, chain, group
from aiotaskq.app.handle import TaskCall, TaskFunction, TaskHandle
from aiotaskq.app.legacy import (
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
from aiotaskq.app.registry import injected
from aiotaskq.app.settings import configure
from aiotaskq.app.taskq import TaskQ
from aiotaskq.backends.base import InvalidRow
from aiotaskq.core.backoff import Backoff
from aiotaskq.core.codec import Chain, Codec, Fernet, Zlib, Zstd
from aiotaskq.core.history import Period
from aiotaskq.core.limits import Fair, Limit, Rate
from aiotaskq.core.notes import Note
from aiotaskq.core.parent import Parent
from aiotaskq.core.schedule import Schedule
from aiotaskq.core.steps import EventValue, Step
from aiotaskq.core.task import Attempt, Status, Task
from aiotaskq.errors import (
    AiotaskqError,
    BatchFailed,
    CallTimeout,
    ClosedError,
    CronError,
    DatabaseUnavailable,
    EventTimeout,
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
from aiotaskq.runtime.context import TaskContext, current_batch, current_task
from aiotaskq.runtime.events import Event
from aiotaskq.runtime.limits import LimitState
from aiotaskq.runtime.queue.groups import GroupProgress, MemberResult
from aiotaskq.runtime.queue.operations import Stats
from aiotaskq.runtime.steps import sleep_for, sleep_until, step, wait_event
from aiotaskq.runtime.worker.worker import ExitCode

if typing.TYPE_CHECKING:
    from aiotaskq.database import Base, SessionLocal, engine, get_db

    DATABASE_URL: str

# DATABASE_URL is not in `__all__`: `import *` would read it, and reading it fixes the settings of the process.
__version__ = "0.1.0"

__all__ = [
    "AiotaskqError",
    "Attempt",
    "Backoff",
    "Base",
    "BatchFailed",
    "CallTimeout",
    "Chain",
    "ClosedError",
    "Codec",
    "CronError",
    "DatabaseQueue",
    "DatabaseUnavailable",
    "Event",
    "EventTimeout",
    "EventValue",
    "ExitCode",
    "Fair",
    "Fernet",
    "GroupHandle",
    "GroupProgress",
    "InvalidRow",
    "LeaseLost",
    "Limit",
    "LimitState",
    "MemberResult",
    "MemoryQueue",
    "MissingExtra",
    "NoOpenTask",
    "NotFound",
    "NotSupported",
    "Note",
    "Parent",
    "Period",
    "QueueFull",
    "Rate",
    "RedisQueue",
    "ResultTimeout",
    "Schedule",
    "Scheduler",
    "SchemaTooNew",
    "SessionLocal",
    "Stats",
    "Status",
    "Step",
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
    "Workflow",
    "WrongLoop",
    "Zlib",
    "Zstd",
    "chain",
    "configure",
    "current_batch",
    "current_task",
    "delete_public",
    "engine",
    "get_db",
    "get_public",
    "get_queue",
    "get_scheduler",
    "group",
    "injected",
    "pop_task",
    "preview",
    "push_task",
    "set_public",
    "sleep_for",
    "sleep_until",
    "step",
    "wait_event",
]


def __getattr__(name: str) -> typing.Any:
    # Imported on use, so that a program without a database does not import SQLAlchemy.
    if name in ("Base", "DATABASE_URL", "SessionLocal", "engine", "get_db"):
        return getattr(importlib.import_module("aiotaskq.database"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
