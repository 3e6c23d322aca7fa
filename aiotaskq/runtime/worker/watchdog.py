"""Counts what a worker's slots are taken by, and tells when overdue handlers hold them all or the loop stands still."""

from __future__ import annotations

import asyncio
import threading

import msgspec

from aiotaskq.concurrency.clock import Clock, SystemClock
from aiotaskq.core.task import SECOND, Task
from aiotaskq.log import log, named
from aiotaskq.runtime.current import current
from aiotaskq.runtime.hooks import Hooks
from aiotaskq.runtime.worker.execution import Execution
from aiotaskq.runtime.worker.runner import Runner

UNWINDING = 0.05  # seconds in which a handler that can be interrupted ends
INTERVAL = 0.1  # seconds between two probes of the loop
STALL_AFTER = 0.25  # seconds without an answer that are a stall


class Occupancy(msgspec.Struct, frozen=True):
    """How many slots there are, and how many are taken: in all, by threads, processes, interpreters, overdue handlers.

    A thread cannot be interrupted, so its slot stays taken until it ends: ``overdue_threads`` of ``threads`` have
    passed their task's timeout. The same holds for a process, for an interpreter, and for a coroutine that swallows its
    cancel.
    """

    slots: int
    busy: int = 0
    threads: int = 0
    processes: int = 0
    overdue_threads: int = 0
    overdue_processes: int = 0
    overdue_coroutines: int = 0
    interpreters: int = 0
    overdue_interpreters: int = 0


class Watchdog:
    """Watches the executions of one worker."""

    def __init__(self, runner: Runner, hooks: Hooks, clock: Clock) -> None:
        self._runner, self._hooks, self._clock = runner, hooks, clock
        self._executions, self._handlers, self._executors = runner.executions, runner.handlers, runner.executors
        runner.timed_out = self.timed_out
        self._stopped = threading.Event()  # of the thread that watches the loop
        self._reported: set[tuple[str, int]] = set()  # the deliveries that held all slots at the last report

    def start(self) -> None:
        """Watch the running loop for stalls, if there is a hook for them and time is real.

        A daemon thread probes it every 0.1 s until ``stop``, or the end of the loop; a loop that does not answer for
        0.25 s stands still.
        """
        if "stalled" in self._hooks and isinstance(self._clock, SystemClock):
            self._stopped = threading.Event()
            args = (asyncio.get_running_loop(), self._stopped)
            threading.Thread(target=self._watch, args=args, name="aiotaskq-stalls", daemon=True).start()

    def stop(self) -> None:
        """Stop watching the loop, without waiting for the thread; idempotent."""
        self._stopped.set()

    def occupancy(self) -> Occupancy:
        """Count what runs now; callable from any thread."""
        count = {"loop": 0, "thread": 0, "process": 0, "interpreter": 0}
        overdue = dict(count)
        executions = list(self._executions.values())
        for each in executions:
            handler = each.handler or self._handlers.get(each.task.type)
            if handler is not None:
                count[handler.executor] += 1
                overdue[handler.executor] += each.stuck if handler.executor == "loop" else each.overdue
        return Occupancy(
            self._executors.concurrency,
            len(executions) - self._runner.batches.without_slot,
            count["thread"],
            count["process"],
            overdue["thread"],
            overdue["process"],
            overdue["loop"],
            count["interpreter"],
            overdue["interpreter"],
        )

    def stuck(self) -> list[Task]:
        """Return the tasks whose handlers go on although their timeout has passed; callable from any thread."""
        return [each.task for each in list(self._executions.values()) if each.stuck]

    def timed_out(self, execution: Execution) -> None:
        """Look, when a handler that heeds its timeout has ended, whether overdue handlers hold all slots."""
        self._clock.call_later(UNWINDING, lambda: self._look(execution))

    def _look(self, execution: Execution) -> None:
        task, execution.unwound = execution.task, True
        if execution.stuck and self._handlers[task.type].executor == "loop":
            log.warning("{} goes on after its timeout", named(task))
        late = [each for each in self._executions.values() if each.overdue]
        what = f"all {len(late)} slots are held by handlers"
        if len(late) < self._executors.concurrency:
            late, what = self._in_full_pool(late)
            if not late:
                return
        held = {(each.task.task_id, each.task.fence) for each in late}
        known = not held.isdisjoint(self._reported)  # some of them still hold their slots: it is the same incident
        self._reported = held
        if not known:
            log.error("{} past their timeout: nothing more runs there until one ends; stop them from within", what)
            self._hooks.call("exhausted", self._clock.now(), task, occupancy=self.occupancy())

    def _in_full_pool(self, late: list[Execution]) -> tuple[list[Execution], str]:
        """Return the overdue executions that hold all processes or all interpreters, none if there is no such pool."""
        for kind, name in (("process", "processes"), ("interpreter", "interpreters")):
            there = [each for each in late if self._handlers[each.task.type].executor == kind]
            if len(there) >= self._executors.pool_size:
                return there, f"all {self._executors.pool_size} {name} for handlers are held by some"
        return [], ""

    def _task_of(self, coroutine: asyncio.Task[object] | None) -> Task | None:
        for execution in list(self._executions.values()):
            if execution.coroutine is coroutine:
                return execution.task
        # A task created by a handler runs in a copy of its context, which can be read since Python 3.12.
        context = getattr(coroutine, "get_context", lambda: None)()
        found = None if context is None else context.get(current)
        return None if found is None else found.task

    def _tell_stall(self, seconds: float, task: Task | None) -> None:
        self._hooks.call("stalled", self._clock.now(), task, seconds=seconds)

    def _watch(self, loop: asyncio.AbstractEventLoop, stopped: threading.Event) -> None:
        while not stopped.wait(INTERVAL):
            answered = threading.Event()
            asked = self._clock.ticks()
            try:
                loop.call_soon_threadsafe(answered.set)
            except RuntimeError:
                return  # the loop was closed
            if answered.wait(STALL_AFTER):
                continue
            task = self._task_of(asyncio.current_task(loop))
            # Logged now, since the loop may never go on.
            what = "code outside of tasks" if task is None else named(task)
            log.warning("the event loop stands still in {}: use await in it, or a def handler", what)
            while not answered.wait(INTERVAL):
                if stopped.is_set() or loop.is_closed():
                    return
            try:
                loop.call_soon_threadsafe(self._tell_stall, (self._clock.ticks() - asked) / SECOND, task)
            except RuntimeError:
                return
