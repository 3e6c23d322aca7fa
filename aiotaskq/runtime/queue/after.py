"""Lets tasks go on that were pushed after others, once these have ended."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from aiotaskq.backends.listeners import AFTER, ENDED
from aiotaskq.concurrency.clock import Clock
from aiotaskq.concurrency.poller import Poller
from aiotaskq.core.task import SECOND

if TYPE_CHECKING:
    from aiotaskq.backends.base import Backend

IDLE = 86_400.0  # seconds between two rounds while nothing is known to wait
MOST = 10_000  # ids whose ends are heard of; the rounds of the reaper look at the others


class AfterSweep(Poller):
    """Looks at the parents of tasks that were pushed after them, when it hears that one has ended, and at intervals.

    It begins with the first such push of this process, or with its worker. A hint can be lost, and the process that
    pushes can end: the rounds of the reaper of any worker look at all parents. While nothing waits it listens to no
    end, so that others cost nothing more.
    """

    def __init__(self, backend: Backend, clock: Clock, interval: float) -> None:
        """``interval``: the seconds between two looks while something waits, in a store that others write, too."""
        super().__init__("after", self._look, clock)
        self._backend, self._interval = backend, interval if backend.shared else IDLE
        self._awaited: dict[str, str] = {}  # by the id whose end is heard of, that of the parent
        self._ended: set[str] = set()  # parents to look at
        self._next = 0  # ticks of the next look at all
        self._stop_listening: Callable[[], None] | None = None
        self._lock = threading.Lock()
        backend.listeners.listen(self._hear_push, AFTER)

    async def start(self) -> None:
        """Start in the running loop; idempotent. It receives the hints of other processes."""
        if not self.running:
            if self._backend.shared:
                await self._backend.watch()
            await super().start()

    async def look_at_all(self) -> None:
        """Look at every parent in the store."""
        self._hear_of(await self._backend.after.follow_all(self._clock.now()))

    async def _look(self) -> float:
        with self._lock:
            parents, self._ended = self._ended, set()
            if self._clock.ticks() >= self._next:
                parents |= set(self._awaited.values())
        if parents:
            self._next = 0  # after an error the next look is at all
            awaited = await self._backend.after.follow(sorted(parents), self._clock.now())
            self._next = self._clock.ticks() + int(self._interval * SECOND)
            with self._lock:
                left = {key: parent for key, parent in self._awaited.items() if parent not in parents}
                self._awaited = dict(islice((left | awaited).items(), MOST))
                self._listen()
        return self._interval if self._awaited else IDLE

    def _hear_of(self, awaited: Mapping[str, str]) -> None:
        """Listen to these ends; then look, since they may have come before."""
        if awaited and self.running:
            with self._lock:
                self._awaited.update(awaited)
                self._ended.update(awaited.values())
                self._listen()
            self.wake()

    def _hear_push(self, _kind: str, names: Sequence[str]) -> None:
        self._hear_of(dict(zip(names, names, strict=True)))

    def _hear_end(self, _kind: str, names: Sequence[str]) -> None:
        with self._lock:
            found = {self._awaited[name] for name in names or self._awaited if name in self._awaited}
            self._ended |= found
        if found:
            self.wake()

    def _listen(self) -> None:
        if self._awaited and self._stop_listening is None:
            self._stop_listening = self._backend.listeners.listen(self._hear_end, ENDED)
        elif not self._awaited and self._stop_listening is not None:
            self._stop_listening()
            self._stop_listening = None
