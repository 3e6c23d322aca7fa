"""Calls the hooks of a push and of what follows from a write, at once or after the commit of the caller's session."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from aiotaskq.backends.flow.transaction import Followed
from aiotaskq.backends.listeners import AFTER
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


OF_GROUPS = frozenset({"group_progress", "group_ended"})


class CommitHooks:
    """Calls ``pushed``, and tells what followed from writes of this process, once they are committed."""

    def __init__(self, backend: Backend, clock: Clock, hooks: Hooks) -> None:
        self._backend, self._clock, self._hooks = backend, clock, hooks
        self._bound = LoopBound()
        self.not_started: Callable[[Task], None] | None = None
        """Called with each task that ended since one that it waited for did not complete."""
        backend.groups.heard = self.hear

    def pushed(self, tasks: Sequence[Task], stored: Sequence[Task]) -> None:
        """Call ``pushed`` for the tasks that are stored themselves; the others conflicted with a row that is there."""
        if gate.open:
            log_pushed(tasks, stored)
        if "pushed" in self._hooks:
            for task, row in zip(tasks, stored, strict=True):
                if row is task:
                    self._hooks.call("pushed", self._clock.now(), task)

    def at_commit(self, tasks: Sequence[Task], stored: Sequence[Task]) -> Callable[[], None]:
        """Return the function to call, from any thread, when the transaction of this push has committed.

        It may have rolled back to a savepoint before the push, so what is stored is read.
        """
        bound = LoopBound()
        bound.bind()

        def read() -> None:
            if "pushed" in self._hooks or gate.open:
                new = {task.task_id: task for task, row in zip(tasks, stored, strict=True) if row is task}
                self._start(Followed(pushed=list(new)), new)

        def committed() -> None:
            bound.call_soon(read)  # a loop that is gone has no hooks

        return committed

    def bind(self) -> None:
        """Call the hooks of what follows in the running loop, also for a commit in another thread."""
        self._bound.bind()

    def hear(self, followed: Followed) -> None:
        """Take what followed; from any thread."""
        if followed.awaited:
            self._backend.listeners.notify(AFTER, followed.awaited)
        pushed = followed.pushed and (gate.open or "pushed" in self._hooks)
        if followed.ended or pushed or (followed.counted and not OF_GROUPS.isdisjoint(self._hooks.hooks)):
            if running_loop_or_none() is not None:
                self._start(followed)
            else:
                self._bound.call_soon(self._start, followed)  # a loop that is gone has no hooks

    def _start(self, followed: Followed, new: Mapping[str, Task] = {}) -> None:
        self._hooks.wait_for(asyncio.ensure_future(self._call(followed, new)))

    async def _call(self, followed: Followed, new: Mapping[str, Task]) -> None:
        ids, groups = followed.ended + followed.pushed, list(dict.fromkeys(followed.counted))
        if OF_GROUPS.isdisjoint(self._hooks.hooks):
            groups = []
        try:
            rows = await self._backend.get(ids) if ids else []
            states = await self._backend.groups.get(groups) if groups else []
        except AiotaskqError as error:
            names = "the hook 'pushed' is" if new else "hooks are"
            log.warning("{} not called for up to {} tasks and {} groups: {}", names, len(ids), len(groups), error)
            return
        now = self._clock.now()
        ended = [row for row in rows[: len(followed.ended)] if row is not None and row.final]
        for row in ended:
            log_not_started(row)
            if self.not_started is not None:
                self.not_started(row)
            self._hooks.call("cancelled" if row.status is Status.CANCELLED else "failed", now, row)
        pushed = [new.get(row.task_id, row) for row in rows[len(followed.ended) :] if row is not None]
        self.pushed(pushed, pushed)
        for state in states:
            if state is not None:  # it may have ended since, by another write, which calls the hook itself
                ended_now = state.group_id in followed.ended_groups
                self._hooks.call("group_ended" if ended_now else "group_progress", now, group=state)
