"""What has happened: changes by operators, hook calls in this process, and what the rows of the store tell."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec

from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.edit import first_push
from aiotaskq.core.outcome import attempts_of, end_of
from aiotaskq.core.status import FINAL, Status
from aiotaskq.core.task import SECOND, Task, TaskFilter
from aiotaskq.operations.audit import AuditView
from aiotaskq.operations.task_views import MAX_LINE, first_line
from aiotaskq.runtime.hooks import NAMES, OPERATED, HookCall, Hooks

if TYPE_CHECKING:
    from aiotaskq.app.taskq import TaskQ

_ORDER: dict[str, int] = {name: place for place, name in enumerate(NAMES)}


class Happened(msgspec.Struct, frozen=True, kw_only=True):
    """What has happened once, without params and results."""

    name: str
    at: int
    """Microseconds UTC."""
    task_id: str | None = None
    type: str | None = None
    queue: str | None = None
    attempt: int | None = None
    """The number of the attempt that started or ended."""
    error: str | None = None
    group: str | None = None
    change: AuditView | None = None
    """What an operator did."""
    more: int = 0
    """It stands for so many of its name that are not listed."""
    at_least: bool = False
    """Whether there may be more of these."""


def key_of(each: Happened) -> tuple[str, str | None, int]:
    """Return what two entries of the same happening have in common."""
    return each.name, each.task_id, each.at


def newest_first(found: Iterable[Happened]) -> list[Happened]:
    """Return them in the order in which they are listed; the end of a task before its start."""
    return sorted(found, key=lambda each: (each.at, _ORDER.get(each.name, 0)), reverse=True)


MOST = 500
"""Hook calls that are kept."""
COLLECTED = tuple(name for name in NAMES if name != OPERATED)
"""All but the changes of operators: the audit log of the store has those of every process."""
LINGER = 60
"""Seconds without a reader after which nothing more is collected."""


class Feed:
    """The hook calls of one task queue in this process."""

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks
        self._clock = SystemClock()
        self._latest: deque[Happened] = deque(maxlen=MOST)
        self._until: int | None = None  # ticks; None where nothing is collected

    def read(self, name: str | None, most: int) -> list[Happened]:
        """Return the latest, of one name where it is given, the newest first; go on collecting for a while."""
        if self._until is None:
            for each in COLLECTED:
                self._hooks.on(each, self._note)
        self._until = self._clock.ticks() + LINGER * SECOND
        return [each for each in newest_first(self._latest) if name in (None, each.name)][:most]

    def _note(self, event: HookCall) -> None:
        if self._until is None or self._clock.ticks() >= self._until:
            self._stop()
            return
        if (task := event.task) is None:
            group = None if event.group is None else event.group.group_id
            self._latest.append(Happened(name=event.name, at=event.at, group=group))
        else:
            at = max((each.at for each in life_of(task) if each.name == event.name), default=event.at)
            self._latest.append(_event(event.name, at, task, error=task.error_message))

    def _stop(self) -> None:
        """Collect nothing more: the next call after the last reader has gone ends it."""
        self._until = None
        self._latest.clear()
        for each in COLLECTED:
            self._hooks.off(each, self._note)


# ---- the rows of the store ----

MOST_SEEN = 1_000
"""Events that are kept."""
SHOWN = 20
"""Tasks of each final status, and of those that were pushed, that one look lists."""
COUNTED = 200
"""Tasks of each final status that one look counts."""
RUNNING = 50
"""Running tasks that one look lists: those that were pushed last."""
RUNNING_WINDOW = 10_000
"""Tasks, the newest first, among which running ones are looked for in a store without an index of these."""
_ENDS = {"failed": "retried", "timed_out": "retried", "lost": "lost", "released": "released"}
"""Events by outcomes of attempts after which a task goes on."""


class Life:
    """What was seen of the tasks of one task queue, whichever process runs them; pages share it.

    No process writes anything for this. Each look reads the newest rows by the indexes that there are, at most so many
    of each kind; what happened before and between is counted, and not listed.
    """

    def __init__(self, tq: TaskQ) -> None:
        self._tq = tq
        self._latest: dict[tuple[str, str | None, int], Happened] = {}
        self._ended: dict[Status, list[str]] = {}
        self._ran: set[str] = set()
        self._looks = self._looked_at = 0

    @property
    def latest(self) -> Iterable[Happened]:
        """What was seen, in any order."""
        return self._latest.values()

    async def look(self) -> None:
        """Read what has happened since the last look."""
        backend, looks, last = self._tq.queue.backend, self._looks, self._looked_at
        now = self._tq.queue.clock.now()
        ended = {status: await backend.last_ended(status, COUNTED) for status in sorted(FINAL)}
        new = {status: _new(ids, self._ended.get(status, ())) for status, ids in ended.items()}
        running = await backend.find(TaskFilter(status=(Status.RUNNING,), newest=RUNNING_WINDOW), RUNNING)
        pushed = await backend.find(TaskFilter(), SHOWN)
        # What ran at the last look, and does not any more, may wait for its next attempt.
        read = self._ran - {task.task_id for task in running}
        read.update(*(ids[:SHOWN] for ids in new.values()))
        rows = {task.task_id: task for task in await backend.get(sorted(read)) if task is not None}
        if looks != self._looks:
            return  # another page has looked meanwhile
        found = [each for task in (*running, *pushed, *rows.values()) for each in life_of(task)]
        for status, ids in new.items():
            # A task that was deleted meanwhile is None, too.
            oldest = rows.get(ids[SHOWN - 1]) if looks and len(ids) > SHOWN else None
            if oldest is not None and (oldest.completed_at or 0) >= last // SECOND:
                more, at_least = len(ids) - SHOWN, len(ids) == COUNTED
                found.append(Happened(name=str(status), at=now, more=more, at_least=at_least))
        self._looks, self._looked_at = looks + 1, now
        self._ended, self._ran = ended, {task.task_id for task in running}
        self._latest.update((key_of(each), each) for each in found)
        if len(self._latest) > MOST_SEEN:
            self._latest = {key_of(each): each for each in newest_first(self._latest.values())[:MOST_SEEN]}


def life_of(task: Task) -> Iterator[Happened]:
    """Yield what has happened to a task, as its row tells."""
    ended = end_of(task)
    yield _event("pushed", first_push(task), task)
    for attempt in attempts_of(task):
        if attempt.began_at is not None:
            yield _event("started", attempt.began_at, task, attempt.number)
        name = _ENDS.get(attempt.outcome or "")
        if name and attempt.ended_at is not None and attempt.ended_at != ended:  # else it is the end of the task
            yield _event(name, attempt.ended_at, task, attempt.number, attempt.error)
    if task.final and ended is not None:
        yield _event(str(task.status), ended, task, error=task.error_message)


def _event(name: str, at: int, task: Task, attempt: int | None = None, error: str | None = None) -> Happened:
    return Happened(
        name=name,
        at=at,
        task_id=task.task_id,
        type=task.type,
        queue=task.queue,
        attempt=attempt,
        error=None if error is None else (first_line(error) or "")[:MAX_LINE],
    )


def _new(ids: list[str], known: Sequence[str]) -> list[str]:
    """Return the ids that were not known; where not all could be known, none of those that ended before."""
    seen = set(known)
    end = len(ids)
    if len(known) == COUNTED and seen.intersection(ids):
        end = max(place for place, each in enumerate(ids) if each in seen)
    return [each for each in ids[:end] if each not in seen]
