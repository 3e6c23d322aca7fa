"""From a database URL to a SQLAlchemy engine: the driver, and the options that it understands.

Lazy engines are made when they are first used, so that importing their names does not read the settings.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Final

from sqlalchemy import URL, Engine, exc, make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from aiotaskq.backends.sql.dialects import Dialect, dialect_named
from aiotaskq.backends.sql.names import names_in
from aiotaskq.backends.url import SQL, TABLE_NAMES, scheme_of, with_table_names
from aiotaskq.concurrency.loop_bound import after_fork, keep_alive
from aiotaskq.core.masking import mask
from aiotaskq.errors import ValidationError

_TRUTH: Final = {"true": "require", "1": "require", "false": "disable", "0": "disable"}
_POOL: Final = {"pool_size": 0, "max_overflow": -1, "pool_recycle": -1}
"""SQLAlchemy's options for its pool, with the smallest value of each."""


def parse_url(url: str, *, sync: bool = False) -> URL:
    """Return the URL with the asynchronous driver for its database, whatever driver it names; or the synchronous one.

    Raises ValidationError for a URL, or an option in its query, that means nothing.
    """
    scheme = scheme_of(with_table_names(url))
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError):
        raise ValidationError(f"url: cannot be parsed (got {mask(url)})") from None
    if scheme not in SQL:
        raise ValidationError(f"url: {scheme} is no SQL database; use sqlite:///, postgresql:// or mysql://")
    dialect = dialect_named(scheme)
    driver = dialect.sync_driver if sync else dialect.async_driver
    parsed = parsed.set(drivername=f"{dialect}+{driver}", query=_query(dialect, parsed.query))
    dialect.check_url(parsed, mask(url))
    return parsed


def _query(dialect: Dialect, given: Mapping[str, Any]) -> dict[str, Any]:
    query: dict[str, Any] = {}
    for name, value in given.items():
        if name in _POOL:
            _check_pool(name, value)
        if dialect.options is None or name in _POOL or name in TABLE_NAMES:
            query[name] = value
            continue
        option = dialect.aliases.get(name, name)
        if option in dialect.options:
            query[option] = _TRUTH.get(str(value).lower(), value) if name == "ssl" else value
        elif option not in dialect.ignored:
            names = ", ".join([*sorted(dialect.options), *_POOL])
            raise ValidationError(f"url: the option {name[:40]!r} is unknown; for {dialect} there are {names}")
    return query


def _check_pool(name: str, value: object) -> None:
    try:
        number = int(str(value))
    except ValueError:
        number = _POOL[name] - 1
    if not _POOL[name] <= number <= 1_000_000:
        raise ValidationError(f"url: {name} is a whole number of at least {_POOL[name]} (got {str(value)[:40]!r})")


def engine_options(url: URL) -> tuple[URL, dict[str, Any]]:
    """Take the options of the pool and the ``names`` of the tables out of a parsed URL, since no driver knows them."""
    found: dict[str, Any] = {name: int(str(value)) for name, value in url.query.items() if name in _POOL}
    url = url.difference_update_query(found)
    if (names := names_in(url)) is not None:
        found["names"] = names
    return url.difference_update_query(TABLE_NAMES), found


def sync_engine(url: str, **options: Any) -> Engine:
    """Return a plain synchronous engine on the database, for code that is not asynchronous.

    ``pool_size``, ``max_overflow`` and ``pool_recycle`` in the URL's query win over ``options``. Raises MissingExtra.
    """
    parsed, found = engine_options(parse_url(url, sync=True))
    return dialect_named(parsed.get_backend_name()).sync_engine(parsed, **{**options, **found})


def async_engine(url: URL, **options: Any) -> AsyncEngine:
    """Return an asynchronous engine for a parsed URL. Raises MissingExtra.

    Options of the pool in the URL's query win over ``options``.
    """
    url, found = engine_options(url)
    return dialect_named(url.get_backend_name()).async_engine(url, **{**options, **found})


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
