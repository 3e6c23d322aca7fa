"""An event loop in a daemon thread, and blocking calls into it from other threads.

A call from a thread that runs an event loop is refused. A forked child starts a loop of its own. The end of the
interpreter raises ClosedError. When a caller stops waiting (Ctrl-C), its coroutine is cancelled.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import sys
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Future, InvalidStateError
from typing import Any, Generic, TypeVar

import aiotaskq.log  # noqa: F401 - it imports loguru, whose function at exit has to run after ``_close_all``
from aiotaskq.concurrency.loop_bound import after_fork, keep_alive, running_loop_or_none
from aiotaskq.concurrency.uninterrupted import CrossThreadFuture, Posts, uninterrupted
from aiotaskq.core.errors import ClosedError, WrongLoop

T = TypeVar("T")

LEAVE_SECONDS = 1.0  # for which a caller that gives up waits for the end of its cancelled coroutine
EXIT_SECONDS = 1.5  # for which the end of the interpreter may wait, for all loop threads together

_ENDING = "the interpreter is shutting down, so the background event loop takes no calls"
_REFUSALS = ("cannot schedule new futures", "can't create new thread", "can't start new thread")


def refuse_running_loop(twin: str = "") -> None:
    """Raise WrongLoop if the calling thread runs an event loop; ``twin`` names the awaitable to use, as ``pkg.fn``."""
    if running_loop_or_none() is None:
        return
    remedy = f"call 'await {twin}(...)' instead" if twin else "await its asynchronous counterpart instead"
    raise WrongLoop(
        f"this is a blocking call, and this thread runs an event loop, which would stand still: {remedy} "
        "(a notebook cell and an async handler run inside a loop too, so 'await' works there)"
    )


class LoopThread:
    """A daemon thread that runs one event loop: started at first use, closed at exit, dropped after a fork.

    Any number of threads may use it. ``generation`` rises when a loop is gone (closed, crashed, or inherited by a
    forked child): objects that belong to an older loop, such as a connection pool, must be made again.
    """

    def __init__(self, name: str = "aiotaskq-loop") -> None:
        self.name = name
        self.generation = 0
        self._lock = threading.Lock()  # held for changes of _host, not while a caller waits
        self._host: _Host | None = None
        _all.add(self)

    def run(
        self,
        coro_fn: Callable[[], Coroutine[Any, Any, T]],
        *,
        twin: str = "",
        unclaimed: Callable[[T], Coroutine[Any, Any, object]] | None = None,
        settled: Callable[[], object] = lambda: None,
    ) -> T:
        """Run ``coro_fn()`` on the loop and block until it ends; return its value or raise its error.

        When the waiting is interrupted (Ctrl-C), the coroutine is cancelled, and has LEAVE_SECONDS to end. A value that
        comes when the caller no longer waits is given to ``unclaimed`` on the loop, so that a popped task can be put
        back. When the coroutine has ended, ``settled`` is called in the calling thread, as a part of the waiting.

        Raises WrongLoop in a thread that runs an event loop (``coro_fn`` is not called then), and ClosedError if the
        loop is closed or crashes, or the interpreter ends.
        """
        refuse_running_loop(twin)
        answer: CrossThreadFuture[T] = CrossThreadFuture()
        call = _Call(self._current(), coro_fn, answer, unclaimed)
        try:
            call.post()
            answer.wait()
            settled()
            return answer.result()
        except BaseException as error:
            # The coroutine's own error, or that of a signal handler, which interrupts the waiting; of any class.
            if not call.outcome_is(error):
                call.abandon()
            raise
        finally:
            # The call holds the error, whose traceback holds this frame: a reference cycle.
            del call, answer

    def submit(self, coro_fn: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
        """Start ``coro_fn()`` on the loop without waiting. Cancelling the future cancels the coroutine.

        Any thread may call it, also one that runs a loop. Raises ClosedError as ``run`` does.
        """
        future: Future[T] = Future()
        call = _Call(self._current(), coro_fn, future)
        future.add_done_callback(call.forward_cancel)
        call.post()
        return future

    def call_soon(self, fn: Callable[..., object], *args: object) -> None:
        """Call ``fn(*args)`` on the loop soon, without waiting. Raises ClosedError as ``run`` does."""
        host = self._current()
        host.posts.call(fn, *args)
        if host.ended.is_set():
            raise host.gone()

    def add_closer(self, closer: Callable[[], Coroutine[Any, Any, object]]) -> Callable[[], None]:
        """Await ``closer()`` on the loop when it closes, the last one added first; return a function that removes it.

        It belongs to the present loop: after a close, a crash or a fork, add it again (see ``generation``).
        """
        closers = self._current().closers
        closers.append(closer)

        def remove() -> None:
            with contextlib.suppress(ValueError):
                closers.remove(closer)

        return remove

    def close(self, timeout: float = 5.0) -> bool:
        """End the loop and its thread within ``timeout`` seconds; return whether everything ended.

        In this order, each with a third of the time: the present calls are cancelled, and their callers get
        ClosedError (or the result, if it is ready); the closers run; all other tasks are cancelled. A task that ignores
        its cancellation is abandoned with the thread. Idempotent; several threads may call it; a later call of ``run``
        starts a new loop. Raises WrongLoop in a thread that runs an event loop.
        """
        refuse_running_loop()
        host = uninterrupted(lambda: self.begin_close(timeout))
        return host is None or self.end_close(host, timeout)

    def _current(self) -> _Host:
        """Return the host of the running loop; start one if there is none."""
        host = self._host
        if host is not None and not host.closed:
            return host  # without a lock, since a signal handler may call while its own thread is in here
        if _exiting or sys.is_finalizing():
            if threading.current_thread().daemon:
                time.sleep(0.05)  # a loop with "except Exception: continue" would spin until the interpreter is gone
            raise ClosedError(_ENDING)
        return uninterrupted(self._start)

    def _start(self) -> _Host:
        with self._lock:
            host = self._host
            if host is None:
                host = _Host(self)
                try:
                    host.thread.start()
                except RuntimeError as error:
                    host.posts.close()
                    host.loop.close()
                    raise _typed(error)  # noqa: B904  # it carries its own cause
                self._host = host
            elif host.closed:
                if host.error is not None:
                    self._forget(host)  # the error is raised once; the next call starts a new loop
                raise host.gone()
            return host

    def begin_close(self, timeout: float) -> _Host | None:
        """Ask the loop to close, without waiting; return its host."""
        with self._lock:
            host = self._host
            if host is not None and not host.closed:
                host.phase_seconds = timeout / 3
                host.closed = True
                host.posts.call(host.stop)
            return host

    def end_close(self, host: _Host, timeout: float) -> bool:
        """Wait for the end of a loop that was asked to close; return whether it has ended."""
        try:
            ended = host.ended.wait(timeout)
            if ended:
                host.thread.join(timeout)  # the thread has nothing left to do
            return ended
        finally:
            host.fail_calls()
            uninterrupted(lambda: self._leave(host))

    def _leave(self, host: _Host) -> None:
        with self._lock:
            if self._host is host:
                self._forget(host)

    def _forget(self, host: _Host) -> None:
        self._host = None
        self.generation += 1

    def leave_to_parent(self) -> None:
        """Drop the loop in a forked child; the next call starts another one."""
        self._lock = threading.Lock()  # the old one may be held by a thread that does not exist here
        if self._host is not None:
            # It shares its epoll with the parent's loop: if it were closed here, the parent would get no events.
            keep_alive(self._host)
            self._forget(self._host)


class _Host:
    """One event loop with its thread, and the calls in it. Never restarted: after it there is a new one."""

    def __init__(self, owner: LoopThread) -> None:
        self.owner = owner  # keeps the LoopThread alive for the hooks at exit and fork while the loop runs
        self.loop = asyncio.new_event_loop()
        self.posts = Posts(self.loop)
        self.thread = threading.Thread(target=self._main, name=owner.name, daemon=True)
        self.calls: set[_Call[Any]] = set()
        self.kept: set[asyncio.Task[Any]] = set()
        self.closers: list[Callable[[], Coroutine[Any, Any, object]]] = []
        self.closed = False  # takes no new calls, and never will again
        self.error: BaseException | None = None  # of a crashed loop; set before `closed`
        self.ended = threading.Event()
        self.phase_seconds = EXIT_SECONDS / 3
        self._winding = False

    def gone(self) -> ClosedError:
        """Return a new error that says why there is no loop."""
        if self.error is None:
            return ClosedError(_ENDING if _exiting else "the background event loop was closed")
        error = ClosedError(f"the background event loop crashed: {self.error!r}; the next call starts a new one")
        error.__cause__ = self.error
        return error

    def keep(self, coro: Coroutine[Any, Any, object]) -> asyncio.Task[object]:
        """Run ``coro`` as a task, and keep a reference to it. On the loop only."""
        task = self.loop.create_task(coro)
        self.kept.add(task)
        task.add_done_callback(self.kept.discard)
        return task

    def stop(self) -> None:
        """End ``run_forever``, once, since a second stop would end the closing as well. On the loop only."""
        if not self._winding:
            self.loop.stop()

    def fail_calls(self) -> None:
        """Raise ClosedError in every caller that still waits. From any thread.

        Without a lock: a caller first adds its call and then checks ``closed``, so that one of the two sees the other.
        """
        while self.calls:
            with contextlib.suppress(KeyError):  # another thread has taken it
                self.calls.pop().fail(self.gone())

    def _main(self) -> None:
        try:
            self.loop.run_forever()
            if not self.closed:
                self.error = RuntimeError("code that ran on the loop stopped it")
        except BaseException as error:  # SystemExit and KeyboardInterrupt end the loop; the next caller gets them
            self.error = error
        self.closed = self._winding = True
        try:
            self.loop.run_until_complete(self._wind_down())
        except BaseException as error:
            self.error = self.error or error
        finally:
            self.fail_calls()
            self.posts.close()
            self.loop.close()
            self.ended.set()

    async def _wind_down(self) -> None:
        patience = self.phase_seconds
        await self._cancel([call.task for call in list(self.calls) if call.task is not None], patience)
        self.fail_calls()
        share = patience / max(1, len(self.closers))  # a closer that hangs leaves time for the others
        while self.closers:
            closing = self.loop.create_task(_await(self.closers.pop()))
            await asyncio.wait({closing}, timeout=share)
        deadline = self.loop.time() + patience
        while (rest := self._tasks()) and self.loop.time() < deadline:  # a task may start another one at its end
            await self._cancel(rest, deadline - self.loop.time())
        await self.loop.shutdown_asyncgens()
        # Abandoned, not destroyed: they may end later in this daemon thread, for which nothing waits.
        while rest := self._tasks():
            await asyncio.wait(rest)

    def _tasks(self) -> set[asyncio.Task[Any]]:
        return asyncio.all_tasks() - {asyncio.current_task()}

    async def _cancel(self, tasks: Iterable[asyncio.Task[Any]], seconds: float) -> None:
        tasks = set(tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)


class _Call(Generic[T]):
    """One call: its coroutine, and the future that the caller waits for."""

    __slots__ = ("_coro_fn", "_gone", "_handing_over", "_host", "_unclaimed", "future", "task")

    def __init__(
        self,
        host: _Host,
        coro_fn: Callable[[], Coroutine[Any, Any, T]],
        future: Future[T] | CrossThreadFuture[T],
        unclaimed: Callable[[T], Coroutine[Any, Any, object]] | None = None,
    ) -> None:
        self._host = host
        self._coro_fn = coro_fn
        self._unclaimed = unclaimed
        self._handing_over: asyncio.Task[object] | None = None
        self._gone: CrossThreadFuture[None] | None = None
        self.future = future
        self.task: asyncio.Task[None] | None = None

    # On the caller's thread.

    def post(self) -> None:
        """Send the call to the loop; if that is closed, the future gets ClosedError."""
        self._host.calls.add(self)
        self._host.posts.call(self._start)
        if self._host.closed:
            self.fail(self._host.gone())

    def outcome_is(self, error: BaseException) -> bool:
        """Whether ``error`` ended the call, and not only the waiting for it."""
        return self.future.done() and (self.future.cancelled() or self.future.exception() is error)

    def abandon(self) -> None:
        """Leave: the coroutine is cancelled, or its value given to ``unclaimed``; wait LEAVE_SECONDS for that.

        The loop decides between the two, so an interrupt of the waiting changes nothing.
        """
        gone = self._gone = CrossThreadFuture[None]()
        if not self._host.ended.is_set():  # else nothing can be awaited
            self._host.posts.call(self._abandoned)
            gone.wait(LEAVE_SECONDS)

    def forward_cancel(self, future: Future[T]) -> None:
        """Cancel the coroutine if the submitted future was cancelled."""
        if future.cancelled():
            self._host.posts.call(self._cancel)

    # On any thread.

    def fail(self, error: BaseException) -> None:
        with contextlib.suppress(InvalidStateError):  # it has ended
            self.future.set_exception(error)

    # On the loop.

    def _start(self) -> None:
        if self._host.closed:
            self.fail(self._host.gone())
        if self.future.done():
            self._host.calls.discard(self)
            return
        self.task = self._host.loop.create_task(self._work())
        self.task.add_done_callback(self._finish)

    async def _work(self) -> None:
        # The future is resolved here, since a callback of the task would run one iteration of the loop later.
        try:
            value = await self._coro_fn()
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
            raise  # see _finish
        except BaseException as error:
            self.fail(_typed(error))
        else:
            self._deliver(value)
        finally:
            del self  # the call holds the error, whose traceback holds this frame: a reference cycle

    def _cancel(self) -> None:
        if self.task is None:
            self._host.calls.discard(self)
            self.future.cancel()  # the caller left before the start was posted
        else:
            self.task.cancel()

    def _abandoned(self) -> None:
        if self.future.cancel():
            self._cancel()  # a value that still comes is unclaimed
        elif not self.future.cancelled() and self.future.exception() is None:
            self._hand_over(self.future.result())
        self._host.keep(self._tell_gone())

    async def _tell_gone(self) -> None:
        try:
            if self.task is not None:
                await asyncio.wait({self.task})
            if self._handing_over is not None:
                await asyncio.wait({self._handing_over})
        finally:
            self._handing_over = None
            if self._gone is not None:
                self._gone.set_result(None)

    def _deliver(self, value: T) -> None:
        try:
            self.future.set_result(value)
        except InvalidStateError:
            self._hand_over(value)

    def _finish(self, task: asyncio.Task[None]) -> None:
        self._host.calls.discard(self)
        # The task is freed here and not with the caller's last reference to this call: that would run Python code in
        # the main thread in which the exception of a signal handler is lost.
        self.task = None
        if task.cancelled():
            if self._host.closed:
                self.fail(self._host.gone())
            else:
                self.future.cancel()
        elif (error := task.exception()) is not None:  # KeyboardInterrupt and SystemExit as well
            self.fail(_typed(error))
        if self.future.cancelled() and isinstance(self.future, Future):
            self.future.set_running_or_notify_cancel()  # wakes concurrent.futures.wait()

    def _hand_over(self, value: T) -> None:
        if self._unclaimed is not None:
            self._handing_over = self._host.keep(self._unclaimed(value))


async def _await(fn: Callable[[], Coroutine[Any, Any, object]]) -> None:
    await fn()


def _typed(error: BaseException) -> BaseException:
    """Return ClosedError for an error that executors and threads raise when the interpreter ends, else the error."""
    if not isinstance(error, RuntimeError) or not str(error).startswith(_REFUSALS):
        return error
    # Executors end before the atexit functions run; their message is also that of an executor that was shut down by
    # hand. The private flag is set at that moment; without it, the end of the main thread, a little later, is the sign.
    if not getattr(threading, "_SHUTTING_DOWN", False) and threading.main_thread().is_alive():
        return error
    _hush_daemon_threads()
    closed = ClosedError(_ENDING)
    closed.__cause__ = error
    return closed


_all: weakref.WeakSet[LoopThread] = weakref.WeakSet()
_exiting = False


def _close_all() -> None:
    """Refuse new calls and end every loop; at exit, after the non-daemon threads have ended."""
    global _exiting
    _exiting = True
    _hush_daemon_threads()
    # Without `uninterrupted`: a call by a signal handler is refused before it takes a lock.
    hosts = [(thread, host) for thread in list(_all) if (host := thread.begin_close(EXIT_SECONDS)) is not None]
    patience = EXIT_SECONDS
    for thread, host in hosts:
        if not thread.end_close(host, patience):
            patience = 0.0  # the others have had that time as well


def _hush_daemon_threads() -> None:
    """Print no traceback when a daemon thread ends by ClosedError: a thread that waits in queue.Queue prints none."""
    hook = threading.excepthook
    if getattr(hook, "__module__", "") == __name__:
        return

    def excepthook(args: threading.ExceptHookArgs) -> None:
        if not (issubclass(args.exc_type, ClosedError) and args.thread is not None and args.thread.daemon):
            hook(args)

    threading.excepthook = excepthook


@after_fork
def _forget_all() -> None:
    for thread in list(_all):
        thread.leave_to_parent()


# At import, not at first use: functions that the application registers later run earlier, and may still call. Those of
# loguru, which was imported before, run later: what ends here still writes to its sinks.
atexit.register(_close_all)
