"""The errors that hold no task: apart, so that the modules below ``core.task`` raise them without an import circle.

``aiotaskq.errors`` is what applications import: it has all of these, and ``TaskFailed``, which needs ``core.task``.
"""

from __future__ import annotations

import asyncio
import difflib
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


class AiotaskqError(Exception):
    """Base of every error that aiotaskq raises on purpose."""


class ValidationError(AiotaskqError, ValueError):
    """The input is wrong; nothing was written. The message names the field, the value and a remedy."""


class CronError(ValidationError):
    """A cron expression cannot be accepted; the message names the field and gives a hint."""


class UnknownHandler(ValidationError, LookupError):
    """No handler is registered under that task type; register it, or correct the name."""


class TaskConflict(AiotaskqError, ValueError):
    """A task with this id is pending with other content, or has ended. Use another id, or follow the message."""


class NoOpenTask(AiotaskqError, ValueError):
    """``task_done()`` was called more often than tasks were popped, or names a task not popped here."""


class NotFound(AiotaskqError, LookupError):
    """There is no task or schedule under that id."""


class QueueFull(AiotaskqError, asyncio.QueueFull):
    """The queue holds ``maxsize`` tasks; nothing was written. Push later, or let the push wait.

    ``excess`` is how many tasks were too many, 0 where that is not known.
    """

    def __init__(self, message: str = "", excess: int = 0) -> None:
        super().__init__(message)
        self.excess = excess


def queue_full(maxsize: int, excess: int) -> QueueFull:
    """Return the error of a push that finds the queue full, by so many tasks."""
    return QueueFull(f"the queue holds its maxsize of {maxsize} tasks; push later, or raise maxsize", excess)


def gate_full(key: str, most: int) -> QueueFull:
    """Return the error of a push that finds too many tasks waiting at a gate."""
    return QueueFull(f"limit {key!r}: more than max_waiting={most} tasks would wait; push later, or raise max_waiting")


class BatchFailed(AiotaskqError, RuntimeError):
    """Raised by a handler with ``batch``: only these of its items failed.

    Args:
        errors: the exception of each item that failed, by its index; whether it is retried goes by that exception.
        results: one for each item, those that failed included; None gives the others the result None.
    """

    def __init__(self, errors: Mapping[int, BaseException], results: Sequence[Any] | None = None) -> None:
        super().__init__(errors, results)  # these arguments make it anew where a process has raised it
        self.errors = errors
        self.results = results

    def __str__(self) -> str:
        return f"{len(self.errors)} items failed"


class EventTimeout(AiotaskqError, TimeoutError):
    """The event that a handler waited for did not come within its timeout."""


class ResultTimeout(AiotaskqError, TimeoutError):
    """The task did not end in time; it is not cancelled by that. Wait again, or cancel it."""


class LeaseLost(AiotaskqError, RuntimeError):
    """Another worker has taken the task over, or settled it; this write changed nothing."""


class NotSupported(AiotaskqError, NotImplementedError):
    """This backend cannot honour the option; the message names one that can."""


class MissingExtra(AiotaskqError, ImportError):
    """An optional dependency is not installed; the message has the command that installs it."""


class DatabaseUnavailable(AiotaskqError, ConnectionError):
    """The database cannot be opened or reached; the message holds its URL without the password.

    If a push raised it, ``task_ids`` has the ids of its tasks, in order: they may have been stored. A second push with
    ``task_id=`` one of them makes no second task, and TaskConflict then says that it was stored and has ended. With
    ``push_task`` of the documented queues, first look with ``get(task_id)``, since there a push of an id that has ended
    runs it again. After any other call ``task_ids`` is empty.
    """

    task_ids: tuple[str, ...] = ()

    def of_push(self, task_ids: Iterable[str]) -> DatabaseUnavailable:
        """Return the same error for the push of these tasks."""
        error = type(self)(str(self))
        error.task_ids = tuple(task_ids)
        return error


class SchemaTooNew(AiotaskqError, RuntimeError):
    """The database was migrated by a newer aiotaskq; upgrade this installation."""


class ClosedError(AiotaskqError, RuntimeError):
    """The object was closed, it is too late to configure it, or the interpreter is shutting down."""


class WrongLoop(AiotaskqError, RuntimeError):
    """A blocking call was made from a thread that runs an event loop, or an object belongs to another loop."""


class CallTimeout(AiotaskqError, TimeoutError):
    """A facade call did not finish within its deadline; its coroutine was cancelled."""


def guess(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'send_mail'?`` with the known name that is most similar, an empty text if none is."""
    close = difflib.get_close_matches(name[:64], sorted(known), 1)
    return f"; did you mean {close[0]!r}?" if close else ""


# It repeats ``[project.optional-dependencies]`` of pyproject.toml; a test compares them. An error names the library
# itself: ``pip install 'aiotaskq[redis]'`` would fetch another project of that name from the public index, and
# ``pip install -e '.[redis]'`` would install the project of the user.
REQUIREMENTS = {
    "redis": ("redis[hiredis]>=5.0.4,<9",),
    "mysql": ("asyncmy>=0.2.13,<0.3", "pymysql>=1.1,<2"),
    "postgres": ("psycopg[binary]>=3.2.2,<4",),
    "web": ("starlette>=0.46,<2", "uvicorn>=0.31.1,<1", "jinja2>=3.1.2,<4"),
    "dashboard": ("jinja2>=3.1.2,<4",),
    "fastapi": ("fastapi>=0.115.12,<1", "pydantic>=2.13,<3"),
    "aiohttp": ("aiohttp>=3.10,<4",),
    "metrics": ("prometheus-client>=0.22,<1",),
    "crypto": ("cryptography>=42,<51",),
    "zstd": ("backports.zstd>=1,<2; python_version < '3.14'",),
    "otel": ("opentelemetry-api>=1.28,<2",),
    "calendars": ("holidays>=0.80,<1",),
    "mcp": ("mcp>=2.3,<3",),
    "django": ("django>=5.2,<7", "django-tasks>=0.12,<0.13; python_version < '3.12'"),
    "pydantic": ("pydantic>=2.13,<3",),
    "pydantic-ai": ("pydantic-ai-slim>=2.68,<3",),
}


def missing(library: str, extra: str) -> MissingExtra:
    """Return the error for a library that is not installed, with the command that installs its extra."""
    wanted = " ".join(shlex.quote(requirement) for requirement in REQUIREMENTS[extra])
    return MissingExtra(f"{library} is not installed; install the extra {extra}: pip install {wanted}")
