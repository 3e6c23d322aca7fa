"""What the page of activity lists: its order, and the hook calls of this process, collected while it is open."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

import msgspec

from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.task import FINAL, SECOND, Task
from aiotaskq.runtime.hooks import NAMES, OPERATED, HookCall, Hooks
from aiotaskq.web.dashboard.operated import Operated

MOST_ERROR = 300
"""Characters of the first line of an error that are kept."""
_ICONS = {each: each for each in ("completed", "failed", "cancelled", "expired", "lost", "released")} | {
    "pushed": "pending",
    "started": "running",
    "retried": "waiting",
    "timeout": "timed_out",
    "alert": "failed",
    "stalled": "waiting",
    "exhausted": "waiting",
    "quieted": "paused",
}
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
    change: Operated | None = None
    """What an operator did."""
    more: int = 0
    """It stands for so many of its name that are not listed."""
    at_least: bool = False
    """Whether there may be more of these."""

    @property
    def icon(self) -> str:
        """The icon and colour."""
        return _ICONS.get(self.name, "active")


def key_of(each: Happened) -> tuple[str, str | None, int]:
    """Return what two entries of the same happening have in common."""
    return each.name, each.task_id, each.at


def newest_first(found: Iterable[Happened]) -> list[Happened]:
    """Return them in the order in which they are listed; the end of a task before its start."""
    return sorted(found, key=lambda each: (each.at, _ORDER.get(each.name, 0)), reverse=True)


def pushed_at(task: Task) -> int:
    """Return when a task was pushed, in microseconds UTC: its push stamp, where that is of the second of its push."""
    return task.seq if task.seq // SECOND == task.created_at else task.created_at * SECOND


def instant_of(name: str, task: Task) -> int | None:
    """Return when this happened to a task, as its row tells; None where it does not."""
    if name == "pushed":
        return pushed_at(task)
    if name == "started":
        return task.began_at
    if name in ("retried", "released", "lost"):
        return task.attempts[-1].ended_at if task.attempts else None
    return task.ended_at if name in tuple(FINAL) else None


def first_line(error: Any) -> str:
    """Return the first line of an error text, shortened."""
    return str(error).partition("\n")[0][:MOST_ERROR]


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
        task, group = event.task, event.group
        found = Happened(
            name=event.name,
            at=event.at if task is None else instant_of(event.name, task) or event.at,
            task_id=None if task is None else task.task_id,
            type=None if task is None else task.type,
            queue=None if task is None else task.queue,
            error=None if task is None or task.error_message is None else first_line(task.error_message),
            group=None if group is None else group.group_id,
        )
        self._latest.append(found)

    def _stop(self) -> None:
        """Collect nothing more: the next call after the last reader has gone ends it."""
        self._until = None
        self._latest.clear()
        for each in COLLECTED:
            self._hooks.off(each, self._note)
