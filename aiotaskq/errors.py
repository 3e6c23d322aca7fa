"""The errors of aiotaskq: one tree, in which each class is also the fitting built-in.

AiotaskqError
├── ValidationError (ValueError)        an argument is wrong; nothing was written
│   ├── CronError                       a cron expression is wrong; names the field
│   └── UnknownHandler (LookupError)    no handler is registered under that name
├── TaskConflict (ValueError)           the id is taken: by a pending task with other content, or by one that has ended
├── NoOpenTask (ValueError)             task_done() without a popped task
├── NotFound (LookupError)              no task, schedule or key under that name
├── QueueFull (asyncio.QueueFull)       a bounded queue is full, with ``when_full="raise"``
├── TaskFailed (RuntimeError)           the task whose result was awaited did not complete
├── BatchFailed (RuntimeError)           raised by a handler of batches: some of its items failed
├── Retry (RuntimeError)                 raised by a handler: run the task again, after a time of its choice
├── ResultTimeout (TimeoutError)        the task did not end, or the worker did not answer, within the timeout
├── EventTimeout (TimeoutError)          the event that a handler waited for did not come in time
├── LeaseLost (RuntimeError)            a write by an owner that no longer holds the lease
├── NotSupported (NotImplementedError)  this backend does not support the option or call
├── MissingExtra (ImportError)          an optional dependency is not installed
├── DatabaseUnavailable (ConnectionError)  the store cannot be opened or reached
├── SchemaTooNew (RuntimeError)         the database was written by a newer aiotaskq
├── ClosedError (RuntimeError)          used after close, configured after use, or the interpreter ends
└── WrongLoop (RuntimeError)            a blocking call from a loop, or an object of another loop
"""

from __future__ import annotations

from datetime import timedelta

from aiotaskq.core.errors import (
    AiotaskqError,
    BatchFailed,
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
    UnknownHandler,
    ValidationError,
    WrongLoop,
    check_seconds,
)
from aiotaskq.core.foreign_names import checks_options
from aiotaskq.core.task import Task

__all__ = [
    "AiotaskqError",
    "BatchFailed",
    "ClosedError",
    "CronError",
    "DatabaseUnavailable",
    "EventTimeout",
    "LeaseLost",
    "MissingExtra",
    "NoOpenTask",
    "NotFound",
    "NotSupported",
    "QueueFull",
    "ResultTimeout",
    "Retry",
    "SchemaTooNew",
    "TaskConflict",
    "TaskFailed",
    "UnknownHandler",
    "ValidationError",
    "WrongLoop",
]


class TaskFailed(AiotaskqError, RuntimeError):
    """The awaited task ended without a result. ``task`` is its last state, ``error`` the stored text.

    The error is data: no exception class is ever looked up by a stored name.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.status = task.status
        self.error = task.error_message
        super().__init__(f"task {task.task_id} ({task.type}) {task.status}: {task.error_message or 'no message'}")

    def __reduce__(self) -> tuple[type[TaskFailed], tuple[Task]]:
        return (type(self), (self.task,))


class Retry(AiotaskqError, RuntimeError):
    """Raised by a handler: its task is run again later. It counts as a retry, and needs no ``retry_on``.

    When ``max_retries`` is used up, the task fails.

    Args:
        reason: the text of the error in the attempt.
        after: seconds from 0 to ten years, or a timedelta; None takes the handler's ``backoff``.

    Raises:
        ValidationError: the reason is not a string, the time is wrong, or there is no such argument.
    """

    after: float | None

    @checks_options("Retry", "retry option")
    def __init__(self, reason: str = "", *, after: float | timedelta | None = None) -> None:
        if not isinstance(reason, str):
            raise ValidationError(f"Retry: the reason is a string; the time is Retry(after=60) (got {reason!r:.40})")
        self.after = None if after is None else check_seconds("after", after)
        # The only argument, since it makes the error anew where a process has raised it.
        super().__init__(reason if reason or self.after is None else f"after {self.after:g} s")


for _name in __all__:
    globals()[_name].__module__ = __name__  # tracebacks name the path that users import
