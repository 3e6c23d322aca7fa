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


class _Lazy:
    """An engine that ``make()`` makes once, whichever thread uses it first."""

    def __init__(self, make: Callable[[], Engine]) -> None:
        # The engine's own __init__ is not called: it would need the dialect, and so the URL.
        self._make = make
        self._lock = threading.Lock()
        self._made: Engine | None = None
        _all.add(self)

    def _engine(self) -> Engine:
        """Return the engine, making it if need be. Raises what ``make`` raises; then the next call tries again."""
        if self._made is None:
            with self._lock:
                if self._made is None:
                    self._made = self._make()
        return self._made

    def forked(self) -> None:
        """Replace the lock of the parent process, and forget its connections.

        The engine stays, since other modules have it by name. Its connections are not to be closed in the child, not
        even by the garbage collector.
        """
        self._lock = threading.Lock()
        if self._made is not None:
            engine: Any = getattr(self, "sync_engine", self)
            keep_alive(engine.pool)
            engine.dispose(close=False)


class LazyEngine(_Lazy, Engine):
    """A SQLAlchemy ``Engine`` for ``from … import engine``: ``make()`` is called when it is first used.

    Until then it has none of the attributes that every use of an engine begins with (``url``, ``dialect``, ``pool``).
    The first access to one of them turns it into the engine that was made.
    """

    def __getattr__(self, name: str) -> Any:
        if not name.endswith("_"):  # names such as __wrapped__ or _repr_html_ are read to inspect an object
            for key, value in self._engine().__dict__.items():
                self.__dict__.setdefault(key, value)
            if name in self.__dict__:
                return self.__dict__[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


class LazyAsyncEngine(_Lazy, AsyncEngine):
    """The same for an ``AsyncEngine``; ``make()`` returns its ``sync_engine``, which has an asynchronous driver."""

    def __getattr__(self, name: str) -> Any:
        if name == "sync_engine":
            AsyncEngine.__init__(self, self._engine())
            return self.sync_engine
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


_all: weakref.WeakSet[_Lazy] = weakref.WeakSet()


@after_fork
def _forked() -> None:
    for engine in list(_all):
        engine.forked()
