"""What a run came to, and what becomes of the task: the only place where such rules are decided.

Everything here is pure: time and chance are arguments. The table of transitions is in ``docs/guarantees.md``.
"""

from __future__ import annotations

import traceback
from enum import Enum
from typing import Any

import msgspec
from msgspec.structs import replace

from aiotaskq.core.errors import AiotaskqError, ValidationError
from aiotaskq.core.task import (
    COMPLETED,
    FINAL,
    INT64,
    MAX_DEPTH,
    PENDING,
    SECOND,
    Discreet,
    Status,
    Task,
    check_json,
    check_seconds,
    shown,
)

MAX_ERROR = 16 * 1024  # bytes of error text that are kept
MAX_CRASHES = 3  # a task is poison when so many processes died under it, the last one while it ran alone there
DEAD_AFTER = 5  # leases: a loop that has stood still for so long is not coming back, and others may have its tasks
ALONE = "!alone"
"""Owner ids end with this while the task runs, and no other one runs in that process."""
POP_OWNER = "pop-"
UNSETTLED = "not settled within its visibility timeout"
"""Owner ids of manual consumers start with this: for them an overdue lease is a visibility timeout, so a retry."""


class Backoff(msgspec.Struct, frozen=True):
    """How long to wait before retry ``n`` (0-based): ``base * factor**n`` seconds, at most ``limit``.

    With ``jitter`` the wait is uniform between 0 and that ("full jitter", as in Amazon's "Exponential Backoff And
    Jitter", 2015), so that tasks that failed together do not come back together.
    """

    base: float = 1.0
    factor: float = 2.0
    limit: float = 3600.0
    jitter: bool = True

    def delay(self, attempt: int, chance: float) -> int:
        """Return the wait in microseconds; ``chance`` is in [0, 1)."""
        # The exponent is capped: 2.0**1100 overflows, and the limit has won long before.
        ceiling = min(self.limit, self.base * self.factor ** min(attempt, 64))
        return int((ceiling * chance if self.jitter else ceiling) * SECOND)


def make_backoff(value: Backoff | float | None) -> Backoff:
    """Return a Backoff: None is the default, a number is that many seconds each time, without jitter."""
    if value is None:
        return Backoff()
    if isinstance(value, Backoff):
        check_seconds("backoff.base", value.base)
        check_seconds("backoff.limit", value.limit)
        if not 1 <= value.factor <= 1000:
            raise ValidationError(f"backoff.factor: must be in 1..1000 (got {value.factor})")
        return value
    return Backoff(base=check_seconds("backoff", value), factor=1.0, limit=max(value, 0.0), jitter=False)


class Completed(Discreet, frozen=True, gc=False):
    """The handler returned."""

    # Unknown to the garbage collector, for it lives until it is written: by the hundred they set it going, and with
    # changes, which are alike, that took an eighth of a task's time in memory.
    result: Any = None


class Failed(Discreet, frozen=True):
    """The handler raised."""

    error: str
    retryable: bool = True
    backoff: Backoff = Backoff()
    chance: float = 0.5
    cause: BaseException | None = None
    """What the handler raised, for the log; nothing is decided by it."""


class TimedOut(msgspec.Struct, frozen=True):
    """The handler ran longer than the task's timeout."""

    seconds: float
    backoff: Backoff = Backoff()
    chance: float = 0.5


class Released(msgspec.Struct, frozen=True):
    """Given back unharmed: shutdown, snooze, unknown type, never started. The retry is not counted."""

    reason: str
    delay: int = 0
    put_off: bool = False
    """Whether the task keeps the time at which it was due: nobody here could run it."""


class Cancelled(msgspec.Struct, frozen=True):
    """Cancelled while pending, or the handler ended by the cancel."""

    reason: str = "cancelled"


class LeaseExpired(msgspec.Struct, frozen=True):
    """Nobody renewed the lease: the owner's process died, or a manual consumer never settled."""


class Life(Enum):
    """What is known of the process that holds a lease."""

    UNKNOWN = "it is dead, or on another host"
    STOPPED = "it is there, and does not work: suspended, or its worker has ended"
    LIVES = "it lives"


class Expired(msgspec.Struct, frozen=True):
    """Nobody claimed the task before ``expires_at``."""


class Requeued(msgspec.Struct, frozen=True):
    """An operator wants a dead letter to run again."""


class HandedBack(msgspec.Struct, frozen=True):
    """A running id was pushed again: the guide's retry recipe."""

    new: Task


class Rerun(msgspec.Struct, frozen=True):
    """An id that has ended was pushed again. Only its keys and its fence outlive the earlier run."""

    new: Task


Outcome = Completed | Failed | TimedOut | Released | Cancelled | LeaseExpired | Expired | Requeued | HandedBack | Rerun


class IllegalTransition(AiotaskqError, RuntimeError):
    """The task's status does not allow this outcome; nothing was written."""


RETRYABLE = FINAL - {Status.COMPLETED}
"""What an operator may put back: dead letters, and what was cancelled or has expired."""

_ALLOWED: dict[type, frozenset[Status]] = {
    Completed: frozenset({Status.RUNNING}),
    Failed: frozenset({Status.RUNNING}),
    TimedOut: frozenset({Status.RUNNING}),
    Released: frozenset({Status.RUNNING}),
    LeaseExpired: frozenset({Status.RUNNING}),
    HandedBack: frozenset({Status.RUNNING}),
    Cancelled: frozenset({Status.RUNNING, Status.PENDING}),
    Expired: frozenset({Status.PENDING}),
    Requeued: RETRYABLE,
    Rerun: FINAL,
}


def settle(task: Task, outcome: Outcome, now: int) -> Task:
    """Return what the task becomes. ``now`` in microseconds; raises IllegalTransition, see the table."""
    kind = type(outcome)
    if task.status not in _ALLOWED[kind]:
        raise IllegalTransition(f"task {task.task_id} is {task.status}: {kind.__name__} is not possible")
    if isinstance(outcome, Completed):  # nearly every outcome; the match would take longer than the rest
        return _end(task, COMPLETED, now, task.error_message, outcome.result)
    match outcome:
        case Failed(error, retryable, backoff, chance):
            if not retryable or task.retry_count >= task.max_retries:
                return _end(task, Status.FAILED, now, clip(error))
            return _retry(task, error, now, backoff.delay(task.retry_count, chance))
        case TimedOut(seconds, backoff, chance):
            error = f"TimeoutError: timed out after {seconds:g} s"
            if task.retry_count >= task.max_retries:
                return _end(task, Status.FAILED, now, error)
            return _retry(task, error, now, backoff.delay(task.retry_count, chance))
        case Released(reason, delay, put_off):
            if task.cancel_requested:
                return _end(task, Status.CANCELLED, now, clip(f"cancelled; {reason}"))
            due = (task.run_at if task.due_at is None else task.due_at) if put_off else None
            return _pending(task, run_at=max(task.run_at, now + delay) if delay else task.run_at, due_at=due)
        case Cancelled(reason):
            return _end(task, Status.CANCELLED, now, clip(reason))
        case Expired():
            return _end(task, Status.EXPIRED, now, "expired before anybody claimed it")
        case LeaseExpired():
            return _lost(task, now)
        case Requeued():
            return _pending(
                task,
                run_at=now,
                retry_count=0,
                crashes=0,
                completed_at=None,
                started_at=None,
                expires_at=None,
                result=None,
                error_message=None,
            )
        case HandedBack(new):
            return _pending(
                task,
                type=new.type,
                params=new.params,
                priority=new.priority,
                retry_count=new.retry_count,
                max_retries=new.max_retries,
                queue=new.queue,
                timeout=new.timeout,
                scheduler_task_id=new.scheduler_task_id,
                extra=new.extra,
                run_at=now,
                seq=new.seq,
            )
        case Rerun(new):
            # Its push stamp makes a repetition of this push the same push, also once the task has run.
            return replace(
                new,
                fence=task.fence,
                unique_key=task.unique_key,
                idempotency_key=task.idempotency_key,
                progress=task.progress,
            )
    raise TypeError(f"not an outcome: {outcome!r}")  # pragma: no cover - the match above is complete


def lease_over(life: Life, late: int, lease: int) -> Outcome | None:
    """Return what becomes of a running task whose lease ended ``late`` ticks ago; None where it is left to its worker.

    A process that lives did not die: it may be in C code that does not let its other threads run. So that the task
    does not run twice at a time, it is left there for ``DEAD_AFTER`` leases of ``lease`` ticks; then it comes back
    uncounted.
    """
    if life is Life.UNKNOWN:
        return LeaseExpired()
    if life is Life.LIVES and late < DEAD_AFTER * lease:
        return None
    return Released("its worker does not answer")


def marked(task: Task) -> Task:
    """Return a running task with the mark that no other one runs in its process."""
    return replace(task, lease_owner=f"{owner_of(task)}{ALONE}")


def unmarked(task: Task) -> Task:
    """Return a running task without that mark."""
    return replace(task, lease_owner=owner_of(task))


def owner_of(task: Task) -> str:
    """Return whose lease it is, without the mark."""
    return (task.lease_owner or "").removesuffix(ALONE)


def uncounted(row: Task, lost: Task) -> Task | None:
    """Return the row without the crash that was counted when the lease of ``lost`` ended, or None if none is.

    The worker that held that lease lives. A task that has ended meanwhile stays as it is.
    """
    held = row.status is Status.RUNNING and row.fence == lost.fence
    if held or row.final or row.crashes <= lost.crashes:
        return None
    return replace(row, crashes=row.crashes - 1)


def _end(task: Task, status: Status, now: int, error: str | None, result: Any = None) -> Task:
    return replace(
        task,
        status=status,
        completed_at=now // SECOND,
        lease_owner=None,
        lease_until=None,
        error_message=error,
        result=result,
    )


def _pending(task: Task, **changes: Any) -> Task:
    changes.setdefault("due_at", None)  # it is due at `run_at`, unless it was put off
    return replace(task, status=PENDING, lease_owner=None, lease_until=None, cancel_requested=False, **changes)


def _retry(task: Task, error: str, now: int, delay: int) -> Task:
    if task.cancel_requested:
        # Somebody asked for an end; a retry would ignore that.
        return _end(task, Status.CANCELLED, now, clip(error))
    return _pending(task, run_at=now + delay, retry_count=task.retry_count + 1, error_message=clip(error))


def was_popped(task: Task) -> bool:
    """Whether the lease of the task is that of a pop, and not of a worker."""
    return (task.lease_owner or "").startswith(POP_OWNER)


def _lost(task: Task, now: int) -> Task:
    if task.cancel_requested:
        return _end(task, Status.CANCELLED, now, "cancelled; its worker had gone")
    if was_popped(task):
        if task.retry_count >= task.max_retries:
            return _end(task, Status.FAILED, now, UNSETTLED)
        return _pending(task, run_at=now, retry_count=task.retry_count + 1)
    crashes = task.crashes + 1
    if crashes < MAX_CRASHES:
        return _pending(task, crashes=crashes)  # at its old place: it has waited long enough
    if not (task.lease_owner or "").endswith(ALONE):  # another task may have killed the process, or it never started
        return _pending(task, crashes=MAX_CRASHES - 1)
    error = f"poison: its worker died {crashes} times, the last time while it ran alone"
    return _end(replace(task, crashes=crashes), Status.FAILED, now, error)


# ---- what a handler leaves behind, as data --------------------------------------------------------------------------


def clip(text: str) -> str:
    """Return error text that every store can hold: NUL and lone surrogates escaped, at most 16 KB."""
    # What is sure to be cut need not be encoded: an error text can have many megabytes.
    data = text[: MAX_ERROR + 1].replace("\x00", "\\x00").encode("utf-8", "backslashreplace")
    if len(data) <= MAX_ERROR:
        return data.decode()
    return data[: MAX_ERROR - 20].decode("utf-8", "ignore") + "\n… (truncated)"


def describe(error: BaseException) -> str:
    """Return the error as text: ``Type: message`` in the first line, then the traceback."""
    try:
        message = str(error)
    except Exception as broken:  # an exception whose own __str__ raises must not take the worker down
        message = f"<{type(broken).__name__} in __str__>"
    head = f"{type(error).__name__}: {message}" if message else type(error).__name__
    frames = traceback.format_tb(error.__traceback__, limit=-20)
    return head + ("\n\nTraceback (most recent call last):\n" + "".join(frames) if frames else "")


def storable(result: Any) -> Any:
    """Return a handler's result as JSON values: tuples become lists, dataclasses and structs dicts, dates text.

    Raises ValidationError with the path to what cannot be stored. NUL is escaped, not refused: the work is done.
    """
    kind = type(result)
    if result is None or kind is bool or (kind is int and abs(result) <= INT64):
        return result
    _check_keys("result", result)
    try:
        plain = _plain(result)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValidationError(f"{_culprit('result', result)}: {error}") from None
    plain = _escape(plain)
    check_json("result", plain, limit=64 * 1024 * 1024)
    return plain


def unstorable(error: ValidationError) -> Failed:
    """Return what becomes of a task whose result cannot be stored: the work is done, so it is not done again."""
    return Failed(f"result_unserializable: {error}", retryable=False)


def _check_keys(path: str, value: Any, depth: int = 0) -> None:
    """Refuse two keys that would be one in JSON: a value would be lost."""
    if depth > MAX_DEPTH:
        return  # refused later, with a path
    if isinstance(value, dict):
        if any(type(key) is not str for key in value) and len({str(key) for key in value}) < len(value):
            raise ValidationError(f"{path}: two of its keys are the same text in JSON")
        for key, item in value.items():
            _check_keys(f"{path}.{key}" if isinstance(key, str) else f"{path}[{shown(key)}]", item, depth + 1)
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            _check_keys(f"{path}[{number}]", item, depth + 1)


def _plain(value: Any) -> Any:
    return msgspec.to_builtins(value, builtin_types=(bytes, bytearray, memoryview), str_keys=True)


def _culprit(path: str, value: Any) -> str:
    """The path to the first part that cannot be made plain; for a cycle, the way round it."""
    while len(path) < 80:
        names = (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
        )
        for name, item in names:
            try:
                _plain(item)
            except Exception:
                path, value = f"{path}.{name}" if isinstance(name, str) else f"{path}[{shown(name)}]", item
                break
        else:
            return path
    return f"{path}…"


def _escape(value: Any, depth: int = 0) -> Any:
    if isinstance(value, str):
        return value.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()
    if depth < 100:  # deeper values are refused by check_json with a path
        if isinstance(value, list | tuple):
            return [_escape(item, depth + 1) for item in value]
        if isinstance(value, dict):
            return {_escape(key): _escape(item, depth + 1) for key, item in value.items()}
    return value
