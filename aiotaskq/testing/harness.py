"""The harness of a TaskQ under test: starts its workers at the first push or await, and stops them in that loop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any, ClassVar, TypeVar

from aiotaskq.app.handle import TaskHandle
from aiotaskq.app.internal import internal
from aiotaskq.app.taskq import TaskQ
from aiotaskq.backends.url import DURABLE_FAKE
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.concurrency.loop_bound import LoopBound
from aiotaskq.core.errors import kind_name
from aiotaskq.core.foreign_names import unknown_options
from aiotaskq.core.ids import restart_seq
from aiotaskq.core.status import StatusName
from aiotaskq.core.task import Task
from aiotaskq.errors import ClosedError, ValidationError, WrongLoop
from aiotaskq.runtime.context import current_task
from aiotaskq.testing.override import Pushes, override

START = datetime(2026, 1, 1, tzinfo=UTC)
"""When virtual time begins by default."""
IDLE = 86_400.0
"""Virtual seconds between two rounds of a background loop that has nothing to do: each stops virtual time. What is due
is done at its instant all the same."""
LEASE = 30 * IDLE
"""Virtual seconds of a lease: a worker in virtual time does not die, so its lease need hardly be renewed."""
DEFAULTS = {"lease": LEASE, "poll_interval": IDLE, "check_interval": IDLE, "cleanup_interval": IDLE}
STANDS_STILL = 10.0  # real seconds in which nothing happens, after which a result is no longer waited for
THREAD_TIMEOUT = 5.0  # real seconds for which virtual time waits for a handler in a thread or a process

H = TypeVar("H", bound="Harness")
RunCall = Callable[[Task], Awaitable[Any]]
PushCall = Callable[[list[Task]], Awaitable[list[Task]]]


class Run:
    """One run of a handler: the task, the asyncio task it runs in, and a future that ends with it."""

    def __init__(self, task: Task, outside: bool) -> None:
        self.task = task
        self.outside = outside
        """Whether the handler runs in a thread or a process."""
        self.inside = asyncio.current_task()
        self.context = current_task()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Harness(Pushes, ABC):
    """What ``Kit`` and ``Inline`` share. It is the innermost middleware of its TaskQ."""

    REMEDY: ClassVar[str]
    """What lets a task end that is waited for."""

    def __init__(self, tq: TaskQ, clock: VirtualClock, recorded: Pushes) -> None:
        super().__init__(internal(tq).registered)
        self.tq = tq
        self.clock = clock
        self.pushed = recorded.pushed
        self._runs: dict[tuple[str, int], Run] = {}
        self._turns = 0  # runs that have begun, and runs that have ended
        self._over = False  # whether the TaskQ has its own store again
        self._bound = LoopBound()
        self._stack = contextlib.AsyncExitStack()
        clock.watch(self._transactions)
        clock.watch(self._outside, THREAD_TIMEOUT)
        tq.middleware(self)
        for waits, name in ((tq.queue, "wait_for_end"), (tq.queue, "wait_for_log"), (tq.queue.groups, "wait")):
            setattr(waits, name, functools.partial(self._ended, getattr(waits, name)))

    # ---- living ----

    async def start(self) -> None:
        """Start in the running loop, as the first push does; does nothing if it was started.

        Raises WrongLoop when it was started in another loop, to which its workers and connections belong, and
        ClosedError behind the end of its block, where the TaskQ has its own store again.
        """
        if self._over:
            raise ClosedError("the block or the test of this kit has ended; use it inside of that")
        if self._bound.loop is None:
            self._bound.bind()
            await self._start()
        elif not self._bound.here:
            raise WrongLoop(
                "this kit was started in another event loop; make one for each test, or each loop (a TestClient has a "
                "loop of its own: take httpx.AsyncClient)"
            )

    @abstractmethod
    async def _start(self) -> None: ...

    async def stop(self) -> None:
        """Stop the workers, without waiting for handlers, and close connections; idempotent."""
        if self._bound.loop is None:
            return
        stopping = asyncio.ensure_future(self._stack.aclose())
        while not stopping.done():
            # A part of the stop waits for the virtual clock, which only this loop advances now.
            await self.clock.advance(1)
            await asyncio.wait({stopping}, timeout=0.01)
        self._bound.release()
        stopping.result()

    def stop_from_outside(self) -> None:
        """Stop from outside of the loop, between a test and the end of its loop, and start no more.

        It does nothing to a loop that has ended.
        """
        self._over = True
        loop = self._bound.loop
        if loop is not None and self._bound.alive and not loop.is_running():
            loop.run_until_complete(self.stop())

    async def __aenter__(self: H) -> H:
        await self.start()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.stop()

    async def _ended(self, wait: Callable[..., Awaitable[Any]], of: str, *args: Any) -> Any:
        """Wait for the end of a task or a group, or for entries of the log of a task, as its queue does.

        Raises AssertionError where time would have to pass for that, since it passes only when the test says so.
        """
        loop, scope = asyncio.get_running_loop(), asyncio.timeout(None)
        before = self.clock.now(), self._turns
        timer: asyncio.TimerHandle

        def look() -> None:
            nonlocal before, timer
            was, before = before, (self.clock.now(), self._turns)
            outside = any(not self._sleeps(run) for run in self._runs.values())
            if before == was and not outside:
                scope.reschedule(loop.time())
            else:
                timer = loop.call_later(STANDS_STILL, look)

        timer = loop.call_later(STANDS_STILL, look)
        try:
            async with scope:
                return await wait(of, *args)
        except TimeoutError:
            if not scope.expired():
                raise
            raise AssertionError(f"{of} does not end: nothing runs, and time stands still; {self.REMEDY}") from None
        finally:
            timer.cancel()

    # ---- as a middleware ----

    async def push(self, tasks: list[Task], call_next: PushCall) -> list[Task]:
        """Start at a push, and pass it on."""
        await self.start()
        return await call_next(tasks)

    async def run(self, task: Task, call_next: RunCall) -> Any:
        """Run a handler, and keep track of the run."""
        handler = internal(self.tq).registered.handlers.get(task.type)
        outside = handler is not None and handler.executor != "loop" and handler.batch is None
        run = self._runs[task.task_id, task.fence] = Run(task, outside)
        self._turns += 1
        try:
            return await call_next(task)
        finally:
            del self._runs[task.task_id, task.fence]
            self._turns += 1
            if not run.ended.done():
                run.ended.set_result(None)

    def _sleeps(self, run: Run) -> bool:
        """Whether a handler waits for the clock: itself, or in its thread or asyncio tasks of its own by steps."""
        steps = run.context.steps_begun
        return run.inside in self.clock.sleepers or (steps is not None and steps.pausing)

    # ---- what the clock waits for ----

    def _transactions(self) -> Iterator[asyncio.Future[Any]]:
        for store in internal(self.tq).backends.values():
            yield from store.pending()

    def _outside(self) -> Iterator[asyncio.Future[Any]]:
        yield from (run.ended for run in list(self._runs.values()) if run.outside and not self._sleeps(run))
        if self.tq.worker is not None:
            yield from self.tq.worker.runner.batches.outside  # a batch that is gathered waits for the clock

    # ---- reading ----

    async def task(self, of: TaskHandle[Any] | str) -> Task:
        """Return a task as it is now, by handle or id. Raises NotFound."""
        return await self.tq.get(of if isinstance(of, str) else of.task_id)

    async def tasks(self, status: StatusName | None = None) -> list[Task]:
        """Return the tasks in the store in push order; ``status`` selects."""
        found = await self.tq.find(status=status, limit=100_000)
        return sorted(found, key=lambda task: task.seq)


@contextlib.contextmanager
def opened(kind: type[H], tq: TaskQ | None, url: str | None, *, clock: VirtualClock, **options: Any) -> Iterator[H]:
    """Swap the store and the clock of a TaskQ, and make the kit or inline mode that drives it.

    No event loop is needed: what is made starts by itself in the loop that first uses it. ``options`` are those of
    ``kind`` and of ``TaskQ``.
    """
    app = TaskQ(DURABLE_FAKE) if tq is None else tq
    if url is None:  # a new store: stamps of earlier tests would be ahead of its clock, and a first call seem later
        restart_seq(clock.now())
    if not isinstance(app, TaskQ):
        raise ValidationError(
            f"an aiotaskq.TaskQ is needed (got {kind_name(app)}): workers run in the event "
            "loop of the test; for aiotaskq.sync there is override, or `with tq.running()` on a file of the test"
        )
    of_kind = list(inspect.signature(kind).parameters)[3:]
    known = [*sorted(of_kind), *list(inspect.signature(TaskQ).parameters)[1:]]
    if wrong := options.keys() - known:
        raise unknown_options(kind.__name__, "constructor", wrong, known)
    own = {name: options.pop(name) for name in of_kind if name in options}
    with override(app, url, clock=clock, **{**DEFAULTS, **options}) as recorded:
        made = kind(app, clock, recorded, **own)
        try:
            yield made
        finally:
            made.stop_from_outside()
