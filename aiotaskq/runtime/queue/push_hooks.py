"""Calls the hook ``pushed`` and logs the push: at once, or after the commit of the caller's own transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from aiotaskq.backends.flow.transaction import Followed
from aiotaskq.concurrency.clock import Clock
from aiotaskq.concurrency.loop_bound import LoopBound, running_loop_or_none
from aiotaskq.core.status import Status
from aiotaskq.core.task import Task
from aiotaskq.errors import AiotaskqError
from aiotaskq.log import gate, log
from aiotaskq.runtime.hooks import Hooks
from aiotaskq.runtime.task_log import log_not_started, log_pushed

if TYPE_CHECKING:
    from aiotaskq.backends.base import Backend


class PushedHooks:
    """Calls ``pushed``: at once for a push of the queue, after the commit for one in a transaction of the caller's."""

    def __init__(self, backend: Backend, clock: Clock, hooks: Hooks) -> None:
        self._backend = backend
        self._clock = clock
        self._hooks = hooks
        self._reading: set[asyncio.Task[None]] = set()

    def call(self, tasks: Sequence[Task], stored: Sequence[Task]) -> None:
        """Call it for the tasks that are stored themselves; the others conflicted with a row that is there."""
        if gate.open:
            log_pushed(tasks, stored)
        if "pushed" in self._hooks:
            for task, row in zip(tasks, stored, strict=True):
                if row is task:
                    self._hooks.call("pushed", self._clock.now(), task)

    def at_commit(self, tasks: Sequence[Task], stored: Sequence[Task]) -> Callable[[], None]:
        """Return the function to call, from any thread, when the transaction of this push has committed."""
        bound = LoopBound()
        bound.bind()

        def committed() -> None:
            bound.call_soon(self._committed, tasks, stored)  # a loop that is gone has no hooks

        return committed

    def _committed(self, tasks: Sequence[Task], stored: Sequence[Task]) -> None:
        if "pushed" in self._hooks or gate.open:
            self._reading.add(reading := asyncio.create_task(self._call_for_stored(tasks, stored)))
            reading.add_done_callback(self._reading.discard)

    async def _call_for_stored(self, tasks: Sequence[Task], stored: Sequence[Task]) -> None:
        # The transaction has committed, but it may have rolled back to a savepoint before the push.
        new = [task for task, row in zip(tasks, stored, strict=True) if row is task]
        try:
            rows = await self._backend.get([task.task_id for task in new])
        except AiotaskqError as error:
            log.warning("the hook 'pushed' is not called for up to {} tasks: {}", len(new), error)
            return
        there = [task for task, row in zip(new, rows, strict=True) if row is not None]
        self.call(there, there)


OF_GROUPS = frozenset({"group_progress", "group_ended"})


class FollowedHooks:
    """Calls the hooks of what followed from writes of this process."""

    def __init__(self, backend: Backend, clock: Clock, hooks: Hooks, pushed: PushedHooks) -> None:
        self._backend, self._clock, self._hooks, self._pushed = backend, clock, hooks, pushed
        self._bound = LoopBound()
        backend.groups.heard = self.hear

    def bind(self) -> None:
        """Call the hooks in the running loop, also for a commit in another thread."""
        self._bound.bind()

    def hear(self, followed: Followed) -> None:
        """Take what followed; from any thread."""
        pushed = followed.pushed and (gate.open or "pushed" in self._hooks)
        if followed.ended or pushed or (followed.counted and not OF_GROUPS.isdisjoint(self._hooks.hooks)):
            if running_loop_or_none() is not None:
                self._start(followed)
            else:
                self._bound.call_soon(self._start, followed)  # a loop that is gone has no hooks

    def _start(self, followed: Followed) -> None:
        self._hooks.wait_for(asyncio.ensure_future(self._call(followed)))

    async def _call(self, followed: Followed) -> None:
        ids, groups = followed.ended + followed.pushed, list(dict.fromkeys(followed.counted))
        if OF_GROUPS.isdisjoint(self._hooks.hooks):
            groups = []
        try:
            rows = await self._backend.get(ids) if ids else []
            states = await self._backend.groups.get(groups) if groups else []
        except AiotaskqError as error:
            log.warning("hooks are not called for up to {} tasks and {} groups: {}", len(ids), len(groups), error)
            return
        now = self._clock.now()
        ended = [row for row in rows[: len(followed.ended)] if row is not None and row.final]
        for row in ended:
            log_not_started(row)
            self._hooks.call("cancelled" if row.status is Status.CANCELLED else "failed", now, row)
        pushed = [row for row in rows[len(followed.ended) :] if row is not None]
        self._pushed.call(pushed, pushed)
        for state in states:
            if state is not None:  # it may have ended since, by another write, which calls the hook itself
                ended_now = state.group_id in followed.ended_groups
                self._hooks.call_group("group_ended" if ended_now else "group_progress", now, state)
