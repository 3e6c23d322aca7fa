"""The latest events of this process: collected while their page is open; what people did on these pages, always."""

from __future__ import annotations

from collections import deque

import msgspec

from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.task import SECOND
from aiotaskq.runtime.events import NAMES, OPERATED, Event, Events
from aiotaskq.web.dashboard.happened import Happened, first_line, instant_of, newest_first

MOST = 500
"""Events that are kept, and as many of those about what people did."""
LINGER = 60
"""Seconds without a reader after which nothing more is collected."""


class Feed:
    """The events of one task queue in this process."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._clock = SystemClock()
        self._latest: deque[Happened] = deque(maxlen=MOST)
        self._operated: deque[Happened] = deque(maxlen=MOST)
        self._until: int | None = None  # ticks; None where nothing is collected
        events.on(OPERATED, self._note)

    @property
    def collecting(self) -> bool:
        """Whether events of tasks are collected."""
        return self._until is not None

    def read(self, name: str | None, most: int) -> list[Happened]:
        """Return the latest events, of one name where it is given, the newest first; go on collecting for a while."""
        if self._until is None:
            for each in NAMES:
                if each != OPERATED:
                    self._events.on(each, self._note)
        self._until = self._clock.ticks() + LINGER * SECOND
        both = newest_first((*self._latest, *self._operated))
        return [each for each in both if name in (None, each.name)][:most]

    def _note(self, event: Event) -> None:
        if event.name != OPERATED and (self._until is None or self._clock.ticks() >= self._until):
            self._stop()
            return
        task, group, detail = event.task, event.group, event.detail
        found = Happened(
            name=event.name,
            at=event.at if task is None else instant_of(event.name, task) or event.at,
            task_id=None if task is None else task.task_id,
            type=None if task is None else task.type,
            queue=None if task is None else task.queue,
            error=None if task is None or task.error_message is None else first_line(task.error_message),
            group=None if group is None else group.group_id,
        )
        if event.name == OPERATED:
            targets = [str(each) for each in detail.get("targets", ())][:20]
            action, actor = str(detail.get("action", "")), str(detail.get("actor", ""))
            self._operated.append(msgspec.structs.replace(found, action=action, actor=actor, targets=targets))
        else:
            self._latest.append(found)

    def _stop(self) -> None:
        """Collect nothing more: the next event after the last reader has gone ends it."""
        self._until = None
        self._latest.clear()
        for each in NAMES:
            if each != OPERATED:
                self._events.off(each, self._note)
