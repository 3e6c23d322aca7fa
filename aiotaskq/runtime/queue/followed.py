"""Emits the events of what follows from the ends of tasks: callbacks, children that end by it, and groups.

The store writes all of that in the transaction that ends the tasks, and names what it wrote (``backends.flow.groups``).
The process that has ended them reads it after the commit, if there are listeners, and emits the events.
"""

from __future__ import annotations

import asyncio

from aiotaskq.backends.base import Backend
from aiotaskq.backends.flow.groups import Followed
from aiotaskq.concurrency.clock import Clock
from aiotaskq.concurrency.loop_bound import LoopBound
from aiotaskq.concurrency.running_loop import running_loop_or_none
from aiotaskq.core.task import Status
from aiotaskq.errors import AiotaskqError
from aiotaskq.log import gate, log
from aiotaskq.runtime.events import Events
from aiotaskq.runtime.queue.push_events import PushedEvents
from aiotaskq.runtime.task_log import log_not_started

OF_GROUPS = frozenset({"group_progress", "group_ended"})


class FollowedEvents:
    """Emits the events of what followed from writes of this process."""

    def __init__(self, backend: Backend, clock: Clock, events: Events, pushed: PushedEvents) -> None:
        self._backend, self._clock, self._events, self._pushed = backend, clock, events, pushed
        self._bound = LoopBound()
        backend.groups.heard = self.hear

    def bind(self) -> None:
        """Emit in the running loop what follows from a commit in another thread."""
        self._bound.bind()

    def hear(self, followed: Followed) -> None:
        """Take what followed; from any thread."""
        pushed = followed.pushed and (gate.open or "pushed" in self._events)
        if followed.ended or pushed or (followed.counted and not OF_GROUPS.isdisjoint(self._events.listeners)):
            if running_loop_or_none() is not None:
                self._start(followed)
            else:
                self._bound.call_soon(self._start, followed)  # a loop that is gone has no listeners

    def _start(self, followed: Followed) -> None:
        self._events.wait_for(asyncio.ensure_future(self._emit(followed)))

    async def _emit(self, followed: Followed) -> None:
        ids, groups = followed.ended + followed.pushed, list(dict.fromkeys(followed.counted))
        if OF_GROUPS.isdisjoint(self._events.listeners):
            groups = []
        try:
            rows = await self._backend.get(ids) if ids else []
            states = await self._backend.groups.get(groups) if groups else []
        except AiotaskqError as error:
            log.warning("events are missing for up to {} tasks and {} groups: {}", len(ids), len(groups), error)
            return
        now = self._clock.now()
        ended = [row for row in rows[: len(followed.ended)] if row is not None and row.final]
        for row in ended:
            log_not_started(row)
            self._events.emit("cancelled" if row.status is Status.CANCELLED else "failed", now, row)
        pushed = [row for row in rows[len(followed.ended) :] if row is not None]
        self._pushed.emit(pushed, pushed)
        for state in states:
            if state is not None:  # it may have ended since, by another write, which emits that itself
                ended_now = state.group_id in followed.ended_groups
                self._events.emit_group("group_ended" if ended_now else "group_progress", now, state)
