"""The blocking twins of everything in ``aiotaskq``, under the same names: for threads, scripts and older code.

One event loop in a background thread serves the process. A call from a thread that runs an event loop raises WrongLoop,
and the message names what to await instead.
"""

from __future__ import annotations

import typing

from aiotaskq.app.groups import Workflow, chain, group
from aiotaskq.app.handle import TaskCall
from aiotaskq.app.legacy import preview
from aiotaskq.app.registry import injected
from aiotaskq.app.settings import configure
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
from aiotaskq.runtime.events import Event
from aiotaskq.runtime.limits import LimitState
from aiotaskq.runtime.queue.groups import GroupProgress, MemberResult
from aiotaskq.runtime.queue.operations import Stats
from aiotaskq.runtime.worker.worker import ExitCode
from aiotaskq.sync.facades import (
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
    sleep_for,
    sleep_until,
    step,
    wait_event,
)
from aiotaskq.sync.taskq import GroupHandle, TaskContext, TaskFunction, TaskHandle, TaskQ, current_batch, current_task

if typing.TYPE_CHECKING:
    from aiotaskq.sync.session import Base, SessionLocal, engine, get_db

    DATABASE_URL: str

# DATABASE_URL is not in `__all__`: `import *` would read it, and reading it fixes the settings of the process.
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
    if name in ("Base", "SessionLocal", "engine", "get_db"):
        from aiotaskq.sync import session

        return getattr(session, name)
    if name == "DATABASE_URL":
        from aiotaskq.app.settings import settings

        return settings().database_text
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
