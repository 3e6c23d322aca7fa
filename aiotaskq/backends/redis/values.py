"""Public values in Redis: JSON in one hash, and a sorted set of those that expire.

Redis's own expiry is not used: what is live is decided by the ``now`` that a verb is given, on every store alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiotaskq.backends.base import Values
from aiotaskq.backends.redis.connection import RedisLink, Script
from aiotaskq.backends.redis.rows import read_value, value_bytes

_BASE = """
local values, expiry, call = KEYS[1] .. 'values', KEYS[1] .. 'until', redis.call
local function live(key, now)
  local at = call('ZSCORE', expiry, key)
  return not at or tonumber(at) > tonumber(now)
end
"""

# ARGV: key, value, expires_at or '' of each.
_PUT = Script(
    _BASE
    + """
for i = 1, #ARGV, 3 do
  call('HSET', values, ARGV[i], ARGV[i + 1])
  if ARGV[i + 2] == '' then call('ZREM', expiry, ARGV[i]) else call('ZADD', expiry, ARGV[i + 2], ARGV[i]) end
end
"""
)

# ARGV: now, keys.
_GET = Script(
    _BASE
    + """
local answer = {}
for i = 2, #ARGV do answer[i - 1] = live(ARGV[i], ARGV[1]) and call('HGET', values, ARGV[i]) end
return answer
"""
)

# ARGV: now, keys. Answers with 1 or 0: whether it was there and live.
_DELETE = Script(
    _BASE
    + """
local answer = {}
for i = 2, #ARGV do
  local was_live = live(ARGV[i], ARGV[1])
  call('ZREM', expiry, ARGV[i])
  answer[i - 1] = call('HDEL', values, ARGV[i]) == 1 and was_live and 1 or 0
end
return answer
"""
)

# ARGV: now. Answers with all keys, and those that are expired.
_KEYS = Script(_BASE + "return {call('HKEYS', values), call('ZRANGEBYSCORE', expiry, '-inf', ARGV[1])}")
_COUNT = Script(_BASE + "return call('HLEN', values) - call('ZCOUNT', expiry, '-inf', ARGV[1])")

# ARGV: now, limit.
_EXPIRE = Script(
    _BASE
    + """
local gone = call('ZRANGEBYSCORE', expiry, '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
for _, key in ipairs(gone) do
  call('ZREM', expiry, key)
  call('HDEL', values, key)
end
return #gone
"""
)

_CLEAR = Script(_BASE + "call('UNLINK', values, expiry)")


class RedisValues(Values):
    """Values in the keys ``values`` and ``until``."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link

    async def put(self, items: Sequence[tuple[str, Any, int | None]]) -> None:
        words: list[str | bytes | int] = []
        for key, value, until in items:
            words += (key, value_bytes(value), "" if until is None else until)
        await self._link.run(_PUT, *words)

    async def get(self, keys: Sequence[str], now: int) -> list[tuple[Any] | None]:
        found = await self._link.run(_GET, now, *keys)
        return [read_value(key, stored) for key, stored in zip(keys, found, strict=True)]

    async def delete(self, keys: Sequence[str], now: int) -> list[bool]:
        return [was_live == 1 for was_live in await self._link.run(_DELETE, now, *keys)]

    async def keys(self, now: int) -> list[str]:
        every, expired = await self._link.run(_KEYS, now)
        return sorted(key.decode() for key in set(every).difference(expired))

    async def count(self, now: int) -> int:
        return int(await self._link.run(_COUNT, now))

    async def expire(self, now: int, limit: int) -> int:
        return int(await self._link.run(_EXPIRE, now, limit))

    async def clear(self) -> None:
        await self._link.run(_CLEAR)
