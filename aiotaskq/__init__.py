"""aiotaskq: a task queue and scheduler inside an asyncio application; the blocking twins are in ``aiotaskq.sync``.

Records are in ``aiotaskq.types``, errors in ``aiotaskq.errors``, codecs in ``aiotaskq.codecs``.
"""

from __future__ import annotations

import importlib
import typing

if typing.TYPE_CHECKING:
    from aiotaskq.app.groups import Workflow, chain, group
    from aiotaskq.app.legacy import DatabaseQueue as DatabaseQueue
    from aiotaskq.app.legacy import MemoryQueue as MemoryQueue
    from aiotaskq.app.legacy import RedisQueue as RedisQueue
    from aiotaskq.app.legacy import Scheduler as Scheduler
    from aiotaskq.app.legacy import delete_public as delete_public
    from aiotaskq.app.legacy import get_public as get_public
    from aiotaskq.app.legacy import get_queue as get_queue
    from aiotaskq.app.legacy import get_scheduler as get_scheduler
    from aiotaskq.app.legacy import pop_task as pop_task
    from aiotaskq.app.legacy import push_task as push_task
    from aiotaskq.app.legacy import set_public as set_public
    from aiotaskq.app.registry import injected
    from aiotaskq.app.schedules import preview
    from aiotaskq.app.settings import configure as configure
    from aiotaskq.app.taskq import TaskQ
    from aiotaskq.core.limits import Fair, Limit, Rate
    from aiotaskq.core.outcome import Backoff
    from aiotaskq.core.parent import Parent
    from aiotaskq.core.status import Status
    from aiotaskq.database import Base as Base
    from aiotaskq.database import SessionLocal as SessionLocal
    from aiotaskq.database import engine as engine
    from aiotaskq.database import get_db as get_db
    from aiotaskq.errors import AiotaskqError, BatchFailed, EventTimeout, LeaseLost, ResultTimeout, Retry, TaskFailed
    from aiotaskq.runtime.context import current_batch, current_task
    from aiotaskq.runtime.steps import sleep_for, sleep_until, step, wait_event

    DATABASE_URL: str

__version__ = "0.1.0"

# What a new program writes. The names of the older system's guide are importable, too.
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

# The module of each name: imported at the first use, so that a program imports what it uses.
_NAMES = {
    "app.groups": ("Workflow", "chain", "group"),
    "app.legacy": (
        "DatabaseQueue",
        "MemoryQueue",
        "RedisQueue",
        "Scheduler",
        "delete_public",
        "get_public",
        "get_queue",
        "get_scheduler",
        "pop_task",
        "push_task",
        "set_public",
    ),
    "app.registry": ("injected",),
    "app.schedules": ("preview",),
    "app.settings": ("configure",),
    "app.taskq": ("TaskQ",),
    "core.limits": ("Fair", "Limit", "Rate"),
    "core.outcome": ("Backoff",),
    "core.parent": ("Parent",),
    "core.status": ("Status",),
    "database": ("Base", "DATABASE_URL", "SessionLocal", "engine", "get_db"),
    "errors": ("AiotaskqError", "BatchFailed", "EventTimeout", "LeaseLost", "ResultTimeout", "Retry", "TaskFailed"),
    "runtime.context": ("current_batch", "current_task"),
    "runtime.steps": ("sleep_for", "sleep_until", "step", "wait_event"),
}
_MODULES = {name: f"aiotaskq.{module}" for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> typing.Any:
    if name in _MODULES:
        found = getattr(importlib.import_module(_MODULES[name]), name)
        if name != "DATABASE_URL":  # it follows the settings
            globals()[name] = found
        return found
    if name in ("codecs", "errors", "log", "types"):
        return importlib.import_module(f"aiotaskq.{name}")
    if not name.startswith("_") and (hint := _hint(name)):
        # An import statement replaces the text of an AttributeError by its own.
        raise ImportError(f"cannot import name {name!r} from 'aiotaskq'; {hint}", name=__name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _hint(name: str) -> str:
    """Return which module has a name, or what replaces a name of another library; an empty text for neither."""
    for home in ("aiotaskq.types", "aiotaskq.errors", "aiotaskq.codecs"):
        if name[0].isupper() and name in importlib.import_module(home).__all__:
            return f"it is in {home}"
    meant = importlib.import_module("aiotaskq.core.foreign_names").word("package", name)
    return "" if meant is None else f"here: {meant.here} ('aiotaskq docs {meant.page}')"


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
