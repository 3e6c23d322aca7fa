"""Database servers for these tests alone, which may stop them, with proxies in front."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from aiotaskq.backends.sql.backend import SqlBackend
from tests.backends.outage.place import Place
from tests.support.proxy import Proxy
from tests.support.servers import Server, mariadb, postgresql

SERVERS: dict[str, Callable[[], Server]] = {"postgresql": postgresql, "mysql": mariadb}


@pytest.fixture(params=SERVERS)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    server = SERVERS[request.param]()
    made = Place(server)
    yield made
    server.start()
    server.drop(made.database)


@pytest.fixture
async def backend(place: Place) -> AsyncIterator[SqlBackend]:
    made = SqlBackend(place.url)
    await made.open()
    yield made
    await made.close()


@pytest.fixture
async def proxy(place: Place) -> AsyncIterator[Proxy]:
    async with Proxy("127.0.0.1", place.server.port) as made:
        yield made


@pytest.fixture
async def far(place: Place, proxy: Proxy) -> AsyncIterator[SqlBackend]:
    """A backend behind the proxy."""
    made = SqlBackend(place.through(proxy))
    await made.open()
    yield made
    proxy.heal()
    await made.close()
