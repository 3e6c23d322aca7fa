"""The latest events of this process: collected while their page is open."""

from __future__ import annotations

from collections import deque

from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.task import SECOND
from aiotaskq.runtime.events import NAMES, OPERATED, Event, Events
from aiotaskq.web.dashboard.happened import Happened, first_line, instant_of, newest_first

MOST = 500
"""Events that are kept."""
COLLECTED = tuple(name for name in NAMES if name != OPERATED)
"""All but the changes of operators: the audit log of the store has those of every process."""
LINGER = 60
"""Seconds without a reader after which nothing more is collected."""


class Feed:
    """The events of one task queue in this process."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._clock = SystemClock()
        self._latest: deque[Happened] = deque(maxlen=MOST)
        self._until: int | None = None  # ticks; None where nothing is collected

    @property
    def collecting(self) -> bool:
        """Whether events of tasks are collected."""
        return self._until is not None

    def read(self, name: str | None, most: int) -> list[Happened]:
        """Return the latest events, of one name where it is given, the newest first; go on collecting for a while."""
        if self._until is None:
            for each in COLLECTED:
                self._events.on(each, self._note)
        self._until = self._clock.ticks() + LINGER * SECOND
        return [each for each in newest_first(self._latest) if name in (None, each.name)][:most]

    def _note(self, event: Event) -> None:
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
        """Collect nothing more: the next event after the last reader has gone ends it."""
        self._until = None
        self._latest.clear()
        for each in COLLECTED:
            self._events.off(each, self._note)
