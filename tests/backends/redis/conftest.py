"""A Redis server for all tests, and a store with a prefix of its own for each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from aiotaskq.backends.redis.backend import RedisBackend
from tests.backends.redis.stores import opened
from tests.support.logs import logged
from tests.support.servers import Server, valkey

_numbers = iter(range(10**6))


@pytest.fixture(scope="module")
def server() -> Server:
    return valkey(durable=False)


@pytest.fixture
def prefix() -> str:
    return f"redis.{next(_numbers)}"


@pytest.fixture
def url(server: Server, prefix: str) -> Iterator[str]:
    yield server.url(prefix)
    server.drop(prefix)


@pytest.fixture
async def backend(url: str) -> AsyncIterator[RedisBackend]:
    async with opened(url) as made:
        yield made


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What is logged: level and message."""
    with logged("DEBUG", "{level} {message}") as said:
        yield said
