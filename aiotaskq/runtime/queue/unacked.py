"""Popped tasks that are not settled yet (unacked), and the thread or coroutine that has popped each."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections import deque
from collections.abc import Iterable
from weakref import WeakKeyDictionary

import msgspec

from aiotaskq.concurrency.loop_bound import running_loop_or_none
from aiotaskq.core.errors import check_id
from aiotaskq.core.task import Task
from aiotaskq.errors import NoOpenTask
from aiotaskq.log import printable

MAX_UNACKED = 10_000  # unacked tasks that are kept; of more the oldest is forgotten

caller: contextvars.ContextVar[object | None] = contextvars.ContextVar("aiotaskq_caller", default=None)
"""The thread that pops and settles, where a coroutine does it for the thread: the blocking facade sets it."""


class UnackedTask(msgspec.Struct, eq=False):
    """A task that was popped and is not settled."""

    task: Task
    owner: deque[UnackedTask]
    """The unacked tasks of the thread, or of the asyncio task, that has popped it."""
    given_back: deque[UnackedTask] | None = None
    """Those of the thread or asyncio task that pushed its id again, as the documented retry recipe does. Its next
    ``task_done()``, or the next of the owner, is for this task, and writes nothing."""
    warned: bool = False
    """Whether a warning was logged that it was not settled before the next pop."""

    def __repr__(self) -> str:  # the default one would show all tasks of the owner
        return f"<UnackedTask {self.task!r}>"

    def belongs_to(self, unacked: deque[UnackedTask]) -> bool:
        """Whether the thread or coroutine with these unacked tasks popped it, or pushed its id again."""
        return self.owner is unacked or self.given_back is unacked


class _Thread(threading.local):
    """The unacked tasks of the current thread; None before its first pop."""

    unacked: deque[UnackedTask] | None = None


class Unacked:
    """The unacked tasks of one queue. Thread-safe, since threads and event loops may share a queue in memory.

    It has no lock, which would take longer than the rest of a pop: each step is one call of a dict or a deque. The
    thread that removes an entry from ``_unacked`` has it. The other indexes may name one that was just removed.
    """

    def __init__(self) -> None:
        self._unacked: dict[UnackedTask, bool] = {}  # in the order of the pops
        self._newest: dict[str, UnackedTask] = {}  # by task id; an id that is handed back may be open twice
        self._by_owner: WeakKeyDictionary[object, deque[UnackedTask]] = WeakKeyDictionary()
        self._thread = _Thread()

    @property
    def tasks(self) -> list[Task]:
        """The unacked tasks, in the order of the pops."""
        return [pop.task for pop in list(self._unacked)]

    def _mine(self) -> deque[UnackedTask]:
        """Return the unacked tasks of the running asyncio task, or in a thread without a loop those of the thread."""
        loop = running_loop_or_none()
        if loop is not None:
            return self._by_owner.setdefault(caller.get() or asyncio.current_task(loop), deque())
        if (mine := self._thread.unacked) is None:
            mine = self._thread.unacked = self._by_owner.setdefault(threading.current_thread(), deque())
        return mine

    def add(self, task: Task) -> UnackedTask | None:
        """Keep a task that was just popped; return the oldest one if there are too many, and it is forgotten."""
        mine = self._thread.unacked
        if mine is None or running_loop_or_none() is not None:
            mine = self._mine()
        pop = UnackedTask(task, mine)
        self._unacked[pop] = True
        self._newest[task.task_id] = pop
        mine.append(pop)
        if len(self._unacked) > MAX_UNACKED:
            with contextlib.suppress(RuntimeError, StopIteration):  # another thread changes it: next time
                return self._first([next(iter(self._unacked))])
        return None

    def left_open(self) -> Task | None:
        """Return the caller's newest task if it is unacked; each task only once."""
        mine = self._mine()
        pop = mine[-1] if mine else None
        if pop is None or pop.warned or pop.given_back is not None:
            return None
        pop.warned = True
        return pop.task

    def given_back(self, task: Task) -> None:
        """Note that the task was pushed again, so that it need not be settled."""
        for pop in self._named(task.task_id):
            if pop.task.fence == task.fence:
                pop.given_back = mine = self._mine()
                if mine is not pop.owner:
                    mine.append(pop)

    def take(self, task_id: str | None = None) -> UnackedTask:
        """Remove and return the task of that id; without an id the caller's newest, or else the oldest of any thread.

        Raises NoOpenTask if there is none, and ValidationError for an id that is not hashable.
        """
        mine = self._thread.unacked
        if mine is None or running_loop_or_none() is not None:
            mine = self._mine()
        if task_id is not None:
            check_id(task_id, any_id=True)
            named = self._named(task_id, mine)
            named.sort(key=lambda pop: (not pop.belongs_to(mine), pop.given_back is not None))
            if (taken := self._first(named)) is None:
                raise NoOpenTask(f"task_done(): task {printable(task_id)} was not popped here, or is settled already")
            return taken
        # The newest, also if it was pushed again: a `task_done()` in `finally` means that one. An older task may be
        # unacked because its handler failed; to complete that one would lose it.
        while mine:
            try:
                pop = mine.pop()
            except IndexError:  # another thread has taken it as the oldest of any
                break
            if self._unacked.pop(pop, False):
                if self._newest.get(pop.task.task_id) is pop:
                    self._newest.pop(pop.task.task_id, None)
                if pop.given_back is not None:
                    self._unlink(pop)
                return pop
        if (taken := self._first(sorted(self._unacked, key=lambda pop: pop.given_back is not None))) is None:
            raise NoOpenTask("task_done() called with no popped task open in any thread or coroutine")
        return taken

    def _named(self, task_id: str, mine: deque[UnackedTask] | None = None) -> list[UnackedTask]:
        """Return the unacked tasks of that id, the newest first; only that one if it is among ``mine``."""
        newest = self._newest.get(task_id)
        if newest is not None and newest.given_back is None and newest.owner is mine:
            return [newest]
        return [pop for pop in reversed(list(self._unacked)) if pop.task.task_id == task_id]

    def _first(self, pops: Iterable[UnackedTask]) -> UnackedTask | None:
        """Remove and return the first of these tasks that is still unacked."""
        for pop in pops:
            if self._unacked.pop(pop, False):
                if self._newest.get(pop.task.task_id) is pop:
                    self._newest.pop(pop.task.task_id, None)
                self._unlink(pop)
                return pop
        return None

    @staticmethod
    def _unlink(pop: UnackedTask) -> None:
        for unacked in (pop.owner, pop.given_back):
            with contextlib.suppress(ValueError, AttributeError):
                unacked.remove(pop)  # type: ignore[union-attr]  # it may be None

    def put_back(self, pop: UnackedTask) -> None:
        """Undo a ``take``, because the task could not be settled: it is its owner's newest again."""
        self._unacked[pop] = True
        self._newest.setdefault(pop.task.task_id, pop)
        pop.owner.append(pop)
