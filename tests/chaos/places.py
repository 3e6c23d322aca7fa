"""The durable stores that the scenarios run on: one entry each, an empty store per scenario."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

from aiotaskq.backends.url import has_tables
from tests.support import servers
from tests.support.servers import Server


@dataclass
class Place:
    """An empty store. ``server`` is None where there is no server to restart."""

    name: str
    url: str
    schedules: str | None = None
    """Where schedules live, if not in the same store."""
    server: Server | None = None
    database: str = ""

    def connections(self) -> int:
        """How many connections to the store there are now."""
        assert self.server is not None
        ((answer,),) = self.server.execute(CONNECTIONS[self.server.name].format(self.database))
        # Redis lists them, one a line, and the one that asks is among them.
        return len(answer.splitlines()) - 1 if isinstance(answer, bytes | str) else int(answer)

    def locked(self) -> bool:
        """Whether a process keeps the only lock for writing, which SQLite has, for longer than a moment."""
        if self.name != "sqlite":
            return False
        with contextlib.closing(sqlite3.connect(self.url.removeprefix("sqlite:///"), timeout=0.3)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return True
            return False

    @property
    def sql(self) -> bool:
        """Whether the store is SQL: it can fill itself, explain its plans, and take the caller's transaction."""
        return has_tables(self.url)

    @property
    def host(self) -> tuple[str, int]:
        assert self.server is not None
        return "127.0.0.1", self.server.port

    def through(self, port: int) -> str:
        """The URL with another port: that of a proxy."""
        assert self.server is not None
        return self.url.replace(f":{self.server.port}", f":{port}", 1)


@contextlib.asynccontextmanager
async def sqlite(folder: Path) -> AsyncIterator[Place]:
    folder.mkdir(parents=True, exist_ok=True)
    yield Place("sqlite", f"sqlite:///{folder / 'tasks.db'}")


CONNECTIONS = {
    "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}'",
    "valkey": "CLIENT LIST",
    "mariadb": "SELECT count(*) FROM information_schema.processlist WHERE db = '{}'",
}


_numbers = itertools.count()


def on_server(
    name: str, start: Callable[[], Server], *, schedules: bool = True
) -> Callable[[Path], AbstractAsyncContextManager[Place]]:
    @contextlib.asynccontextmanager
    async def made(folder: Path) -> AsyncIterator[Place]:
        folder.mkdir(parents=True, exist_ok=True)
        server = start()
        database = f"chaos_{next(_numbers)}"
        elsewhere = None if schedules else f"sqlite:///{folder / 'schedules.db'}"
        try:
            yield Place(name, server.create(database), elsewhere, server, database)
        finally:
            server.start()
            server.drop(database)

    return made


PLACES: dict[str, Callable[[Path], AbstractAsyncContextManager[Place]]] = {
    "sqlite": sqlite,
    "postgresql": on_server("postgresql", servers.postgresql),
    "postgresql_jit": on_server("postgresql", servers.postgresql_jit),
    "mysql": on_server("mysql", servers.mariadb),
    "redis": on_server("redis", servers.valkey),
    "redis_and_sqlite": on_server("redis", servers.valkey, schedules=False),
}
"""By name: a folder of its own gives an empty store. Raises Unavailable where the server cannot be started.

The last one has the tasks in Redis and the schedules in SQLite."""

SQL = ("sqlite", "postgresql", "postgresql_jit", "mysql")
SERVERS = ("postgresql", "postgresql_jit", "mysql", "redis")


@contextlib.asynccontextmanager
async def opened(name: str, folder: Path) -> AsyncIterator[Place]:
    """An empty store; a server that cannot be started is a skip here, and in CI a failure of the whole run."""
    async with contextlib.AsyncExitStack() as stack:
        place = await stack.enter_async_context(PLACES[name](folder))
        yield place
