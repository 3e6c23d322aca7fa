"""The audit log in Redis: a sorted set of entries as JSON, by their instants."""

from __future__ import annotations

import msgspec

from aiotaskq.backends.audit import AuditLog
from aiotaskq.backends.redis import scripts
from aiotaskq.backends.redis.connection import RedisConnections
from aiotaskq.core.audit import AuditEntry

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(AuditEntry).decode


class RedisAuditLog(AuditLog):
    """The key ``audit``."""

    def __init__(self, redis: RedisConnections) -> None:
        self._redis = redis

    async def add(self, entry: AuditEntry, before: int, most: int) -> None:
        await self._redis.run(scripts.AUDIT_ADD, entry.at, _encode(entry), before, most)

    async def read(self, limit: int) -> list[AuditEntry]:
        found = await self._redis.command("ZREVRANGE", f"{self._redis.root}audit", 0, limit - 1)
        return list(map(_decode, found))
