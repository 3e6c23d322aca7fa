"""Popped tasks that are not settled yet (unacked), and the thread or coroutine that has popped each."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
import weakref
from collections import deque
from collections.abc import Iterable
from typing import Any

import msgspec

from aiotaskq.concurrency.running_loop import running_loop_or_none
from aiotaskq.core.task import Task
from aiotaskq.errors import NoOpenTask
from aiotaskq.log import printable

MAX_UNACKED = 10_000  # unacked tasks that are kept; of more the oldest is forgotten

caller: contextvars.ContextVar[object | None] = contextvars.ContextVar("aiotaskq_caller", default=None)
"""The thread that pops and settles, where a coroutine does it for the thread: the blocking facade sets it."""

Key = tuple[str, int]


class UnackedTask(msgspec.Struct):
    """A task that was popped and is not settled."""

    task: Task
    owner: weakref.ref[Any]
    """The thread, or the asyncio task, that has popped it."""
    given_back: weakref.ref[Any] | None = None
    """The thread or asyncio task that pushed its id again, as the documented retry recipe does. Its next
    ``task_done()``, or the next of the owner, is for this task, and writes nothing."""
    warned: bool = False
    """Whether a warning was logged that it was not settled before the next pop."""

    def belongs_to(self, caller: object) -> bool:
        """Whether this thread or coroutine popped the task, or pushed its id again."""
        return self.owner() is caller or (self.given_back is not None and self.given_back() is caller)


def _current_owner() -> object:
    """Return the running asyncio task, or in a thread without a loop that thread."""
    loop = running_loop_or_none()
    return threading.current_thread() if loop is None else caller.get() or asyncio.current_task(loop)


class Unacked:
    """The unacked tasks of one queue. Thread-safe, since threads and event loops may share a queue in memory.

    It has no lock, which would take longer than the rest of a pop: each step is one call of a dict or a deque. The
    thread that removes an entry from ``_unacked`` has it. The two indexes may name entries that are gone.
    """

    def __init__(self) -> None:
        self._unacked: dict[Key, UnackedTask] = {}  # by id and fence: an id that is handed back may be in here twice
        self._by_owner: dict[int, deque[Key]] = {}  # in the order of the pops, by the `id()` of the owner
        self._newest: dict[str, Key] = {}  # by task id

    def add(self, task: Task) -> UnackedTask | None:
        """Keep a task that was just popped; return the oldest one if there are too many, and it is forgotten."""
        me = _current_owner()
        key = task.task_id, task.fence
        self._unacked[key] = UnackedTask(task, weakref.ref(me))
        self._newest[task.task_id] = key
        mine = self._by_owner.setdefault(id(me), deque())
        mine.append(key)
        if len(mine) > 1_000 + len(self._unacked):  # most were settled by name
            self._by_owner[id(me)] = deque(key for key in list(mine) if key in self._unacked)
        if len(self._by_owner) > 1_000 + len(self._unacked):
            self._by_owner = {owner: keys for owner, keys in list(self._by_owner.items()) if keys}
        if len(self._unacked) > MAX_UNACKED:
            with contextlib.suppress(RuntimeError, StopIteration):  # another thread changes it: next time
                return self._take(next(iter(self._unacked)))
        return None

    def left_open(self) -> Task | None:
        """Return the caller's newest task if it is unacked; each task only once."""
        me = _current_owner()
        mine = self._by_owner.get(id(me))
        while mine:
            pop = self._unacked.get(mine[-1])
            if pop is not None and pop.belongs_to(me):
                if pop.warned or pop.given_back is not None:
                    return None
                pop.warned = True
                return pop.task
            mine.pop()
        return None

    def _take(self, key: Key) -> UnackedTask | None:
        pop = self._unacked.pop(key, None)
        if pop is not None and self._newest.get(key[0]) == key:
            self._newest.pop(key[0], None)
        return pop

    def given_back(self, task: Task) -> None:
        """Note that the task was pushed again, so that it need not be settled."""
        key = task.task_id, task.fence
        if (pop := self._unacked.get(key)) is not None:
            me = _current_owner()
            pop.given_back = weakref.ref(me)
            if pop.owner() is not me:
                self._by_owner.setdefault(id(me), deque()).append(key)

    def take(self, task_id: str | None) -> UnackedTask:
        """Remove and return the task of that id; without an id the caller's newest, or else the oldest of any thread.

        Raises NoOpenTask if there is none.
        """
        taken = (self._take_mine() or self._take_oldest()) if task_id is None else self._take_named(task_id)
        if taken is not None:
            return taken
        if task_id is not None:
            raise NoOpenTask(f"task_done(): task {printable(task_id)} was not popped here, or is settled already")
        raise NoOpenTask("task_done() called with no popped task open in any thread or coroutine")

    def _take_mine(self) -> UnackedTask | None:
        # The newest, also if it was pushed again: a `task_done()` in `finally` means that one. An older task may be
        # unacked because its handler failed; to complete that one would lose it.
        me = _current_owner()
        mine = self._by_owner.get(id(me), deque())
        while mine:
            key = mine.pop()
            pop = self._unacked.get(key)  # it may be settled by name; or of an earlier owner with the same `id()`
            if pop is not None and pop.belongs_to(me) and (taken := self._take(key)) is not None:
                return taken
        return None

    def _take_oldest(self) -> UnackedTask | None:
        pops = list(self._unacked.items())
        return self._first(key for key, pop in pops if pop.given_back is None) or self._first(key for key, _ in pops)

    def _take_named(self, task_id: str) -> UnackedTask | None:
        me = _current_owner()
        newest = self._newest.get(task_id)
        pop = None if newest is None else self._unacked.get(newest)
        if newest is not None and pop is not None and pop.owner() is me and pop.given_back is None:
            return self._take(newest)
        named = [(key, pop) for key, pop in reversed(list(self._unacked.items())) if key[0] == task_id]
        named.sort(key=lambda item: (not item[1].belongs_to(me), item[1].given_back is not None))
        return self._first(key for key, _ in named)

    def _first(self, keys: Iterable[Key]) -> UnackedTask | None:
        return next((taken for key in keys if (taken := self._take(key)) is not None), None)

    def put_back(self, pop: UnackedTask) -> None:
        """Undo a ``take``, because the task could not be settled: it is its owner's newest again."""
        key = pop.task.task_id, pop.task.fence
        self._unacked[key] = pop
        self._newest.setdefault(pop.task.task_id, key)
        self._by_owner.setdefault(id(pop.owner()), deque()).append(key)
