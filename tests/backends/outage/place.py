"""A database on a server that tests may stop, and the helpers of these tests."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import text

from aiotaskq.backends.sql import engines
from aiotaskq.backends.sql.backend import SqlBackend
from aiotaskq.backends.sql.migrations import upgrade
from tests.support.proxy import Proxy
from tests.support.servers import Server

_made = 0


_migrated: list[Server] = []


class Place:
    """A database of its own on a server that may be maltreated."""

    def __init__(self, server: Server) -> None:
        global _made
        _made += 1
        self.server = server
        self.database = f"outage_{_made}"
        if server not in _migrated:
            engine = engines.sync_engine(server.create("migrated"))
            with engine.begin() as connection:
                upgrade(connection)
            engine.dispose()
            _migrated.append(server)
        self.url = server.create(self.database, "migrated")

    @property
    def is_postgresql(self) -> bool:
        return self.server.name == "postgresql"

    def through(self, proxy: Proxy) -> str:
        """The URL by way of a proxy."""
        return self.url.replace(f":{self.server.port}/", f":{proxy.port}/")

    @property
    def commit(self) -> bytes:
        """The command as the driver sends it; the name of the isolation level has the same word in it."""
        return b"COMMIT;" if self.is_postgresql else b"\x03COMMIT"

    def connections(self) -> list[int]:
        """The server's ids of all client connections to this database."""
        query = (
            f"SELECT pid FROM pg_stat_activity WHERE datname = '{self.database}'"
            if self.is_postgresql
            else f"SELECT id FROM information_schema.processlist WHERE db = '{self.database}'"
        )
        return [int(row[0]) for row in self.server.execute(query)]

    def kill_connections(self) -> None:
        for number in self.connections():
            self.server.execute(f"SELECT pg_terminate_backend({number})" if self.is_postgresql else f"KILL {number}")


def only(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("place", [name], indirect=True)


async def fill_pool(backend: SqlBackend) -> None:
    """Have the pool keep as many connections as it will."""
    await asyncio.gather(*(backend.database.read(lambda c: c.execute(text("SELECT 1"))) for _ in range(20)))
