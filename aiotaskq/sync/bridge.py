"""The wrapper that makes blocking twins of coroutine functions, and the background loop in which they run.

A facade object holds a way to reach an asynchronous object. ``blocking`` makes its methods; it keeps the name, the
signature and the docstring of the coroutine function. Nothing here depends on what is called.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import CancelledError
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Concatenate, Generic, ParamSpec, TypeAlias, TypeVar, cast, overload

from aiotaskq.concurrency.loop_bound import after_fork, keep_alive, running_loop_or_none
from aiotaskq.concurrency.loop_thread import LoopThread
from aiotaskq.concurrency.uninterrupted import may_be_interrupted, uninterrupted
from aiotaskq.errors import ClosedError
from aiotaskq.log import log
from aiotaskq.runtime.queue.unacked import caller

A = TypeVar("A")
B = TypeVar("B")
F = TypeVar("F", bound=Callable[..., Any])
P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
Unclaimed = Callable[[Any, R], Coroutine[Any, Any, object]]
Admit = Callable[[str, tuple[Any, ...], dict[str, Any]], None]
"""It gets the name of a method and its arguments."""

loop_thread = LoopThread("aiotaskq-sync")
"""The event loop of this process in which every coroutine of the facade runs."""


def _any_call(_name: str, _args: tuple[Any, ...], _kwargs: dict[str, Any]) -> None: ...


async def _nothing(_made: object) -> None: ...


class Home(Generic[A]):
    """An asynchronous object of the facade: made at first use, and again after a fork; closed with its loop.

    A forked child inherits a copy of connections and tasks that only its parent may use. After a crash of the loop,
    ``anew(old object)`` is awaited and returns the object to go on with, which may be the same.
    """

    def __init__(
        self,
        make: Callable[[], A],
        *,
        needs: Reach[Any] | None = None,
        anew: Callable[[A], Coroutine[Any, Any, A]] | None = None,
        close: Callable[[A], Coroutine[Any, Any, object]] = _nothing,
    ) -> None:
        self.admit: Admit = _any_call
        """What raises, in the calling thread, if that must not make a call now."""
        self._make = make
        self._needs = needs
        self._anew = anew
        self._close = close
        self._made: A | None = None
        self._process: object = None
        self._generation = -1
        self._take_off: Callable[[], None] = lambda: None

    def __call__(self) -> A:
        """Return the object, from any thread, for methods that need no loop."""
        if self._process is not _process:
            uninterrupted(self._make_once)
        return self._made  # type: ignore[return-value]  # `cast` would double the time of this call

    def _make_once(self) -> None:
        with _lock:
            if self._process is not _process:
                keep_alive(self._made)
                self._made, self._generation = self._make(), -1
                self._process = _process

    async def enter(self) -> A:
        """Return the object ready for use; called in the loop."""
        if self._needs is not None:
            await self._needs.enter()
        made = self()
        now = loop_thread.generation
        if self._generation != now:
            if self._generation >= 0 and self._anew is not None:
                keep_alive(made)  # a loop that hangs may still use it
                made = self._made = await self._anew(made)
            self._generation = now
            self._take_off = loop_thread.add_closer(lambda: self._close(made))
        return made

    def left(self) -> None:
        """Note that the caller has closed the object, so that it is not closed with the loop."""
        self._take_off()
        self._generation = -1


class Part(Generic[A, B]):
    """An asynchronous object that belongs to another one, or is made from it at no cost; used as its home is."""

    def __init__(self, whole: Reach[A], pick: Callable[[A], B]) -> None:
        self._whole = whole
        self._pick = pick

    @property
    def admit(self) -> Admit:
        return self._whole.admit

    def __call__(self) -> B:
        return self._pick(self._whole())

    async def enter(self) -> B:
        return self._pick(await self._whole.enter())


Reach: TypeAlias = Home[A] | Part[Any, A]
"""A way to an asynchronous object."""


class Facade(Generic[A]):
    """Base class of blocking objects. Their methods are those of the asynchronous object that ``_reach`` leads to."""

    _reach: Reach[A]
    """The way to the asynchronous object."""


def reach_of(facade: Facade[Any]) -> Any:
    """Return the way to the asynchronous object of a facade."""
    return facade._reach


def facade_of(kind: type[Facade[Any]], reach: Reach[Any]) -> Any:
    """Return a facade of that class for an object that exists already."""
    facade = object.__new__(kind)
    facade._reach = reach
    return facade


# ---- the wrapper ----------------------------------------------------------------------------------------------------


@overload
def blocking(
    method: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /, *, unclaimed: Unclaimed[R] | None = ...
) -> Callable[Concatenate[Any, P], R]: ...
@overload
def blocking(
    method: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], give: Callable[[Any, R], S], /
) -> Callable[Concatenate[Any, P], S]: ...


def blocking(method: Any, give: Any = None, /, *, unclaimed: Unclaimed[Any] | None = None) -> Any:
    """Return the blocking twin of a coroutine method: it runs in the facade's loop, and the caller waits for its end.

    ``give(facade, value)`` converts the value for the caller. A value whose caller has left is passed to
    ``unclaimed(asynchronous object, value)``.
    """

    def call(self: Facade[Any], *args: Any, **kwargs: Any) -> Any:
        value = _run(self._reach, method, args, kwargs, f"aiotaskq.{type(self).__name__}.{method.__name__}", unclaimed)
        return value if give is None else give(self, value)

    return like(method)(call)


def direct(
    method: Callable[Concatenate[Any, P], R], give: Callable[[Any, R], S], /
) -> Callable[Concatenate[Any, P], S]:
    """Return the twin of a plain method: it is called in the calling thread; ``give`` as for ``blocking``."""

    def call(self: Facade[Any], *args: Any, **kwargs: Any) -> S:
        return give(self, method(self._reach(), *args, **kwargs))

    return cast("Callable[Concatenate[Any, P], S]", like(method)(call))


def blocking_context(
    method: Callable[Concatenate[Any, P], AbstractAsyncContextManager[Any]],
) -> Callable[Concatenate[Any, P], AbstractContextManager[Any]]:
    """Return the blocking twin of a method that returns an asynchronous context manager; it yields the facade."""

    @contextlib.contextmanager
    def call(self: Facade[Any], *args: Any, **kwargs: Any) -> Iterator[Any]:
        twin = f"aiotaskq.{type(self).__name__}.{method.__name__}"
        self._reach.admit(method.__name__, args, kwargs)
        manager = run(lambda: _entered(self._reach, method, args, kwargs), twin, _left)
        with contextlib.ExitStack() as stack:
            process = _process
            # A forked child leaves the block, too; only the parent may stop what runs in it.
            stack.push(lambda *error: run(lambda: manager.__aexit__(*error), twin) if process is _process else None)
            yield self

    return cast("Callable[Concatenate[Any, P], AbstractContextManager[Any]]", like(method)(call))


async def _entered(reach: Reach[Any], method: Any, args: Any, kwargs: Any) -> AbstractAsyncContextManager[Any]:
    manager: AbstractAsyncContextManager[Any] = method(await reach.enter(), *args, **kwargs)
    await manager.__aenter__()
    return manager


async def _left(manager: AbstractAsyncContextManager[Any]) -> None:
    await manager.__aexit__(None, None, None)


def run(coro_fn: Callable[[], Coroutine[Any, Any, R]], twin: str, unclaimed: Any = None) -> R:
    """Run a coroutine in the facade's loop on behalf of the calling thread; return its value or raise its error."""
    me = threading.current_thread()

    async def on_behalf() -> R:
        caller.set(me)
        log.write_apart()
        return await coro_fn()

    value: R = loop_thread.run(on_behalf, twin=twin, unclaimed=unclaimed, settled=log.flush)
    return value


def _run(reach: Reach[Any], method: Any, args: Any, kwargs: Any, twin: str, unclaimed: Unclaimed[Any] | None) -> Any:
    reach.admit(method.__name__, args, kwargs)

    async def on_loop() -> Any:
        return await method(await reach.enter(), *args, **kwargs)

    async def go_back(value: Any) -> None:
        if unclaimed is not None:
            await unclaimed(await reach.enter(), value)

    return run(on_loop, twin, go_back)


def may_lock() -> bool:
    """Whether the calling thread may use what is in memory itself, under its locks, which is quicker than by the loop.

    Not where an event loop runs, whose calls ``_run`` refuses; nor in the main thread: a signal handler could call
    again, or raise, while a lock is held.
    """
    return running_loop_or_none() is None and not may_be_interrupted()


# ---- names, signatures, docstrings ----------------------------------------------------------------------------------


def like(source: F) -> Callable[[Callable[..., Any]], F]:
    """Give a function the name, signature and docstring of ``source``, and for the type checker its type.

    Unlike ``functools.wraps`` it sets no ``__wrapped__``, which would lead tools to a coroutine function.
    """

    def dress(function: Callable[..., Any]) -> F:
        functools.update_wrapper(function, source)
        del function.__wrapped__  # type: ignore[attr-defined]
        function.__signature__ = inspect.signature(source)  # type: ignore[attr-defined]
        return cast(F, function)

    return dress


def documented_as(source: Callable[..., Any]) -> Callable[[F], F]:
    """Like ``like``, for a function that keeps its own type: where the twins return different classes."""
    dress: Any = like(source)
    return cast("Callable[[F], F]", dress)


def arguments_of(source: Callable[P, Any]) -> Callable[[Callable[..., None]], Callable[Concatenate[Any, P], None]]:
    """Give a constructor the arguments and the docstring of the class ``source``."""

    def dress(function: Callable[..., None]) -> Callable[Concatenate[Any, P], None]:
        dressed: Any = like(cast(Any, source).__init__)(function)
        return cast("Callable[Concatenate[Any, P], None]", dressed)

    return dress


def reading(source: Callable[[Any], R]) -> R:
    """Return a property that reads the same property of the asynchronous object, which never waits."""
    original = cast(property, source)  # the type checker sees the type of its value
    name: str = cast(Any, original.fget).__name__

    def read(self: Facade[Any]) -> Any:
        return getattr(self._reach(), name)

    return cast(R, property(read, doc=original.__doc__))


# ---- fork -----------------------------------------------------------------------------------------------------------

_process = object()
"""Identifies the process: a new object after a fork."""
_lock = threading.RLock()  # reentrant: an object may make another one


@after_fork
def _forked() -> None:
    global _process, _lock
    _process, _lock = object(), threading.RLock()


_GONE = "the event loop of this task's worker has ended; the task will be run again elsewhere"


def in_worker_loop(loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine for a ``def`` handler in its worker's loop, which may be another than that of the facades.

    Raises ClosedError if that loop has ended.
    """
    try:
        return asyncio.run_coroutine_threadsafe(coro, loop).result()
    except CancelledError:
        raise ClosedError(_GONE) from None
    except RuntimeError:
        if not loop.is_closed():
            raise
        coro.close()
        raise ClosedError(_GONE) from None
