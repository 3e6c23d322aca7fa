"""What a coroutine waits for until it should look again, and what any thread may call to wake it."""

from __future__ import annotations

import asyncio
from typing import Protocol

from aiotaskq.concurrency.loop_bound import LoopBound


class Waitable(Protocol):
    """What can be waited for, as an asyncio.Event."""

    def is_set(self) -> bool:
        """Return whether there is nothing to wait for."""

    async def wait(self) -> object:
        """Wait until that is so."""


class Wakeup(Waitable, Protocol):
    """Wakes one coroutine, which looks for work, waits here, and looks again."""

    asked: bool
    """Whether it was called, or is about to be set, since it was cleared."""

    def __call__(self) -> None:
        """Wake the coroutine, from any thread."""

    def clear(self) -> None:
        """Begin anew before a look: a call from now on wakes the coroutine again."""

    def close(self) -> None:
        """Say that nothing will wait here any more."""


class Arrivals(Wakeup, Protocol):
    """A wakeup that the arrival of tasks sets, too."""

    wanted: bool
    """Whether the coroutine can take tasks; without that only a call sets it."""


class LoopWakeup:
    """An event of one loop that any thread may set."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.asked = False
        self._bound = LoopBound()
        self._bound.bind()

    def __call__(self) -> None:
        """Set the event, from any thread; a loop that has ended needs no waking."""
        if self.asked:
            return
        self.asked = True
        if self._bound.here:
            self._event.set()
        else:
            self._bound.call_soon(self._event.set)

    def clear(self) -> None:
        """Clear the event: what is told from now on sets it again."""
        self.asked = False
        self._event.clear()

    def is_set(self) -> bool:
        """Return whether the event is set."""
        return self._event.is_set()

    async def wait(self) -> None:
        """Wait until the event is set."""
        await self._event.wait()

    def close(self) -> None: ...
