"""One background event loop in a daemon thread, with the guards that make blocking calls into it safe.

The mechanism only; what is called through it, and under which names, is decided elsewhere. The guards: a call from a
thread that runs an event loop is refused at once, a fork starts anew, the end of the interpreter is a typed error, and
a caller who leaves (deadline, Ctrl-C) takes the coroutine along.
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
from concurrent.futures import CancelledError, Future, InvalidStateError
from typing import Any, Generic, TypeVar

from aiotaskq.concurrency.answer import Answer
from aiotaskq.concurrency.loop_bound import after_fork, keep_alive
from aiotaskq.concurrency.uninterrupted import uninterrupted
from aiotaskq.core.errors import CallTimeout, ClosedError, WrongLoop

__all__ = ["LoopThread", "refuse_running_loop"]

T = TypeVar("T")

LEAVE_SECONDS = 1.0  # how long a caller who gives up still waits for its cancelled coroutine to end
EXIT_SECONDS = 1.5  # what the end of the interpreter may cost, all loop threads together

_ENDING = "the interpreter is shutting down, so the background event loop takes no calls"
_REFUSALS = ("cannot schedule new futures", "can't create new thread", "can't start new thread")


def _nothing() -> None: ...


def refuse_running_loop(twin: str = "") -> None:
    """Raise WrongLoop when the calling thread runs an event loop; ``twin`` is the awaitable to name, as ``pkg.fn``."""
    if asyncio._get_running_loop() is None:  # the public get_running_loop() raises, which costs more than the call
        return
    remedy = f"call 'await {twin}(...)' instead" if twin else "await its asynchronous counterpart instead"
    raise WrongLoop(
        f"this is a blocking call, and this thread runs an event loop, which would stand still: {remedy} "
        "(a notebook cell and an async handler run inside a loop too, so 'await' works there)"
    )


class LoopThread:
    """A daemon thread that runs one event loop: started on first use, closed at exit, forgotten after a fork.

    Safe to use from any number of threads. ``generation`` rises whenever a loop is gone (closed, crashed, left behind
    by a fork): what was built on an older loop, such as a connection pool, must be built again.
    """

    def __init__(self, name: str = "aiotaskq-loop") -> None:
        self.name = name
        self.generation = 0
        self._lock = threading.Lock()  # held for changes of _host only, never while a caller waits for the loop
        self._host: _Host | None = None
        _all.add(self)

    def run(
        self,
        coro_fn: Callable[[], Coroutine[Any, Any, T]],
        *,
        timeout: float | None = None,
        twin: str = "",
        unclaimed: Callable[[T], Coroutine[Any, Any, object]] | None = None,
        settled: Callable[[], object] = _nothing,
    ) -> T:
        """Run ``coro_fn()`` on the loop and block until it ends; return its value or raise its error.

        ``timeout`` is in seconds. When it is over, or the waiting is interrupted (Ctrl-C), the coroutine is cancelled
        and given up to a second to end. A value that was ready in spite of the deadline is returned; one that finds
        nobody waiting any more is handed to ``unclaimed`` on the loop, so that a popped task can go back. When the
        coroutine has ended, ``settled`` is called in the calling thread, which still counts as waiting.

        Raises CallTimeout after the deadline, WrongLoop from a thread that runs an event loop (``coro_fn`` is not
        called then), ClosedError while or after the loop is closed, crashed, or the interpreter ends.
        """
        refuse_running_loop(twin)
        answer: Answer[T] = Answer()
        call = _Call(self._current(), coro_fn, answer, unclaimed)
        try:
            call.post()
            if answer.wait(timeout) or call.leave():
                settled()
                return answer.result()
            cause = None if answer.cancelled() else answer.exception()
        except BaseException as error:
            # Either the coroutine's own error, or the waiting was interrupted: a signal handler may raise any class.
            if not call.outcome_is(error):
                call.abandon()
            raise
        finally:
            # The error's traceback holds this frame, and the call holds the error: no cycle for gc to find.
            del call, answer
        raise CallTimeout(f"the call did not finish within {timeout} s and was cancelled") from cause

    def submit(self, coro_fn: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
        """Start ``coro_fn()`` on the loop without waiting. Cancelling the future cancels the coroutine.

        Allowed from every thread, also from one that runs a loop. Raises ClosedError as ``run`` does.
        """
        future: Future[T] = Future()
        call = _Call(self._current(), coro_fn, future)
        future.add_done_callback(call.forward_cancel)
        call.post()
        return future

    def call_soon(self, fn: Callable[..., object], *args: object) -> None:
        """Call ``fn(*args)`` on the loop as soon as it can, without waiting. Raises ClosedError as ``run`` does."""
        host = self._current()
        try:
            host.loop.call_soon_threadsafe(fn, *args)
        except RuntimeError:
            raise host.gone() from None

    def add_closer(self, closer: Callable[[], Coroutine[Any, Any, object]]) -> Callable[[], None]:
        """Have ``closer()`` awaited on the loop when it closes, last added first; return a function that takes it off.

        It belongs to the loop of now: after a close, a crash or a fork, add it again (see ``generation``).
        """
        closers = self._current().closers
        closers.append(closer)

        def remove() -> None:
            with contextlib.suppress(ValueError):
                closers.remove(closer)

        return remove

    def close(self, timeout: float = 5.0) -> bool:
        """End the loop and its thread within ``timeout`` seconds; return whether everything ended.

        In this order, each with a third of the time: the calls under way are cancelled and their callers get
        ClosedError (or the result, when it was ready); the closers run; every other task is cancelled. What ignores
        its cancellation is abandoned with its thread. Idempotent, and safe from several threads; a later call starts a
        new loop. Raises WrongLoop from a thread that runs an event loop.
        """
        refuse_running_loop()
        host = uninterrupted(lambda: self._stop(timeout))
        return host is None or self._join(host, timeout)

    def _current(self) -> _Host:
        """Return the running loop's host, started if there is none."""
        host = self._host
        if host is not None and not host.closed:
            return host  # the usual way, without a lock: a signal handler may call while its thread is in here
        if _exiting or sys.is_finalizing():
            if threading.current_thread().daemon:
                time.sleep(0.05)  # a worker's "except Exception: log, go on" would spin until the interpreter is gone
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
                    host.loop.close()
                    raise _typed(error)  # noqa: B904  # it carries its own cause
                self._host = host
            elif host.closed:
                if host.error is not None:
                    self._forget(host)  # told once; the next call starts a new loop
                raise host.gone()
            return host

    def _stop(self, timeout: float) -> _Host | None:
        """Tell the loop to wind down, without waiting; return its host."""
        with self._lock:
            host = self._host
            if host is not None and not host.closed:
                host.phase_seconds = timeout / 3
                host.closed = True
                with contextlib.suppress(RuntimeError):  # it crashed at this moment and has closed its loop
                    host.loop.call_soon_threadsafe(host.stop)
            return host

    def _join(self, host: _Host, timeout: float) -> bool:
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

    def _after_fork_in_child(self) -> None:
        self._lock = threading.Lock()  # the old one may have been held by a thread that does not exist here
        if self._host is not None:
            # The loop shares its epoll with the parent: were it collected and closed here, the parent would go deaf.
            keep_alive(self._host)
            self._forget(self._host)


class _Host:
    """One event loop with its thread and what was asked of it. Never restarted; its successor is a new one."""

    def __init__(self, owner: LoopThread) -> None:
        self.owner = owner  # a loop that runs keeps its LoopThread, which the hooks at exit and fork must find
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._main, name=owner.name, daemon=True)
        self.calls: set[_Call[Any]] = set()
        self.kept: set[asyncio.Task[Any]] = set()
        self.closers: list[Callable[[], Coroutine[Any, Any, object]]] = []
        self.closed = False  # no new calls; never goes back
        self.error: BaseException | None = None  # what crashed the loop; set before closed
        self.ended = threading.Event()
        self.phase_seconds = EXIT_SECONDS / 3
        self._winding = False

    def gone(self) -> ClosedError:
        """Return a new error that tells why there is no loop."""
        if self.error is None:
            return ClosedError(_ENDING if _exiting else "the background event loop was closed")
        error = ClosedError(f"the background event loop crashed: {self.error!r}; the next call starts a new one")
        error.__cause__ = self.error
        return error

    def keep(self, coro: Coroutine[Any, Any, object]) -> asyncio.Task[object]:
        """Run ``coro`` as a task of its own, strongly held. On the loop only."""
        task = self.loop.create_task(coro)
        self.kept.add(task)
        task.add_done_callback(self.kept.discard)
        return task

    def stop(self) -> None:
        """Leave ``run_forever``, once. On the loop only: a second stop would cut the winding down short."""
        if not self._winding:
            self.loop.stop()

    def fail_calls(self) -> None:
        """Give ClosedError to every caller that still waits. From any thread.

        No lock: a caller adds its call first and looks at ``closed`` after, so that one of the two sees the other.
        """
        while self.calls:
            with contextlib.suppress(KeyError):  # taken by another thread since
                self.calls.pop().fail(self.gone())

    def _main(self) -> None:
        try:
            self.loop.run_forever()
            if not self.closed:
                self.error = RuntimeError("code that ran on the loop stopped it")
        except BaseException as error:  # SystemExit and KeyboardInterrupt leave the loop; told to the next caller
            self.error = error
        self.closed = self._winding = True
        try:
            self.loop.run_until_complete(self._wind_down())
        except BaseException as error:
            self.error = self.error or error
        finally:
            self.fail_calls()
            self.loop.close()
            self.ended.set()

    async def _wind_down(self) -> None:
        patience = self.phase_seconds
        await self._cancel([call.task for call in list(self.calls) if call.task is not None], patience)
        self.fail_calls()
        share = patience / max(1, len(self.closers))  # so that one that hangs leaves time for the others
        while self.closers:
            closing = self.loop.create_task(_await(self.closers.pop()))
            await asyncio.wait({closing}, timeout=share)
        deadline = self.loop.time() + patience
        while (rest := self._tasks()) and self.loop.time() < deadline:  # a task that ends may start another one
            await self._cancel(rest, deadline - self.loop.time())
        await self.loop.shutdown_asyncgens()
        # Abandoned, not destroyed: in a daemon thread they may end in their own time, and nobody waits for that.
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
    """One coroutine on its way to the loop, and the future that its caller holds."""

    __slots__ = ("_coro_fn", "_gone", "_handing_over", "_host", "_unclaimed", "future", "task")

    def __init__(
        self,
        host: _Host,
        coro_fn: Callable[[], Coroutine[Any, Any, T]],
        future: Future[T] | Answer[T],
        unclaimed: Callable[[T], Coroutine[Any, Any, object]] | None = None,
    ) -> None:
        self._host = host
        self._coro_fn = coro_fn
        self._unclaimed = unclaimed
        self._handing_over: asyncio.Task[object] | None = None
        self._gone: Answer[None] | None = None
        self.future = future
        self.task: asyncio.Task[None] | None = None

    # On the caller's thread.

    def post(self) -> None:
        """Send the call to the loop. Raises ClosedError when the loop has gone since the caller asked for it."""
        self._host.calls.add(self)
        with contextlib.suppress(RuntimeError):  # the loop is closed, and so is the host
            self._host.loop.call_soon_threadsafe(self._start)
        if self._host.closed:
            self.fail(self._host.gone())

    def outcome_is(self, error: BaseException) -> bool:
        """Whether ``error`` is how the call ended, not how the waiting for it ended."""
        return self.future.done() and (self.future.cancelled() or self.future.exception() is error)

    def leave(self) -> bool:
        """Cancel the coroutine, wait a little for its end, stop being its caller; return whether a value came."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, so the future is done
            self._host.loop.call_soon_threadsafe(self._cancel)
        with contextlib.suppress(TimeoutError, CancelledError):
            self.future.exception(LEAVE_SECONDS)
        return not self.future.cancel() and self.future.exception() is None  # once cancelled, a value is unclaimed

    def abandon(self) -> None:
        """Leave at once: the coroutine is cancelled, and a value handed to ``unclaimed``; wait a little for both.

        The loop decides between the two. If this is interrupted as well, that changes nothing.
        """
        gone = self._gone = Answer[None]()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nothing can be awaited any more
            self._host.loop.call_soon_threadsafe(self._abandoned)
            gone.wait(LEAVE_SECONDS)

    def forward_cancel(self, future: Future[T]) -> None:
        """Carry the cancellation of a submitted future to its coroutine."""
        if future.cancelled():
            with contextlib.suppress(RuntimeError):  # the loop is closed: the coroutine has ended
                self._host.loop.call_soon_threadsafe(self._cancel)

    # On any thread.

    def fail(self, error: BaseException) -> None:
        with contextlib.suppress(InvalidStateError):  # it has ended since
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
        # The answer leaves from here: a callback of the task would come one round of the loop later.
        try:
            value = await self._coro_fn()
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
            raise  # see _finish
        except BaseException as error:
            self.fail(_typed(error))
        else:
            self._deliver(value)
        finally:
            del self  # the error's traceback holds this frame, and the call holds the error: no cycle for gc to find

    def _cancel(self) -> None:
        if self.task is None:
            self._host.calls.discard(self)
            self.future.cancel()  # the caller left before it had posted the start
        else:
            self.task.cancel()

    def _abandoned(self) -> None:
        if self.future.cancel():
            self._cancel()  # a value that comes all the same finds nobody
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
        # A task dies here, not with the caller's last reference to this call: its end runs code of Python's, in which
        # the exception of a signal handler would be lost.
        self.task = None
        if task.cancelled():
            if self._host.closed:
                self.fail(self._host.gone())
            else:
                self.future.cancel()
        elif (error := task.exception()) is not None:  # one that leaves the loop, too
            self.fail(_typed(error))
        if self.future.cancelled() and isinstance(self.future, Future):
            self.future.set_running_or_notify_cancel()  # for those in concurrent.futures.wait()

    def _hand_over(self, value: T) -> None:
        if self._unclaimed is not None:
            self._handing_over = self._host.keep(self._unclaimed(value))


async def _await(fn: Callable[[], Coroutine[Any, Any, object]]) -> None:
    await fn()


def _typed(error: BaseException) -> BaseException:
    """Return ClosedError for what executors and threads say once the interpreter ends, else the error itself."""
    if not isinstance(error, RuntimeError) or not str(error).startswith(_REFUSALS):
        return error
    # Executors end before the atexit functions run, with a message that an executor shut down by hand has too. The flag
    # is set at that moment, and is private; without it the main thread's end, a little later, tells.
    if not getattr(threading, "_SHUTTING_DOWN", False) and threading.main_thread().is_alive():
        return error
    _hush_daemon_threads()
    closed = ClosedError(_ENDING)
    closed.__cause__ = error
    return closed


_all: weakref.WeakSet[LoopThread] = weakref.WeakSet()
_exiting = False


def _close_all() -> None:
    """At exit, after the non-daemon threads have ended: refuse new calls and end every loop, all at once."""
    global _exiting
    _exiting = True
    _hush_daemon_threads()
    # Not `uninterrupted`: a handler that calls meanwhile is refused before it comes to a lock.
    hosts = [(thread, host) for thread in list(_all) if (host := thread._stop(EXIT_SECONDS)) is not None]
    patience = EXIT_SECONDS
    for thread, host in hosts:
        if not thread._join(host, patience):
            patience = 0.0  # the others have had the same time by now


def _hush_daemon_threads() -> None:
    """Let daemon threads that end by ClosedError do so silently, as they would have when blocked in a plain queue."""
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
        thread._after_fork_in_child()


# On import, not on first use: exit functions that the application registers later run earlier, and may still call.
atexit.register(_close_all)
