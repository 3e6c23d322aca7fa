"""Tasks that were popped by hand and not settled yet, and whose they are."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
import weakref
from asyncio import _get_running_loop
from collections import deque
from collections.abc import Iterable
from typing import Any

import msgspec

from aiotaskq.core.task import Task
from aiotaskq.errors import NoOpenTask
from aiotaskq.log import printable

MAX_OPEN = 10_000  # popped and unsettled tasks that are remembered

caller: contextvars.ContextVar[object | None] = contextvars.ContextVar("aiotaskq_caller", default=None)
"""Who pops and settles, where that is not the running coroutine: the facade names its calling thread."""

Key = tuple[str, int]


class OpenPop(msgspec.Struct):
    """A task that was popped and not settled yet.

    ``given_back`` is the thread or coroutine that pushed its id again (the retry recipe): the next ``task_done()`` of
    that one, or of the owner, is answered by this pop and writes nothing.
    """

    task: Task
    owner: weakref.ref[Any]
    given_back: weakref.ref[Any] | None = None
    told: bool = False
    """Whether a warning was given that it was left open."""

    def belongs_to(self, caller: object) -> bool:
        """Whether this thread or coroutine popped the task, or pushed its id again."""
        return self.owner() is caller or (self.given_back is not None and self.given_back() is caller)


def _me() -> object:
    """Return the running coroutine's task, or in a thread without a loop that thread."""
    loop = _get_running_loop()
    return threading.current_thread() if loop is None else caller.get() or asyncio.current_task(loop)


class OpenPops:
    """The pops of one queue. Thread-safe: an app's loop and legacy threads may share a queue in memory.

    There is no lock, which would cost a thread more than all the rest: each step is one call of a dict or a deque, and
    whoever takes a pop out of ``_open`` has it. The two indexes may name pops that are gone; thousands may be open.
    """

    def __init__(self) -> None:
        self._open: dict[Key, OpenPop] = {}  # by id and fence: an id handed back may be open twice
        self._by_owner: dict[int, deque[Key]] = {}  # in the order of the pops, by the `id` of whose they are
        self._newest: dict[str, Key] = {}  # by task id

    def add(self, task: Task) -> OpenPop | None:
        """Remember a task that was just popped; return the oldest pop if that had to be forgotten for it."""
        me = _me()
        key = task.task_id, task.fence
        self._open[key] = OpenPop(task, weakref.ref(me))
        self._newest[task.task_id] = key
        mine = self._by_owner.setdefault(id(me), deque())
        mine.append(key)
        if len(mine) > 1_000 + len(self._open):  # all were settled by name
            self._by_owner[id(me)] = deque(key for key in list(mine) if key in self._open)
        if len(self._by_owner) > 1_000 + len(self._open):
            self._by_owner = {owner: keys for owner, keys in list(self._by_owner.items()) if keys}
        if len(self._open) > MAX_OPEN:
            with contextlib.suppress(RuntimeError, StopIteration):  # somebody else added or took meanwhile: next time
                return self._take(next(iter(self._open)))
        return None

    def left_open(self) -> Task | None:
        """Return the caller's newest task if it is not settled; each task once."""
        me = _me()
        mine = self._by_owner.get(id(me))
        while mine:
            pop = self._open.get(mine[-1])
            if pop is not None and pop.belongs_to(me):
                if pop.told or pop.given_back is not None:
                    return None
                pop.told = True
                return pop.task
            mine.pop()
        return None

    def _take(self, key: Key) -> OpenPop | None:
        pop = self._open.pop(key, None)
        if pop is not None and self._newest.get(key[0]) == key:
            self._newest.pop(key[0], None)
        return pop

    def given_back(self, task: Task) -> None:
        """Note that the popped task was pushed again, so that it needs no settling."""
        key = task.task_id, task.fence
        if (pop := self._open.get(key)) is not None:
            me = _me()
            pop.given_back = weakref.ref(me)
            if pop.owner() is not me:
                self._by_owner.setdefault(id(me), deque()).append(key)

    def take(self, task_id: str | None) -> OpenPop:
        """Take out the caller's newest unsettled pop, else the oldest of any thread; or the one named.

        Raises NoOpenTask.
        """
        taken = (self._take_mine() or self._take_oldest()) if task_id is None else self._take_named(task_id)
        if taken is not None:
            return taken
        if task_id is not None:
            raise NoOpenTask(f"task_done(): task {printable(task_id)} was not popped here, or is settled already")
        raise NoOpenTask("task_done() called with no popped task open in any thread or coroutine")

    def _take_mine(self) -> OpenPop | None:
        # The newest, also where it was given back: a `task_done()` in `finally` means that one. An older one may be
        # open because its handler failed; to complete it would lose it.
        me = _me()
        mine = self._by_owner.get(id(me), deque())
        while mine:
            key = mine.pop()
            pop = self._open.get(key)  # it may be settled by name; or be of an earlier object in this place of memory
            if pop is not None and pop.belongs_to(me) and (taken := self._take(key)) is not None:
                return taken
        return None

    def _take_oldest(self) -> OpenPop | None:
        pops = list(self._open.items())
        return self._first(key for key, pop in pops if pop.given_back is None) or self._first(key for key, _ in pops)

    def _take_named(self, task_id: str) -> OpenPop | None:
        me = _me()
        newest = self._newest.get(task_id)
        pop = None if newest is None else self._open.get(newest)
        if newest is not None and pop is not None and pop.owner() is me and pop.given_back is None:
            return self._take(newest)
        named = [(key, pop) for key, pop in reversed(list(self._open.items())) if key[0] == task_id]
        named.sort(key=lambda item: (not item[1].belongs_to(me), item[1].given_back is not None))
        return self._first(key for key, _ in named)

    def _first(self, keys: Iterable[Key]) -> OpenPop | None:
        return next((taken for key in keys if (taken := self._take(key)) is not None), None)

    def put_back(self, pop: OpenPop) -> None:
        """Undo a ``take``: the pop could not be settled, and is its owner's newest again."""
        key = pop.task.task_id, pop.task.fence
        self._open[key] = pop
        self._newest.setdefault(pop.task.task_id, key)
        self._by_owner.setdefault(id(pop.owner()), deque()).append(key)

    def adopt(self, other: OpenPops) -> None:
        """Take over the pops of another queue object of the same store, which is used no more."""
        self._open.update(other._open)
        for owner, keys in other._by_owner.items():
            self._by_owner.setdefault(owner, deque()).extend(keys)
        self._newest.update(other._newest)
