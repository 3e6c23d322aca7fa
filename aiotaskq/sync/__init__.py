"""The blocking twins of everything in ``aiotaskq``, under the same names: for threads, scripts and older code.

One event loop in a background thread serves the process. A call from a thread that runs an event loop raises WrongLoop,
and the message names what to await instead.
"""

from __future__ import annotations

import typing

from aiotaskq.app.groups import Workflow, chain, group
from aiotaskq.app.registry import injected
from aiotaskq.app.schedules import preview
from aiotaskq.app.settings import configure as configure
from aiotaskq.core.limits import Fair, Limit, Rate
from aiotaskq.core.outcome import Backoff
from aiotaskq.core.parent import Parent
from aiotaskq.core.status import Status
from aiotaskq.errors import AiotaskqError, BatchFailed, EventTimeout, LeaseLost, ResultTimeout, Retry, TaskFailed
from aiotaskq.sync.facades import DatabaseQueue as DatabaseQueue
from aiotaskq.sync.facades import MemoryQueue as MemoryQueue
from aiotaskq.sync.facades import RedisQueue as RedisQueue
from aiotaskq.sync.facades import Scheduler as Scheduler
from aiotaskq.sync.facades import delete_public as delete_public
from aiotaskq.sync.facades import get_public as get_public
from aiotaskq.sync.facades import get_queue as get_queue
from aiotaskq.sync.facades import get_scheduler as get_scheduler
from aiotaskq.sync.facades import pop_task as pop_task
from aiotaskq.sync.facades import push_task as push_task
from aiotaskq.sync.facades import set_public as set_public
from aiotaskq.sync.facades import sleep_for, sleep_until, step, wait_event
from aiotaskq.sync.taskq import TaskQ, current_batch, current_task

if typing.TYPE_CHECKING:
    from aiotaskq.sync.session import Base as Base
    from aiotaskq.sync.session import SessionLocal as SessionLocal
    from aiotaskq.sync.session import engine as engine
    from aiotaskq.sync.session import get_db as get_db

    DATABASE_URL: str

# The names of ``aiotaskq.__all__``. Those of the older system's guide are importable, too.
__all__ = [
    "AiotaskqError",
    "Backoff",
    "BatchFailed",
    "EventTimeout",
    "Fair",
    "LeaseLost",
    "Limit",
    "Parent",
    "Rate",
    "ResultTimeout",
    "Retry",
    "Status",
    "TaskFailed",
    "TaskQ",
    "Workflow",
    "chain",
    "current_batch",
    "current_task",
    "group",
    "injected",
    "preview",
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


def __dir__() -> list[str]:
    return list(__all__)
