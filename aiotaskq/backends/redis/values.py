"""Public values in Redis: JSON in one hash, and a sorted set of the keys that expire.

Redis's own expiry is not used: on every store the ``now`` of the call decides which values are live.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from aiotaskq.backends.redis import scripts
from aiotaskq.backends.redis.connection import RedisConnections
from aiotaskq.backends.values import Values
from aiotaskq.log import log, printable

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.decode
_DAMAGED = (msgspec.DecodeError, ValueError, TypeError, RecursionError)


class RedisValues(Values):
    """Values in the keys ``values`` and ``until``."""

    def __init__(self, redis: RedisConnections) -> None:
        self._redis = redis

    async def put(self, items: Sequence[tuple[str, Any, int | None]]) -> None:
        words: list[str | bytes | int] = []
        for key, value, until in items:
            words += (key, _encode(value), "" if until is None else until)
        await self._redis.run(scripts.VALUES_PUT, *words)

    async def get(self, keys: Sequence[str], now: int) -> list[tuple[Any] | None]:
        found = await self._redis.run(scripts.VALUES_GET, now, *keys)
        return [_read(key, stored) for key, stored in zip(keys, found, strict=True)]

    async def delete(self, keys: Sequence[str], now: int) -> list[bool]:
        return [was_live == 1 for was_live in await self._redis.run(scripts.VALUES_DELETE, now, *keys)]

    async def keys(self, now: int) -> list[str]:
        stored, expired = await self._redis.run(scripts.VALUES_KEYS, now)
        return sorted(key.decode() for key in set(stored).difference(expired))

    async def count(self, now: int) -> int:
        return int(await self._redis.run(scripts.VALUES_COUNT, now))

    async def expire(self, now: int, limit: int) -> int:
        return int(await self._redis.run(scripts.VALUES_EXPIRE, now, limit))

    async def clear(self) -> None:
        await self._redis.run(scripts.VALUES_CLEAR)


def _read(key: str, stored: bytes | None) -> tuple[Any] | None:
    """Return a public value in a 1-tuple, or None if there is none or it cannot be read, which is logged."""
    if stored is None:
        return None
    try:
        return (_decode(stored),)
    except _DAMAGED:
        log.warning("public value {} is not JSON: it is kept and cannot be read", printable(key))
        return None
