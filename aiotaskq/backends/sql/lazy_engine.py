"""Engines that are made when they are first used, so that importing their names does not read the settings."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from aiotaskq.concurrency.loop_bound import after_fork, keep_alive

__all__ = ["LazyAsyncEngine", "LazyEngine"]


class _Once:
    """Makes an engine once, whichever thread uses it first."""

    def __init__(self, make: Callable[[], Engine]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: Engine | None = None

    def made(self) -> Engine:
        """Return the engine, making it if need be. Raises what ``make`` raises; then the next call tries again."""
        if self._made is None:
            with self._lock:
                if self._made is None:
                    self._made = self._make()
        return self._made

    def forked(self) -> bool:
        """Replace the lock of the parent process; return whether there are connections of the parent process."""
        self._lock = threading.Lock()
        return self._made is not None


class LazyEngine(Engine):
    """A SQLAlchemy ``Engine`` for ``from … import engine``: ``make()`` is called when it is first used.

    Until then it has none of the attributes that every use of an engine begins with (``url``, ``dialect``, ``pool``).
    The first access to one of them turns it into the engine that was made.
    """

    def __init__(self, make: Callable[[], Engine]) -> None:
        # Engine.__init__ is not called: it would need the dialect, and so the URL.
        self._once = _Once(make)
        _all.add(self)

    def forked(self) -> None:
        """Forget the connections of the parent process."""
        if self._once.forked():
            _leave_to_parent(self)

    def __getattr__(self, name: str) -> Any:
        if not name.endswith("_"):  # names such as __wrapped__ or _repr_html_ are read to inspect an object
            for key, value in self._once.made().__dict__.items():
                self.__dict__.setdefault(key, value)
            if name in self.__dict__:
                return self.__dict__[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


class LazyAsyncEngine(AsyncEngine):
    """The same for an ``AsyncEngine``; ``make()`` returns its ``sync_engine``, which has an asynchronous driver."""

    def __init__(self, make: Callable[[], Engine]) -> None:
        self._once = _Once(make)
        _all.add(self)

    def forked(self) -> None:
        """Forget the connections of the parent process."""
        if self._once.forked():
            _leave_to_parent(self.sync_engine)

    def __getattr__(self, name: str) -> Any:
        if name == "sync_engine":
            AsyncEngine.__init__(self, self._once.made())
            return self.sync_engine
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


_all: weakref.WeakSet[LazyEngine | LazyAsyncEngine] = weakref.WeakSet()


def _leave_to_parent(engine: Engine) -> None:
    # The engine stays, since other modules have it by name. Its connections are not to be closed in the child, not
    # even by the garbage collector.
    keep_alive(engine.pool)
    engine.dispose(close=False)


@after_fork
def _forked() -> None:
    for engine in list(_all):
        engine.forked()
