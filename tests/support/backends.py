"""The stores of the contract suite, and how an empty one is made.

One more backend is one more entry in ``STORES``: an async context manager that takes a folder of its own, gives a
``Store`` whose backend is open and empty, and cleans up. One that cannot be started here raises ``Unavailable``.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, make_url, text

from aiotaskq.backends import connect
from aiotaskq.backends.base import Backend, Schedules
from aiotaskq.backends.sql.engines import engine_options, parse_url, sync_engine
from aiotaskq.backends.sql.names import names_in
from aiotaskq.backends.url import BACKENDS, DURABLE_FAKE, has_tables
from aiotaskq.backends.values import Values
from aiotaskq.models import OUR_TABLES
from tests.support.servers import Server, mariadb, valkey
from tests.support.servers import postgresql as postgresql_server
from tests.support.servers import postgresql_jit as postgresql_jit_server

__all__ = ["STORES", "Store"]


class Store:
    """A backend under test, and the ways around it that the tests need."""

    def __init__(self, name: str, url: str, backend: Backend) -> None:
        self.name = name
        self.url = url
        self.backend = backend
        self._others: list[Backend] = []
        self._engine: Engine | None = None

    @property
    def values(self) -> Values:
        return self.backend.values

    @property
    def schedules(self) -> Schedules:
        return self.backend.schedules

    @property
    def is_sql(self) -> bool:
        """Whether ``execute`` works."""
        return has_tables(self.url)

    @property
    def place(self) -> URL:
        """The URL of the database for an engine of the application's own, without the names of our tables."""
        return engine_options(parse_url(self.url))[0]

    async def another(self) -> Backend:
        """One more opened backend on the same rows, as another process would have it. Closed with the store."""
        other = connect(self.url)
        await other.open()
        self._others.append(other)
        return other

    def execute(self, statement: str, **values: Any) -> list[Any]:
        """Run raw SQL past the backend, and commit; return its rows. What a human or another program would do."""
        if self._engine is None:
            self._engine = sync_engine(self.url)
        with self._engine.begin() as connection:
            result = connection.execute(text(statement), values)
            return list(result) if result.returns_rows else []

    async def close(self) -> None:
        for other in self._others:
            await other.close()
        await self.backend.close()
        if self._engine is not None:
            self._engine.dispose()


@contextlib.asynccontextmanager
async def _opened(name: str, url: str) -> AsyncIterator[Store]:
    store = Store(name, url, connect(url))
    try:
        await store.backend.open()
        yield store
    finally:
        await store.close()


def memory(folder: Path) -> AbstractAsyncContextManager[Store]:
    return _opened("memory", "memory://")


class _OneProcess(Store):
    """What a second process would have is here the same object, since nothing leaves this one."""

    async def another(self) -> Backend:
        return self.backend


@contextlib.asynccontextmanager
async def durable_fake(folder: Path) -> AsyncIterator[Store]:
    yield _OneProcess("durable_fake", DURABLE_FAKE, connect(DURABLE_FAKE))


SCHEMA = "?schema=jobs"
PREFIX = "?table_prefix=jobs_"
"""The options of a URL whose tables have other names than those of the models."""


@contextlib.asynccontextmanager
async def sqlite(folder: Path, options: str = "") -> AsyncIterator[Store]:
    path = folder / "tasks.db"
    path.write_bytes(await _empty_sqlite(folder, options))
    async with _opened("sqlite", f"sqlite:///{path}{options}") as store:
        yield store


_empty: dict[str, bytes] = {}


async def _empty_sqlite(folder: Path, options: str) -> bytes:
    """The bytes of an empty migrated database: to make one afresh takes ten times as long."""
    if options not in _empty:
        async with _opened("sqlite", f"sqlite:///{folder / 'empty.db'}{options}"):
            pass
        _empty[options] = (folder / "empty.db").read_bytes()
    return _empty[options]


def sqlite_prefix(folder: Path) -> AbstractAsyncContextManager[Store]:
    return sqlite(folder, PREFIX)


_free: dict[str, list[str]] = {}  # names of empty migrated databases, by kind of server and names of tables
_made: dict[str, int] = {}


@contextlib.asynccontextmanager
async def _on_server(name: str, start: Callable[..., Server], options: str = "") -> AsyncIterator[Store]:
    server = start(durable=False)
    free = _free.setdefault(name + options, [])
    if free:
        database = free.pop()
    else:
        _made[name] = _made.get(name, 0) + 1
        database = f"contract_{_made[name]}"
        server.create(database)
    async with _opened(name, server.url(database) + options) as store:
        yield store
    # Emptied and used again: that takes a tenth of the time. Where the store could not be closed, a new one is made.
    emptied = "; ".join(f"DELETE FROM {table}" for table in OUR_TABLES)
    names = names_in(make_url(server.url(database) + options))
    server.execute_again(emptied if names is None else names(emptied), database)
    free.append(database)


def postgresql(folder: Path) -> AbstractAsyncContextManager[Store]:
    return _on_server("postgresql", postgresql_server)


def postgresql_jit(folder: Path) -> AbstractAsyncContextManager[Store]:
    return _on_server("postgresql_jit", postgresql_jit_server)


def postgresql_schema(folder: Path) -> AbstractAsyncContextManager[Store]:
    return _on_server("postgresql", postgresql_server, SCHEMA)


def mysql(folder: Path) -> AbstractAsyncContextManager[Store]:
    return _on_server("mysql", mariadb)


def mysql_prefix(folder: Path) -> AbstractAsyncContextManager[Store]:
    return _on_server("mysql", mariadb, PREFIX)


@contextlib.asynccontextmanager
async def redis(folder: Path) -> AsyncIterator[Store]:
    server = valkey(durable=False)
    # A namespace of its own for each store: what one leaves behind when its test fails is not in the next one.
    number = _made["redis"] = _made.get("redis", 0) + 1
    async with _opened("redis", server.url(f"contract.{number}")) as store:
        yield store
    server.execute("FLUSHDB")


BACKENDS["small"] = "tests.support.small_store.backend:SmallStore"


@contextlib.asynccontextmanager
async def small(folder: Path) -> AsyncIterator[Store]:
    async with _opened("small", f"small://{folder}") as store:
        yield store


@dataclass(frozen=True)
class Kind:
    """A kind of store for the tests: how a fresh one is opened, and what is true of it."""

    open: Callable[[Path], AbstractAsyncContextManager[Store]]
    shared: bool = False
    """Whether several processes share it, and its rows outlive them."""
    processes: bool = False
    """Whether other processes of this machine reach it."""
    sql: bool = False
    schedules: bool = False
    direct: bool = False
    """Whether it never waits."""
    same_as: str = ""
    """The name of the kind for which the marks and promises of this one are written."""

    def __call__(self, folder: Path) -> AbstractAsyncContextManager[Store]:
        return self.open(folder)


# A new backend is one row here.
STORES = {
    "memory": Kind(memory, direct=True),
    "durable_fake": Kind(durable_fake, schedules=True, direct=True),
    "sqlite": Kind(sqlite, shared=True, processes=True, sql=True, schedules=True),
    "postgresql": Kind(postgresql, shared=True, processes=True, sql=True, schedules=True),
    "postgresql_jit": Kind(postgresql_jit, shared=True, processes=True, sql=True, schedules=True, same_as="postgresql"),
    "mysql": Kind(mysql, shared=True, processes=True, sql=True, schedules=True),
    **{
        each.__name__: Kind(each, shared=True, processes=True, sql=True, schedules=True, same_as=name)
        for name, each in (("sqlite", sqlite_prefix), ("postgresql", postgresql_schema), ("mysql", mysql_prefix))
    },
    "redis": Kind(redis, shared=True, processes=True, schedules=True),
    "small": Kind(small, shared=True, schedules=True),
}
