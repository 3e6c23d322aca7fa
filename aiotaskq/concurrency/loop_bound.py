"""Ties an object to one event loop of one process: its connections, futures and tasks are of no use anywhere else.

An event loop ends, and a forked child inherits copies of its parent's loops, which never run there. An object that can
outlive its loop holds a ``LoopBound``, asks it whether the loop is still the running one, and otherwise makes anew what
belonged to that loop.
"""

from __future__ import annotations

import asyncio
import os
from asyncio import AbstractEventLoop

# The public get_running_loop() raises where no loop runs; the exception costs too much in calls that need none.
from asyncio import _get_running_loop as running_loop_or_none
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[[], object])


class LoopBound:
    """The event loop, and with it the process, that an object belongs to; at first none."""

    __slots__ = ("_pid", "loop")

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        """The loop, which may be closed, or a copy of the parent's."""
        self._pid = 0

    def bind(self) -> bool:
        """Bind to the running loop; return whether that is another one than before. Raises NoRunningLoop."""
        loop, pid = running_loop(), os.getpid()
        if self.loop is loop and self._pid == pid:
            return False
        self.loop, self._pid = loop, pid
        return True

    def release(self) -> None:
        """Belong to no loop."""
        self.loop, self._pid = None, 0

    @property
    def here(self) -> bool:
        """Whether the running loop is this one; False where no loop runs."""
        return self.loop is not None and self.loop is running_loop_or_none() and self._pid == os.getpid()

    @property
    def alive(self) -> bool:
        """Whether there is a loop, of this process and not closed."""
        return self.loop is not None and not self.loop.is_closed() and self._pid == os.getpid()

    @property
    def running(self) -> bool:
        """Whether the loop runs, in this process."""
        return self.loop is not None and self.loop.is_running() and self._pid == os.getpid()

    @property
    def inherited(self) -> bool:
        """Whether the loop is one of the parent, from which this process was forked."""
        return self._pid not in (0, os.getpid())

    def call_soon(self, function: Callable[..., object], *args: Any) -> bool:
        """Call a function in the loop soon, from any thread; return False, and do nothing, if the loop is gone."""
        if self.loop is None or not self.alive:
            return False
        try:
            self.loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # closed since the question
            return False
        return True


def after_fork(function: F) -> F:
    """Have the function called in every forked child, before anything else runs there. A decorator."""
    if hasattr(os, "register_at_fork"):  # not on Windows
        os.register_at_fork(after_in_child=function)
    return function


_kept: list[object] = []


def keep_alive(*objects: object) -> None:
    """Keep objects from ever being collected in this process.

    In a forked child that would close what the parent still uses: a loop shares its epoll, a connection its socket.
    """
    _kept.extend(objects)


__all__ = ["NEEDS_LOOP", "NoRunningLoop", "running_loop", "running_loop_or_none"]


NEEDS_LOOP: Any = object()
"""Returned instead of a value by a function that would have to wait, which takes an event loop; nothing is changed."""


class NoRunningLoop(RuntimeError):
    """A coroutine has to wait, which takes a running event loop. Nothing was changed."""


def running_loop() -> AbstractEventLoop:
    """Return the event loop that the calling thread runs; raises NoRunningLoop."""
    loop = running_loop_or_none()
    if loop is None:
        raise NoRunningLoop("no running event loop")
    return loop
