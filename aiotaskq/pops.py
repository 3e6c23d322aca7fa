"""Tasks that were popped by hand and not settled yet, and whose they are."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
import weakref
from asyncio import _get_running_loop
from typing import Any

import msgspec

from aiotaskq.errors import NoOpenTask
from aiotaskq.log import printable
from aiotaskq.task import Task

MAX_OPEN = 10_000  # popped and unsettled tasks that are remembered

caller: contextvars.ContextVar[object | None] = contextvars.ContextVar("aiotaskq_caller", default=None)
"""Who pops and settles, where that is not the running coroutine: the facade names its calling thread."""

Key = tuple[str, int]


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


def _me() -> object:
    """Who pops or settles here: the running coroutine, or in a thread without a loop that thread."""
    loop = _get_running_loop()
    return threading.current_thread() if loop is None else caller.get() or asyncio.current_task(loop)


class OpenPops:
    """The pops of one queue. Thread-safe: an app's loop and legacy threads may share a queue in memory.

    There is no lock, which would cost a thread more than all the rest: each step is one call of a dict, and whoever
    takes a pop out of ``_open`` has it.
    """

    def __init__(self) -> None:
        self._open: dict[Key, OpenPop] = {}  # by id and fence: an id handed back may be open twice

    def add(self, task: Task) -> OpenPop | None:
        """Remember a task that was just popped; return the oldest pop if that had to be forgotten for it."""
        self._open[task.task_id, task.fence] = OpenPop(task, weakref.ref(_me()))
        if len(self._open) > MAX_OPEN:
            with contextlib.suppress(RuntimeError, StopIteration):  # somebody else added or took meanwhile: next time
                return self._open.pop(next(iter(self._open)), None)
        return None

    def given_back(self, task: Task) -> None:
        """Note that the popped task was handed back, so that it needs no settling."""
        if (pop := self._open.get((task.task_id, task.fence))) is not None:
            pop.given_back = True

    def take(self, task_id: str | None) -> OpenPop:
        """Take out the oldest unsettled pop of this coroutine (or thread), or the one named. Raises NoOpenTask."""
        me = _me()
        pops = list(self._open.items())
        if task_id is not None:
            named = [item for item in pops if item[0][0] == task_id]
            mine = [item for item in named if item[1].owner() is me] or named
        else:
            mine = [item for item in pops if item[1].owner() is me]
            # A pop inside asyncio.wait_for belongs to a coroutine of its own on Python 3.11; it has ended by now.
            mine = mine or [item for item in pops if item[1].orphaned()]
        if len(mine) > 1:  # one that was handed back only answers for a task_done() that may still come
            mine.sort(key=lambda item: item[1].given_back)
        for key, _ in mine:
            if (taken := self._open.pop(key, None)) is not None:
                return taken
        if task_id is not None:
            raise NoOpenTask(f"task_done(): task {printable(task_id)} was not popped here, or is settled already")
        raise NoOpenTask("task_done() called with no popped task open in this thread or coroutine")

    def adopt(self, other: OpenPops) -> None:
        """Take over the pops of another queue object of the same store, which is used no more."""
        self._open.update(other._open)
