"""The outcome of a run, and what the task becomes by it: ``settle`` is the only place where that is decided.

A worker says what happened, as one of the outcomes below. ``settle(task, outcome, now)`` returns the next state of the
task, and a backend writes it. Everything here is pure: time and chance are arguments. ``docs/guarantees.md`` has the
table of transitions.
"""

from __future__ import annotations

from datetime import timedelta
from enum import Enum
from typing import Any

import msgspec
from msgspec.structs import force_setattr, replace

from aiotaskq.core.errors import AiotaskqError, ValidationError, check_seconds, clip
from aiotaskq.core.instants import to_iso
from aiotaskq.core.masking import Redacted
from aiotaskq.core.parking import has_budget, parked, regated
from aiotaskq.core.status import COMPLETED, FINAL, PENDING, RUNNING, Status
from aiotaskq.core.steps import Suspension
from aiotaskq.core.tags import with_tags
from aiotaskq.core.task import SECOND, SPAN, Attempt, Task, is_unread, not_aged, not_ahead, run_options
from aiotaskq.core.worker_info import WorkerInfo


class Backoff(msgspec.Struct, frozen=True):
    """How long to wait before retry ``n`` (0-based): ``base * factor**n`` seconds, at most ``limit``.

    With ``jitter`` the wait is uniform between 0 and that ("full jitter", as in Amazon's "Exponential Backoff And
    Jitter", 2015), so that tasks that failed together are not retried together.
    """

    base: float | timedelta = 1.0
    """Seconds, or a timedelta."""
    factor: float = 2.0
    limit: float | timedelta = 3600.0
    """Seconds, or a timedelta."""
    jitter: bool = True

    def __post_init__(self) -> None:
        for name in ("base", "limit"):
            if isinstance(value := getattr(self, name), timedelta):
                force_setattr(self, name, value.total_seconds())

    def delay(self, attempt: int, chance: float) -> int:
        """Return the wait in microseconds; ``chance`` is in [0, 1)."""
        # The exponent is capped, since 2.0**1100 overflows; by then the limit is smaller anyway.
        base, limit = float(self.base), float(self.limit)  # type: ignore[arg-type]  # timedeltas were converted
        ceiling = min(limit, base * self.factor ** min(attempt, 64))
        return int((ceiling * chance if self.jitter else ceiling) * SECOND)


def make_backoff(value: Backoff | float | timedelta | None) -> Backoff:
    """Return a Backoff: None is the default, a number or timedelta is the wait each time, without jitter.

    Raises ValidationError for durations that are negative or too long, and for a factor outside of 1 to 1,000.
    """
    if value is None:
        return Backoff()
    if isinstance(value, Backoff):
        check_seconds("backoff.base", value.base)
        check_seconds("backoff.limit", value.limit)
        if not 1 <= value.factor <= 1000:
            raise ValidationError(f"backoff.factor: must be in 1..1000 (got {value.factor})")
        return value
    seconds = check_seconds("backoff", value)
    return Backoff(base=seconds, factor=1.0, limit=seconds, jitter=False)


MAX_CRASHES = 3
"""A task is failed as poison when so many processes died while they ran it, the last of them while it ran alone."""
DEAD_AFTER = 5
"""Leases after which a worker that exists but does not answer loses its tasks."""
ALONE = "!alone"
"""The end of a lease owner's id while no other task runs in that process."""
POP_OWNER = "pop-"
"""The beginning of a lease owner's id for a pop by hand: such a lease is a visibility timeout, and its end a retry."""
UNSETTLED = "not settled within its visibility timeout"
SNOOZED = "snoozed"
"""The reason of a task that its handler puts off."""
RETRYABLE = FINAL - {Status.COMPLETED}
"""The statuses from which an operator's retry puts a task back."""


# ---- outcomes -----------------------------------------------------------------------------------------------------


class Completed(Redacted, frozen=True, gc=False):
    """The handler returned."""

    # Not tracked by the garbage collector: hundreds of outcomes wait to be written, and would set it off each time.
    result: Any = None
    span: str | None = None
    """The span of the run, as ``traceparent``, where it is kept for others that wait for the task."""


class Failed(Redacted, frozen=True):
    """The handler raised."""

    error: str
    """``Type: message``, then the traceback."""
    retryable: bool = True
    backoff: Backoff = Backoff()
    chance: float = 0.5
    """A random number in [0, 1) for the jitter of the back-off."""
    cause: BaseException | None = None
    """The exception, for the log only."""
    told: str | None = None
    """What the log says instead of the part of ``error`` before its first colon: a text without params and values."""
    span: str | None = None
    """As of ``Completed``."""


class TimedOut(msgspec.Struct, frozen=True):
    """The handler ran longer than the task's timeout."""

    seconds: float
    backoff: Backoff = Backoff()
    chance: float = 0.5
    span: str | None = None
    """As of ``Completed``."""


class Released(msgspec.Struct, frozen=True):
    """Released without costing a retry: shutdown, snooze, unknown type, never started."""

    reason: str
    delay: int = 0
    """Microseconds."""
    put_off: bool = False
    """Whether the task keeps the time at which it was due, because this worker could not run it."""
    ran: bool = False
    """Whether its handler may have begun, so that it was an attempt."""
    suspended: Suspension | None = None
    """Set where the handler sleeps, or waits for an event."""


def passed_on(task: Task, reason: str, now: int) -> Released:
    """Return the outcome of a task that this worker has no code for: others may have it, now or by the next deploy.

    Its delay grows with the time for which the task has been due.
    """
    return Released(reason, min(60 * SECOND, max(SECOND, now - due_since(task))), put_off=True)


def due_since(task: Task) -> int:
    """Return when a task became due, whatever it was put off since then; its push may be older, with a delay."""
    return task.run_at if task.due_at is None else task.due_at


class Cancelled(msgspec.Struct, frozen=True):
    """Cancelled while pending, or the handler ended by the cancel."""

    reason: str = "cancelled"


class LeaseExpired(msgspec.Struct, frozen=True):
    """The lease was not renewed: its worker's process died, or a popped task was not settled."""

    seen_at: int | None = None
    """The last heartbeat of the worker, in microseconds UTC; None where it is not known."""


class Life(Enum):
    """What is known about the process that holds a lease."""

    UNKNOWN = "it is dead, or on another host"
    STOPPED = "it is there, and does not work: suspended, or its worker has ended"
    LIVES = "it lives"


class Expired(msgspec.Struct, frozen=True):
    """The task was not claimed before its ``expires_at``."""


class Requeued(msgspec.Struct, frozen=True):
    """An operator retries an ended task."""


class HandedBack(msgspec.Struct, frozen=True):
    """The id of a running task was pushed again, as the documented retry recipe does."""

    new: Task


class Rerun(msgspec.Struct, frozen=True):
    """The id of an ended task was pushed again. Its keys stay, its fence rises; all else is that of the push."""

    new: Task


Outcome = Completed | Failed | TimedOut | Released | Cancelled | LeaseExpired | Expired | Requeued | HandedBack | Rerun


class IllegalTransition(AiotaskqError, RuntimeError):
    """The task's status does not allow this outcome; nothing was written."""


def unstorable(error: ValidationError) -> Failed:
    """Return the outcome of a task whose result cannot be stored: the work is done, so it is not done again."""
    return Failed(f"result_unserializable: {error}", retryable=False)


# ---- what a task becomes ------------------------------------------------------------------------------------------

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


def settle(task: Task, outcome: Outcome, now: int, version: str | None = None) -> Task:
    """Return the task's next state; ``now`` in microseconds UTC.

    ``version`` is that of the application whose worker ran the task, where that is known: its attempt keeps it.
    Raises IllegalTransition if the task's status does not allow the outcome.
    """
    if isinstance(outcome, Completed) and task.status is RUNNING:  # nearly every outcome: the rest takes longer
        task = task if outcome.span is None else _with_span(task, outcome.span)
        return _end(task, COMPLETED, now, task.error_message, outcome.result)
    if isinstance(outcome, Failed | TimedOut) and outcome.span is not None:
        task = _with_span(task, outcome.span)
    if task.status not in _ALLOWED[kind := type(outcome)]:
        raise IllegalTransition(f"task {task.task_id} is {task.status}: {kind.__name__} is not possible")
    task = not_ahead(task, now)
    match outcome:
        case Failed(error, retryable, backoff, chance):
            task = noted(task, "failed", error, now, version)
            return _failed(task, error, now, backoff.delay(task.retry_count, chance), retryable)
        case TimedOut(seconds, backoff, chance):
            error = f"TimeoutError: timed out after {seconds:g} s"
            task = noted(task, "timed_out", error, now, version)
            return _failed(task, error, now, backoff.delay(task.retry_count, chance))
        case Released(reason, delay, put_off, ran):
            if ran:
                task = noted(task, "released", reason, now, version)
            if task.cancel_requested:
                return _end(task, Status.CANCELLED, now, clip(f"cancelled; {reason}"))
            if outcome.suspended is not None:
                # It has started, so it does not expire; and no process has died since its last crash.
                return _pending(task, run_at=outcome.suspended.until, expires_at=None, crashes=0)
            due = due_since(task) if put_off else None
            expires_at = None if ran else task.expires_at
            run_at = max(task.run_at, now + delay) if delay else task.run_at
            return _pending(task, run_at=run_at, due_at=due, expires_at=expires_at)
        case Cancelled(reason):
            if task.status is RUNNING:
                task = noted(task, "cancelled", reason, now, version)
            return _end(task, Status.CANCELLED, now, clip(reason))
        case Expired():
            return _end(task, Status.EXPIRED, now, "expired before it was claimed")
        case LeaseExpired(seen_at):
            return _lost(noted(task, "lost", _why_lost(task, seen_at), now, version), now)
        case Requeued():
            return _pending(
                task,
                run_at=now,
                retry_count=0,
                crashes=0,
                completed_at=None,
                started_at=None,
                began_at=None,
                ended_at=None,
                expires_at=None,
                result=None,
                error_message=None,
                waits=0,
            )
        case HandedBack(new):
            return _pending(
                noted(task, "released", "pushed anew while it ran", now),
                type=new.type,
                params=new.params,
                retry_count=new.retry_count,
                **run_options(new),
                expires_at=new.expires_at,
                scheduler_task_id=new.scheduler_task_id,
                extra=with_tags(new.extra, task.tags),  # the store has them
                flow=regated(task.flow, new.flow),
                gate=None,
                coded=None,
                undecodable=None,
                run_at=now,
                seq=new.seq,
            )
        case Rerun(new):
            # It has the push stamp of the new push: if that push is repeated, it is recognised as the same.
            after = replace(
                new,
                extra=with_tags(new.extra, task.tags),
                fence=task.fence + 1,  # a change that is based on a read before the end must not hold
                unique_key=task.unique_key,
                idempotency_key=task.idempotency_key,
                progress=task.progress,
                usage=task.usage,
                flow=regated(task.flow, new.flow),
            )
            return parked(after, after.due_us) if has_budget(after) else after
    raise TypeError(f"not an outcome: {outcome!r}")  # pragma: no cover - the match above is complete


def _with_span(task: Task, span: str) -> Task:
    return replace(task, extra={**task.extra, SPAN: span})


def _end(task: Task, status: Status, now: int, error: str | None, result: Any = None) -> Task:
    return replace(
        task,
        status=status,
        completed_at=now // SECOND,
        ended_at=now,
        lease_owner=None,
        lease_until=None,
        error_message=error,
        result=result,
    )


def _pending(task: Task, **changes: Any) -> Task:
    changes.setdefault("due_at", None)  # unless it was put off, a task is due at its `run_at`
    task = not_aged(task)  # its next wait starts again
    after = replace(task, status=PENDING, lease_owner=None, lease_until=None, cancel_requested=False, **changes)
    # A task that waits for a time to come holds no slot meanwhile. One that was put off does: `due_at` says since when.
    # Nor does one of a group with a budget, which may be used up by now.
    moved = after.due_at is None and (after.run_at != task.run_at or has_budget(after))
    if after.flow is not None and after.flow.gates and (moved or task.final):
        return parked(after, after.run_at)
    return after


def _failed(task: Task, error: str, now: int, delay: int, retryable: bool = True) -> Task:
    if not retryable or task.retry_count >= task.max_retries:
        return _end(task, Status.FAILED, now, clip(error))
    if task.cancel_requested:  # a retry would ignore that
        return _end(task, Status.CANCELLED, now, clip(error))
    count = task.retry_count + 1
    return _pending(task, run_at=now + delay, retry_count=count, error_message=clip(error), expires_at=None)


def _lost(task: Task, now: int) -> Task:
    if task.cancel_requested:
        return _end(task, Status.CANCELLED, now, "cancelled; its worker had gone")
    if was_popped(task):
        if task.retry_count >= task.max_retries:
            return _end(task, Status.FAILED, now, UNSETTLED)
        return _pending(task, run_at=now, retry_count=task.retry_count + 1, expires_at=None)
    crashes = task.crashes + 1
    if crashes < MAX_CRASHES:
        # With its old `run_at` it keeps its place in the order of claims.
        return _pending(task, crashes=crashes, expires_at=None)
    if not (task.lease_owner or "").endswith(ALONE):  # another task in the same process may have killed it
        return _pending(task, crashes=MAX_CRASHES - 1, expires_at=None)
    error = f"poison: its worker died {crashes} times, the last time while it ran alone"
    return _end(replace(task, crashes=crashes), Status.FAILED, now, error)


def is_poison(task: Task) -> bool:
    """Return whether a task was failed because processes die while they run it."""
    return task.status is Status.FAILED and task.crashes >= MAX_CRASHES


# ---- leases -------------------------------------------------------------------------------------------------------


def is_dead(life: Life, late: int, lease: int) -> bool:
    """Whether a worker whose lease of ``lease`` microseconds ended ``late`` microseconds ago loses its tasks.

    A process that exists did not crash: it may be in C code that does not let its other threads run. So that its tasks
    do not run twice at a time, they stay there for ``DEAD_AFTER`` leases.
    """
    return life is not Life.LIVES or late >= DEAD_AFTER * lease


def outcome_of_lost(life: Life, worker: WorkerInfo | None = None) -> Outcome:
    """Return the outcome of a running task without a holder; ``life`` is that of the worker that had it.

    ``worker`` is its row as it was last read, None where it was not. That a process died, or may have, counts as a
    crash. One that exists did not crash: the task is released.
    """
    if life is not Life.UNKNOWN:
        return Released("its worker does not answer", ran=True)
    return LeaseExpired(None if worker is None else worker.seen_at)


def marked(task: Task) -> Task:
    """Return a running task with ALONE at the end of its owner: no other task runs in that process."""
    return replace(task, lease_owner=f"{owner_of(task)}{ALONE}")


def unmarked(task: Task) -> Task:
    """Return a running task without ALONE at the end of its owner."""
    return replace(task, lease_owner=owner_of(task))


def owner_of(task: Task) -> str:
    """Return the owner's id, without ALONE."""
    return (task.lease_owner or "").removesuffix(ALONE)


def _why_lost(task: Task, seen_at: int | None) -> str:
    if was_popped(task):
        return UNSETTLED
    lost = f"its process died, or its lease was not renewed: worker {owner_of(task)}"
    return lost if seen_at is None else f"{lost}, last seen {to_iso(seen_at)}"


def uncounted(row: Task, lost: Task) -> Task | None:
    """Return the row without the crash that was counted when the lease of ``lost`` ended; None if it stays as it is.

    For a worker that lives, though its lease has expired. A task that has ended meanwhile is not changed.
    """
    held = row.status is Status.RUNNING and row.fence == lost.fence
    if held or row.final or row.crashes <= lost.crashes:
        return None
    return replace(row, crashes=row.crashes - 1)


def was_popped(task: Task) -> bool:
    """Whether the lease of the task is that of a pop, and not of a worker."""
    return (task.lease_owner or "").startswith(POP_OWNER)


# ---- attempts: what is kept of each run -----------------------------------------------------------------------------

# A task holds the runs that did not complete. The present run and the completed one are read from its own fields, so
# that a task that completes at its first attempt needs no write for them.

MAX_ATTEMPTS = 20
"""Runs that are kept of a task, the newest ones."""
MAX_ERROR = 1024  # bytes of the error text of one attempt
_TRACEBACK = "\n\nTraceback (most recent call last):\n"


def noted(task: Task, outcome: str, error: str, now: int, version: str | None = None) -> Task:
    """Return the running task with this run among its attempts; it ended at ``now``, in microseconds UTC."""
    if task.undecodable is not None and ("attempts" in (task.coded or ()) or not is_unread(task)):
        return task  # its stored attempts may be what cannot be decoded: they stay as they are
    kept = task.attempts[-(MAX_ATTEMPTS - 1) :]
    error = clip(error.partition(_TRACEBACK)[0], MAX_ERROR)
    return replace(task, attempts=(*kept, _last(task, now, outcome, error, version)))


def attempts_of(task: Task) -> tuple[Attempt, ...]:
    """Return the attempts of a task in their order, the present or completed run included: at most MAX_ATTEMPTS + 1."""
    if task.status is RUNNING:
        return (*task.attempts, _last(task, None))
    if task.status is COMPLETED:
        return (*task.attempts, _last(task, end_of(task), "completed"))
    return task.attempts


def end_of(task: Task) -> int | None:
    """Return when a task has ended, in microseconds UTC; to the second if another program ended it."""
    if task.ended_at is None and task.completed_at is not None:
        return task.completed_at * SECOND
    return task.ended_at


def snoozes_of(task: Task) -> int:
    """Return how often the task has snoozed since its latest failure."""
    return task.attempts[-1].snoozes if task.attempts else 0


def run_time(task: Task) -> float | None:
    """Return the seconds that the latest attempt took; None while it runs, before the first, and where unknown."""
    attempts = attempts_of(task)
    return attempts[-1].seconds if attempts else None


def _last(
    task: Task, ended: int | None, outcome: str | None = None, error: str | None = None, version: str | None = None
) -> Attempt:
    number = task.attempts[-1].number + 1 if task.attempts else 1
    snoozes = 0 if outcome in ("failed", "timed_out", "cancelled") else snoozes_of(task) + (error == SNOOZED)
    began = task.began_at
    if began is None and task.started_at is not None:
        began = task.started_at * SECOND
    if ended is not None and began is not None:
        ended = max(began, ended)  # the clock may have been set back
    return Attempt(
        number=number,
        began_at=began,
        ended_at=ended,
        outcome=outcome,
        error=error,
        worker=owner_of(task) or None,
        version=version,
        fence=task.fence or None,
        snoozes=snoozes,
    )
