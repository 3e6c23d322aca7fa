"""Tasks that were popped by hand and not settled yet, and whose they are."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import weakref
from typing import Any

import msgspec

from aiotaskq.errors import NoOpenTask
from aiotaskq.log import printable
from aiotaskq.task import Task

MAX_OPEN = 10_000  # popped and unsettled tasks that are remembered

caller: contextvars.ContextVar[object | None] = contextvars.ContextVar("aiotaskq_caller", default=None)
"""Who pops and settles, where that is not the running coroutine: the facade names its calling thread."""


class OpenPop(msgspec.Struct):
    """A task that was popped and not settled yet. ``given_back`` once its id was pushed again (the retry recipe)."""

    task: Task
    owner: weakref.ref[Any]
    given_back: bool = False

    def orphaned(self) -> bool:
        """Whether the coroutine or thread that popped it has ended."""
        owner = self.owner()
        if isinstance(owner, asyncio.Task):
            return owner.done()
        return owner is None or (isinstance(owner, threading.Thread) and not owner.is_alive())


class OpenPops:
    """The pops of one queue. Thread-safe: an app's loop and legacy threads may share a queue in memory."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, int], OpenPop] = {}  # by id and fence: an id handed back may be open twice
        self._lock = threading.Lock()

    def add(self, task: Task) -> OpenPop | None:
        """Remember a task that was just popped; return the oldest pop if that had to be forgotten for it."""
        owner = caller.get() or asyncio.current_task()
        with self._lock:
            self._open[task.task_id, task.fence] = OpenPop(task, weakref.ref(owner))
            return self._open.pop(next(iter(self._open))) if len(self._open) > MAX_OPEN else None

    def given_back(self, task: Task) -> None:
        """Note that the popped task was handed back, so that it needs no settling."""
        if (pop := self._open.get((task.task_id, task.fence))) is not None:
            pop.given_back = True

    def take(self, task_id: str | None) -> OpenPop:
        """Take out the oldest unsettled pop of this coroutine (or thread), or the one named. Raises NoOpenTask."""
        me = caller.get() or asyncio.current_task()
        with self._lock:
            if task_id is not None:
                named = [pop for pop in self._open.values() if pop.task.task_id == task_id]
                mine = [pop for pop in named if pop.owner() is me] or named
            else:
                mine = [pop for pop in self._open.values() if pop.owner() is me]
                # A pop inside asyncio.wait_for belongs to a coroutine of its own on Python 3.11; it has ended by now.
                mine = mine or [pop for pop in self._open.values() if pop.orphaned()]
            # One that was handed back needs no settling; it only answers for a task_done() that may still come.
            for pop in sorted(mine, key=lambda pop: pop.given_back):
                return self._open.pop((pop.task.task_id, pop.task.fence))
        if task_id is not None:
            raise NoOpenTask(f"task_done(): task {printable(task_id)} was not popped here, or is settled already")
        raise NoOpenTask("task_done() called with no popped task open in this thread or coroutine")

    def adopt(self, other: OpenPops) -> None:
        """Take over the pops of another queue object of the same store, which is used no more."""
        self._open.update(other._open)
