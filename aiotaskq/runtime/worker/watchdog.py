"""What a worker's slots are taken by; it is told when late handlers hold all of them, or when the loop stands still."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping

import msgspec

from aiotaskq.concurrency.clock import Clock, SystemClock
from aiotaskq.core.task import Task
from aiotaskq.log import log, named
from aiotaskq.runtime.context import current
from aiotaskq.runtime.events import Events
from aiotaskq.runtime.handler import Handler
from aiotaskq.runtime.worker.execution import Running
from aiotaskq.runtime.worker.stall import StallWatch

UNWINDING = 0.05  # seconds within which a handler that can be interrupted is


class Occupancy(msgspec.Struct, frozen=True):
    """How many slots there are, and how many are taken: in all, by threads, by processes, and by these past a timeout.

    A thread cannot be interrupted, so its slot stays taken until it ends: ``overdue_threads`` of ``threads`` have
    passed their task's timeout. The same holds for a process, and for a coroutine that swallows its cancel.
    """

    slots: int
    busy: int = 0
    threads: int = 0
    processes: int = 0
    overdue_threads: int = 0
    overdue_processes: int = 0
    overdue_coroutines: int = 0


class Slots:
    """The slots of one worker as others see them."""

    def __init__(
        self,
        running: Mapping[str, Running],
        handlers: Mapping[str, Handler],
        size: int,
        events: Events,
        clock: Clock,
    ) -> None:
        """Wire it to the worker's own record of what runs, which this never writes."""
        self._running = running
        self._handlers = handlers
        self._size = size
        self._processes = min(size, os.cpu_count() or 1)
        self._events = events
        self._clock = clock
        self._stalls: StallWatch | None = None
        self._told: set[tuple[str, int]] = set()  # the deliveries that held everything up when it was last told

    def start(self) -> None:
        """Watch the running loop, if somebody wants to hear of stalls and time is real."""
        if "stalled" in self._events and isinstance(self._clock, SystemClock):
            self._stalls = StallWatch(self._clock, self._runs_in, self._stalled)
            self._stalls.start()

    def stop(self) -> None:
        """Watch no more; idempotent."""
        if self._stalls is not None:
            self._stalls.stop()

    def occupancy(self) -> Occupancy:
        """Count what runs now; any thread may ask."""
        count = {"loop": 0, "thread": 0, "process": 0}
        overdue = dict(count)
        running = list(self._running.values())
        for each in running:
            handler = self._handlers.get(each.task.type)
            if handler is not None:
                count[handler.executor] += 1
                overdue[handler.executor] += each.deaf if handler.executor == "loop" else each.overdue
        return Occupancy(
            self._size,
            len(running),
            count["thread"],
            count["process"],
            overdue["thread"],
            overdue["process"],
            overdue["loop"],
        )

    def deaf(self) -> list[Task]:
        """Return the tasks whose handlers go on though their timeout has passed; any thread may ask."""
        return [each.task for each in list(self._running.values()) if each.deaf]

    def timed_out(self, running: Running) -> None:
        """Tell that a task has passed its timeout and interrupt it; soon after, tell if that held up all others."""
        self._events.emit("timeout", self._clock.now(), running.task)
        running.interrupt("timeout")
        self._clock.call_later(UNWINDING, lambda: self._look(running))

    def _look(self, running: Running) -> None:
        task, running.unwound = running.task, True
        if running.deaf and self._handlers[task.type].executor == "loop":
            log.warning("{} goes on after its timeout", named(task))
        late = [each for each in self._running.values() if each.overdue]
        what = f"all {len(late)} slots are held by handlers"
        if len(late) < self._size:
            late = [each for each in late if self._handlers[each.task.type].executor == "process"]
            what = f"all {self._processes} processes for handlers are held by some"
            if len(late) < self._processes:
                return
        held = {(each.task.task_id, each.task.fence) for each in late}
        known = not held.isdisjoint(self._told)  # the same ones, or some of them, and who came late, too
        self._told = held
        if not known:
            log.error("{} past their timeout: nothing more runs there until one ends; stop them from within", what)
            self._events.emit("exhausted", self._clock.now(), task, occupancy=self.occupancy())

    def _runs_in(self, coroutine: asyncio.Task[object] | None) -> Task | None:
        for running in list(self._running.values()):
            if running.runs_in(coroutine):
                return running.task
        # What a handler has started runs in a copy of its context, which can be asked for since Python 3.12.
        context = getattr(coroutine, "get_context", lambda: None)()
        found = None if context is None else context.get(current)
        return None if found is None else found.task

    def _stalled(self, seconds: float, task: Task | None) -> None:
        self._events.emit("stalled", self._clock.now(), task, seconds=seconds)
