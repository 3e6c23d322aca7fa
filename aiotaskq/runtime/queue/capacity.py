"""The bound of a queue: how many ready tasks it may hold, what a push does that finds it full, and waiting pushes."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, get_args

from aiotaskq.backends.change import Change, Room
from aiotaskq.backends.listeners import ENDED, GATES, READY, TAKEN
from aiotaskq.concurrency.clock import Clock
from aiotaskq.concurrency.wakeup import LoopWakeup, Wakeup
from aiotaskq.core.errors import check_int
from aiotaskq.core.outcome import Cancelled, settle
from aiotaskq.core.parking import any_waits
from aiotaskq.core.task import SECOND, Task
from aiotaskq.errors import QueueFull, ValidationError
from aiotaskq.runtime.hooks import Hooks
from aiotaskq.runtime.task_log import log_outcome

if TYPE_CHECKING:
    from aiotaskq.backends.base import Backend

WhenFull: TypeAlias = Literal["wait", "raise", "drop_oldest"]
WHEN_FULL: tuple[WhenFull, ...] = get_args(WhenFull)
DROPPED = "dropped: the queue is full"

T = TypeVar("T")


class Capacity:
    """At most ``maxsize`` ready tasks, 0 for any number; ``when_full`` says what a push to a full queue does.

    The store counts in the transaction of the push, so the bound is exact for any number of processes that have it. It
    applies to new tasks: a retry, an id that is pushed again, a follow-up, and a task of a schedule are never refused.
    The tasks of a group that wait for no others have to fit; the others, callbacks and later members are never refused.
    """

    def __init__(
        self, waiters: Waiters, hooks: Hooks, maxsize: int, when_full: str, told: Callable[[Task], tuple[Task, ...]]
    ) -> None:
        """Make the bound of one queue; ``told`` returns what is pushed with the end of a task that is dropped.

        Raises ValidationError.
        """
        if when_full not in WHEN_FULL:
            raise ValidationError(f"when_full: {when_full!r} is not one of {', '.join(WHEN_FULL)}")
        self.maxsize = check_int("maxsize", maxsize, 0)
        self.when_full = when_full
        self._waiters, self._hooks, self._told = waiters, hooks, told
        self._backend, self._clock = waiters.backend, waiters.clock
        # Without a lock, pushes of one process would choose the same tasks to drop, and all but one would choose again.
        # The memory backend never suspends, and may be used by several loops.
        self._dropping = asyncio.Lock() if self._backend.suspends else contextlib.nullcontext()

    async def push(self, tasks: Sequence[Task], session: Any, committed: Callable[[], None] | None) -> list[Task]:
        """Push as the backend does, as soon as there is room; with a session in its transaction.

        Raises as ``admit``.
        """

        after = any_waits(tasks)

        async def push(room: Room | None) -> list[Task]:
            if after:
                now = self._clock.now()
                return await self._backend.after.push(tasks, now, session, committed or (lambda: None), room)
            if session is None:
                return await self._backend.push(tasks, room)
            return await self._backend.push_with(session, tasks, committed or (lambda: None), room)

        return await self.admit(sum(not task.waits for task in tasks) if after else len(tasks), push, session)

    async def admit(self, count: int, push: Callable[[Room | None], Awaitable[T]], session: Any) -> T:
        """Call ``push``, which adds ``count`` tasks in one transaction, until there is room; return its answer.

        A false answer says that it has written nothing. Raises QueueFull if there is no room and ``when_full`` is
        ``raise``; with a session also if it is ``wait``, since an open transaction may keep others from making room.
        Raises ValidationError for more than ``maxsize`` tasks.
        """
        if not self.maxsize:
            return await push(None)
        if count > self.maxsize:
            raise ValidationError(
                f"tasks: {count} in one push never fit a queue of maxsize {self.maxsize}; push fewer at a time"
            )
        with contextlib.suppress(QueueFull):
            return await push(self._room())
        if self.when_full == "drop_oldest":
            if session is not None:
                return await self._drop(push, session)
            async with self._dropping:
                return await self._drop(push, session)
        if self.when_full == "raise" or session is not None:
            return await push(self._room())
        with self._waiters.woken_by(TAKEN, ENDED) as woken:
            while True:
                woken.clear()  # before the try, so that no later hint is missed
                with contextlib.suppress(QueueFull):
                    return await push(self._room())
                await self._clock.wait(woken, self._waiters.poll)

    async def _drop(self, push: Callable[[Room | None], Awaitable[T]], session: Any) -> T:
        instead: tuple[Change, ...] = ()
        while True:
            try:
                answer = await push(self._room(instead))
            except QueueFull as full:
                # Without excess, one of the chosen tasks was claimed or cancelled, and has made room itself.
                wanted, now = len(instead) + full.excess if full.excess else 0, self._clock.now()
                rows = await self._backend.least_ready(now, wanted) if wanted else []
                afters = [settle(row, Cancelled(DROPPED), now) for row in rows]
                instead = tuple(Change(row, after, self._told(after)) for row, after in zip(rows, afters, strict=True))
            else:
                if answer and session is None:
                    for change in instead:
                        now = self._clock.now()
                        log_outcome(change.before, Cancelled(DROPPED), change.after, now)
                        self._hooks.call("cancelled", now, change.after)
                return answer

    def _room(self, instead: tuple[Change, ...] = ()) -> Room:
        return Room(self.maxsize, self._clock.now(), instead)


class Waiters:
    """Wakes waiting coroutines in their own loops. A wakeup is only a hint: the coroutine looks itself, and polls."""

    def __init__(self, backend: Backend, clock: Clock, poll: float) -> None:
        """``poll``: the seconds between two looks."""
        self.backend, self.clock, self.poll = backend, clock, poll
        self._listeners = backend.listeners
        self._ends: dict[str, tuple[Wakeup, ...]] = {}  # by task id, so that a hint finds its waiters directly
        self._stop: Callable[[], None] | None = None
        self._lock = threading.Lock()  # threads and event loops may share a queue in memory

    async def until(
        self,
        wakeups: contextlib.AbstractContextManager[Wakeup],
        look: Callable[[], Awaitable[T | None]],
        seconds: float | None,
        pause: Callable[[], Awaitable[float]] | None = None,
    ) -> T | None:
        """Look at each wakeup, and from time to time; return what is found, None if that is not so in ``seconds``.

        ``pause`` returns the seconds until the next look, where that is not always the same.
        """
        end = None if seconds is None else self.clock.ticks() + int(seconds * SECOND)
        await self.backend.watch()
        with wakeups as woken:
            while True:
                woken.clear()  # before the look, so that no later hint is missed
                if (found := await look()) is not None:
                    return found
                rest = self.poll if pause is None else await pause()
                if end is not None:
                    if (left := (end - self.clock.ticks()) / SECOND) <= 0:
                        return None
                    rest = min(rest, left)
                await self.clock.wait(woken, rest)

    @contextlib.contextmanager
    def woken_by(self, *kinds: str, name: str | None = None, also: Wakeup | None = None) -> Iterator[Wakeup]:
        """Yield a wakeup, or ``also``, that hints of these kinds set: those of this name, and those of none."""
        wakeup = LoopWakeup() if also is None else also

        def hear(_kind: str, names: Sequence[str]) -> None:
            if name is None or not names or name in names:
                wakeup()

        stop = self._listeners.listen(hear, *kinds)
        try:
            yield wakeup
        finally:
            stop()

    @contextlib.contextmanager
    def woken_by_tasks(self) -> Iterator[Wakeup]:
        """Yield a wakeup that tasks set which can be claimed, or for which the time at a gate has changed."""
        arrivals = self.backend.arrivals()
        if arrivals is None:
            with self.woken_by(READY, GATES) as wakeup:
                yield wakeup
        else:
            with contextlib.closing(arrivals), self.woken_by(GATES, also=arrivals):
                yield arrivals

    @contextlib.contextmanager
    def woken_at_end(self, task_id: str) -> Iterator[Wakeup]:
        """Yield a wakeup that the end of one task sets."""
        wakeup = LoopWakeup()
        with self._lock:
            self._ends[task_id] = (*self._ends.get(task_id, ()), wakeup)
            if self._stop is None:
                self._stop = self._listeners.listen(self._hear_end, ENDED)
        try:
            yield wakeup
        finally:
            with self._lock:
                left = tuple(other for other in self._ends.pop(task_id) if other is not wakeup)
                if left:
                    self._ends[task_id] = left
                if not self._ends and self._stop is not None:
                    self._stop()
                    self._stop = None

    def _hear_end(self, _kind: str, names: Sequence[str]) -> None:
        for task_id in names or list(self._ends):
            for wakeup in self._ends.get(task_id, ()):
                wakeup()
