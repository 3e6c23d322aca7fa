"""The stall watch: a thread that notices when an event loop stands still, and says which task it stands still in."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from aiotaskq.concurrency.clock import Clock
from aiotaskq.core.task import SECOND, Task
from aiotaskq.log import log, named

INTERVAL = 0.1  # seconds between two questions to the loop
PATIENCE = 0.25  # seconds without an answer that are a stall


class StallWatch:
    """Asks a loop every 0.1 s whether it runs; one that does not answer for 0.25 s stands still."""

    def __init__(
        self,
        clock: Clock,
        runs_in: Callable[[asyncio.Task[object] | None], Task | None],
        told: Callable[[float, Task | None], None],
    ) -> None:
        """Wire a watch of the loop that starts it.

        ``runs_in`` names the task of ours that a coroutine belongs to, and is called in the watch's thread while the
        loop stands still. ``told(seconds, task)`` is called on the loop when it goes on.
        """
        self._clock = clock
        self._runs_in = runs_in
        self._told = told
        self._stopped = threading.Event()

    def start(self) -> None:
        """Watch the running loop from a daemon thread, until ``stop`` or the end of the loop."""
        loop = asyncio.get_running_loop()
        self._stopped = threading.Event()
        args = (loop, self._stopped)
        threading.Thread(target=self._watch, args=args, name="aiotaskq-stalls", daemon=True).start()

    def stop(self) -> None:
        """Watch no more; does not wait for the thread."""
        self._stopped.set()

    def _watch(self, loop: asyncio.AbstractEventLoop, stopped: threading.Event) -> None:
        while not stopped.wait(INTERVAL):
            answered = threading.Event()
            asked = self._clock.ticks()
            try:
                loop.call_soon_threadsafe(answered.set)
            except RuntimeError:
                return  # the loop was closed
            if answered.wait(PATIENCE):
                continue
            task = self._runs_in(asyncio.current_task(loop))
            # Told at once, since it may never go on.
            what = "no task of ours" if task is None else named(task)
            log.warning("the event loop stands still in {}: use await in it, or a def handler", what)
            while not answered.wait(INTERVAL):
                if stopped.is_set() or loop.is_closed():
                    return
            try:
                loop.call_soon_threadsafe(self._told, (self._clock.ticks() - asked) / SECOND, task)
            except RuntimeError:
                return
