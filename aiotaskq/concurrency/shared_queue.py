"""An asyncio.Queue that several threads and event loops may share."""

from __future__ import annotations

import asyncio
import sys
import threading
import types
from collections import deque
from collections.abc import Coroutine, Generator
from contextlib import AbstractContextManager
from typing import Any, TypeVar
from weakref import WeakSet

from aiotaskq.concurrency.loop_bound import after_fork
from aiotaskq.concurrency.running_loop import running_loop_or_none

T = TypeVar("T")
R = TypeVar("R")

_queues: WeakSet[SharedQueue[Any]] = WeakSet()


class SharedQueue(asyncio.Queue[T]):
    """An asyncio.Queue whose methods may be called from any thread, and awaited in any event loop.

    It runs the code of asyncio.Queue, which assumes that nothing else runs between two of its awaits. A reentrant lock
    makes that true: every call holds it, and so does every step of a coroutine, but no coroutine holds it while it
    waits. A waiter that another thread wakes is resolved in its own loop.

    As in asyncio.Queue, a subclass decides how items are kept: by ``_init``, ``_put``, ``_get``, ``qsize``, ``empty``.
    """

    _getters: deque[asyncio.Future[Any]]
    _putters: deque[asyncio.Future[Any]]
    _unfinished_tasks: int

    def __init__(self, maxsize: int = 0, *, lock: AbstractContextManager[Any] | None = None) -> None:
        """Make an empty queue. ``maxsize`` 0 is unbounded; ``lock`` is a reentrant lock to share with other data."""
        self._lock = threading.RLock() if lock is None else lock
        super().__init__(maxsize)
        self._finished = _Finished(self)
        self._finished.set()
        _queues.add(self)

    def _get_loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()  # asyncio.Queue would keep the first one

    async def put(self, item: T) -> None:
        await in_steps(super().put(item), self._lock)

    async def get(self) -> T:
        return await in_steps(super().get(), self._lock)

    async def join(self) -> None:
        await in_steps(super().join(), self._lock)

    def put_nowait(self, item: T) -> None:
        with self._lock:
            super().put_nowait(item)

    def get_nowait(self) -> T:
        with self._lock:
            return super().get_nowait()

    def task_done(self) -> None:
        with self._lock:
            super().task_done()

    if sys.version_info >= (3, 13):

        def shutdown(self, immediate: bool = False) -> None:
            with self._lock:
                # asyncio.Queue would resolve the waiters of other loops from this one.
                for waiters in (self._getters, self._putters):
                    while waiters:
                        self.wake(waiters.popleft())
                super().shutdown(immediate)

    def _wakeup_next(self, waiters: deque[asyncio.Future[Any]]) -> None:
        """Wake the first of these waiters, in its own loop; called under the lock."""
        while waiters and not self.wake(waiters.popleft()):
            pass

    def wake(self, waiter: asyncio.Future[Any]) -> bool:
        """Resolve a waiter, now if its loop is the running one, else soon in its loop; called under the lock.

        Returns False if it was resolved or cancelled before, or its loop is closed.
        """
        if waiter.done():
            return False
        loop = waiter.get_loop()
        if running_loop_or_none() is loop:
            waiter.set_result(None)
            return True
        try:
            loop.call_soon_threadsafe(self._resolve, waiter)
        except RuntimeError:  # the loop is closed
            return False
        return True

    def _resolve(self, waiter: asyncio.Future[Any]) -> None:
        if waiter.done():  # it was cancelled after another thread had woken it
            self.pass_on()
        else:
            waiter.set_result(None)

    def forget_waiters(self) -> None:
        """Drop all waiters, in a forked child: those of the parent's loops would be woken instead of the child's."""
        self._getters.clear()
        self._putters.clear()

    def pass_on(self) -> None:
        """Wake the next waiter if there is an item, or room, that the waiter woken for it cannot use."""
        with self._lock:
            if self._getters and not self.empty():
                self._wakeup_next(self._getters)
            if self._putters and not self.full():
                self._wakeup_next(self._putters)


class _Finished(asyncio.Event):
    """The event that ``join`` waits for; it wakes each waiter in its own loop."""

    def __init__(self, queue: SharedQueue[Any]) -> None:
        super().__init__()
        self._queue = queue

    def _get_loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    def set(self) -> None:
        self._value = True
        for waiter in tuple(self._waiters):
            self._queue.wake(waiter)


@types.coroutine
def in_steps(coroutine: Coroutine[Any, Any, R], lock: AbstractContextManager[Any]) -> Generator[Any, Any, R]:
    """Await a coroutine, holding the lock during each of its steps and not while it waits."""
    error: BaseException | None = None
    while True:
        with lock:
            try:
                awaited = coroutine.send(None) if error is None else coroutine.throw(error)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
        try:
            yield awaited
        except BaseException as thrown:  # a cancellation, which the coroutine handles in its next step
            error = thrown
        else:
            error = None


@after_fork
def _forked() -> None:
    for queue in tuple(_queues):
        queue.forget_waiters()
