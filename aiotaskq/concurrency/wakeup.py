"""Events that any thread may set, to wake a coroutine that looks for work, waits, and looks again."""

from __future__ import annotations

import asyncio
from typing import Protocol

from aiotaskq.concurrency.loop_bound import LoopBound


class Waitable(Protocol):
    """The part of asyncio.Event that is needed to wait."""

    def is_set(self) -> bool:
        """Return whether it is set."""

    async def wait(self) -> object:
        """Wait until it is set."""


class Wakeup(Waitable, Protocol):
    """An event that wakes one coroutine."""

    asked: bool
    """Whether it was called since it was cleared; it may not be set yet."""

    def __call__(self) -> None:
        """Wake the coroutine, from any thread."""

    def clear(self) -> None:
        """Clear the event. To be done before a look for work, so that no later call is missed."""

    def close(self) -> None:
        """Free what it holds; nothing waits for it any more."""


class Arrivals(Wakeup, Protocol):
    """A wakeup that is also set when tasks arrive."""

    wanted: bool
    """Whether the coroutine can take tasks; if not, only a call sets it."""


class LoopWakeup(asyncio.Event):
    """A wakeup of the loop in which it is made."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = False
        self._bound = LoopBound()
        self._bound.bind()

    def __call__(self) -> None:
        """Set the event, from any thread; does nothing if the loop is closed."""
        if self.asked:
            return
        self.asked = True
        if self._bound.here:
            self.set()
        else:
            self._bound.call_soon(self.set)

    def clear(self) -> None:
        """Clear the event."""
        self.asked = False
        super().clear()

    def close(self) -> None: ...
