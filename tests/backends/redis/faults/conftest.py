"""A Redis server for each test, which the test may stop, and a proxy in front of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.proxy import Proxy
from tests.support.servers import Valkey


@pytest.fixture
def server() -> Iterator[Valkey]:
    """A server of the test's own, which it may hurt; every write is on disk before it is answered."""
    made = Valkey(durable=True)
    yield made
    made.kill()


@pytest.fixture
async def proxy(server: Valkey) -> AsyncIterator[Proxy]:
    async with Proxy("127.0.0.1", server.port) as made:
        yield made
