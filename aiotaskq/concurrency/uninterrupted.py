"""Between threads: a future, calls of functions on a loop, and short sections that no signal handler interrupts."""

from __future__ import annotations

import _thread
import asyncio
import socket
import sys
import threading
from _thread import get_ident
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, InvalidStateError
from typing import Generic, TypeVar, cast

from aiotaskq.concurrency.loop_bound import after_fork

T = TypeVar("T")


class CrossThreadFuture(Generic[T]):
    """The part of ``concurrent.futures.Future`` that a blocking call needs, under the same names.

    It exists for its speed: with a ``Future``, whose condition makes a lock for each waiter, a call through the loop
    thread takes over 5 % longer. The lock is held until there is an answer; the thread that takes the token gives it.
    """

    __slots__ = ("_cancelled", "_error", "_lock", "_settled", "_token", "_value")

    def __init__(self) -> None:
        self._token = [None]
        self._settled = self._cancelled = False
        self._value: T | None = None
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._lock.acquire()

    def _take(self) -> bool:
        try:
            self._token.pop()
        except IndexError:
            return False
        return True

    def _settle(self) -> None:
        self._settled = True
        self._lock.release()

    def set_result(self, value: T) -> None:
        """Set the value. Raises InvalidStateError if there is an answer already."""
        if not self._take():
            raise InvalidStateError
        self._value = value
        self._settle()

    def set_exception(self, error: BaseException) -> None:
        """Set the error. Raises InvalidStateError if there is an answer already."""
        if not self._take():
            raise InvalidStateError
        self._error = error
        self._settle()

    def cancel(self) -> bool:
        """Cancel, unless there is an answer already; return whether it is cancelled."""
        if self._take():
            self._cancelled = True
            self._settle()
        return self.cancelled()

    def done(self) -> bool:
        """Whether there is an answer, or it was cancelled."""
        return self._settled

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._settled and self._cancelled

    def wait(self, timeout: float = -1) -> bool:
        """Wait at most ``timeout`` seconds, without a limit by default; return whether it is done."""
        if not self._settled:
            if not self._lock.acquire(timeout=timeout):
                return False
            self._lock.release()
        return True

    def result(self) -> T:
        """Wait for the answer, and return the value. Raises the error, or CancelledError."""
        self.wait()
        if self._cancelled:
            raise CancelledError
        if self._error is not None:
            try:
                raise self._error
            finally:
                del self  # the error's traceback holds this frame: no cycle
        return cast(T, self._value)

    def exception(self) -> BaseException | None:
        """Return the error, or None if there is a value or no answer yet."""
        return self._error


class Posts:
    """Calls of functions on one loop, from any thread, in place of ``loop.call_soon_threadsafe``.

    That one takes whatever OSError a signal handler raises meanwhile for one of its own socket, and drops it: an alarm
    that raises TimeoutError would be lost.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wire them to a loop that does not run yet."""
        self._loop = loop
        self._waiting: deque[tuple[Callable[..., object], tuple[object, ...]]] = deque()
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        loop.add_reader(self._reader, self._take)

    def call(self, function: Callable[..., object], *args: object) -> None:
        """Call the function on the loop soon; never, if the loop ends first. Raises what a signal handler raises."""
        self._waiting.append((function, args))
        try:
            self._writer.send(b"\0")
        except OSError as error:
            if error.errno is None:
                raise  # the socket's own has a number: it is full, and the loop wakes, or it is closed

    def close(self) -> None:
        """Take no more; call it when the loop does not run."""
        self._loop.remove_reader(self._reader)
        self._reader.close()
        self._writer.close()

    def _take(self) -> None:
        self._reader.recv(4096)
        while self._waiting:
            function, args = self._waiting.popleft()
            self._loop.call_soon(function, *args)


NO_THREAD = ("can't create new thread", "can't start new thread")

_main = threading.main_thread().ident


@after_fork
def _forked() -> None:
    global _main
    _main = threading.main_thread().ident


def may_be_interrupted() -> bool:
    """Whether this is the main thread, in which Python runs signal handlers."""
    return get_ident() == _main


def uninterrupted(section: Callable[[], T]) -> T:
    """Run a short section in another thread if this is the main thread; return its value or raise its error.

    Python runs signal handlers in the main thread, between any two instructions. A handler that raises would leave the
    section half done, and one that enters the section again would wait for a lock that its own thread holds. If the
    waiting is interrupted, the section still runs to its end.
    """
    if not may_be_interrupted() or sys.is_finalizing():  # Python 3.11 then starts threads that never run
        return section()
    answer: CrossThreadFuture[T] = CrossThreadFuture()
    try:
        # Not threading.Thread: its start() waits with locks of Python code, which an interrupt may leave locked.
        _thread.start_new_thread(_settle, (answer, section))
    except RuntimeError as error:
        if not str(error).startswith(NO_THREAD):
            raise
        return section()  # the interpreter is ending, or there are too many threads
    try:
        return answer.result()
    finally:
        del answer  # it holds the error, whose traceback holds this frame: a reference cycle


def _settle(answer: CrossThreadFuture[T], section: Callable[[], T]) -> None:
    try:
        answer.set_result(section())
    except BaseException as error:
        answer.set_exception(error)


class ShieldedTask(asyncio.Task[T]):
    """An asyncio task that is given to no code that might cancel it; only the end of the loop does.

    A transaction in it needs no task and no ``asyncio.shield`` of its own, which saves iterations of the loop.
    """


def in_shielded_task() -> bool:
    """Whether the running coroutine is in a ShieldedTask."""
    return isinstance(asyncio.current_task(), ShieldedTask)
