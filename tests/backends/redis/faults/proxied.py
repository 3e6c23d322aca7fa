"""Redis stores behind a proxy."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from aiotaskq.backends.redis.backend import RedisBackend
from aiotaskq.errors import DatabaseUnavailable
from tests.support.machine import watchdog
from tests.support.proxy import Proxy


def through(proxy: Proxy, timeout: float = 10.0) -> str:
    return f"redis://127.0.0.1:{proxy.port}/0?prefix=a&socket_timeout={timeout}"


@contextlib.asynccontextmanager
async def opened(url: str) -> AsyncIterator[RedisBackend]:
    backend = RedisBackend(url)
    await backend.open()
    try:
        yield backend
    finally:
        await backend.close()


async def persist(verb: Callable[..., Awaitable[Any]], *args: Any, **options: Any) -> Any:
    """Try again until the server answers."""
    async with asyncio.timeout(watchdog()):
        while True:
            try:
                return await verb(*args, **options)
            except DatabaseUnavailable:
                await asyncio.sleep(0.02)
