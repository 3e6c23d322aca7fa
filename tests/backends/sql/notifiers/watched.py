"""Stores whose wake-ups are recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aiotaskq.backends.base import Backend
from aiotaskq.backends.listeners import ENDED, READY, TAKEN
from tests.support.backends import Store
from tests.support.machine import watchdog


class Ears:
    """What a backend's listeners are told, and when the last of it came."""

    def __init__(self, backend: Backend) -> None:
        self.heard: list[tuple[str, tuple[str, ...]]] = []
        self.event = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.stop = backend.listeners.listen(self._hear)

    def _hear(self, kind: str, names: Sequence[str]) -> None:
        self.heard.append((kind, tuple(names)))
        self._loop.call_soon_threadsafe(self.event.set)

    async def until(self, *kinds: str, seconds: float | None = None) -> None:
        """Wait until each of these kinds was heard since the last ``forget``; raises TimeoutError."""
        async with asyncio.timeout(watchdog() if seconds is None else seconds):
            while not set(kinds) <= {kind for kind, _ in self.heard}:
                self.event.clear()
                await self.event.wait()

    def forget(self) -> None:
        self.heard.clear()


async def watching(backend: Backend) -> Ears:
    """A backend that watches, and has heard what it always hears first."""
    ears = Ears(backend)
    await backend.watch()
    await ears.until(READY, ENDED, TAKEN)
    ears.forget()
    return ears


def listeners(store: Store) -> list[int]:
    """The server's processes that LISTEN for a client."""
    query = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%' OR (query = 'SELECT 1' AND state = 'idle')"
    return [pid for (pid,) in store.execute(query)]
