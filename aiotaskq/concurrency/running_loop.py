"""The event loop that the calling thread runs, and an error of its own for code that runs in none."""

from __future__ import annotations

from asyncio import AbstractEventLoop

# The public get_running_loop() raises where no loop runs; the exception costs too much in calls that need none.
from asyncio import _get_running_loop as running_loop_or_none
from typing import Any

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
