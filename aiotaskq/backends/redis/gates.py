"""What is read of gates in Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aiotaskq.backends.gates import GateReads
from aiotaskq.backends.redis.connection import RedisConnections
from aiotaskq.backends.redis.gate_texts import read_gate, sized
from aiotaskq.core.gate import GateState

READ = 1_000  # gates in one answer: the server runs no other command meanwhile
QUEUES = 100  # of which the tasks are read that wait at a gate: an answer for people, not for a rule
LATER = 10_000  # tasks read of those that were not due


class RedisGateReads(GateReads):
    """The gates of one namespace."""

    def __init__(self, redis: RedisConnections) -> None:
        self._redis = redis

    async def due(self, now: int, limit: int) -> tuple[list[str], int | None]:
        key = f"{self._redis.root}gates:due"
        first = await self._redis.command("ZRANGE", key, 0, 0, "WITHSCORES")
        next_at = int(float(first[1])) if first else None
        if next_at is None or next_at > now or not limit:
            return [], next_at
        due = await self._redis.command("ZRANGEBYSCORE", key, "-inf", now, "LIMIT", 0, limit)
        return [name.decode() for name in due], next_at

    async def known(self) -> dict[str, None]:
        names = await self._redis.command("HKEYS", f"{self._redis.root}gates")
        return dict.fromkeys(name.decode() for name in names)

    async def of_queue(self, queue: str, held: bool) -> list[str]:
        keys = list(await self.known())
        if held:
            return keys
        found: list[str] = []
        for start in range(0, len(keys), READ):
            part = keys[start : start + READ]
            lines = [f"{self._redis.root}wait:{sized(queue)}:{key}" for key in part]
            there = await asyncio.gather(*(self._redis.command("EXISTS", line) for line in lines))
            found += [key for key, exists in zip(part, there, strict=True) if exists]
        return found

    async def find(self, keys: Sequence[str] | None = None, limit: int = 1_000, *, prefix: str = "") -> list[GateState]:
        wanted = sorted(key for key in await self.known() if key.startswith(prefix)) if keys is None else keys
        found: list[GateState] = []
        for start in range(0, len(wanted), READ):
            part = wanted[start : start + READ]
            texts = await self._redis.command("HMGET", f"{self._redis.root}gates", *part)
            for key, text in zip(part, texts, strict=True):
                if text is not None:
                    gate, _, held, waiting = read_gate(key, text)
                    assert gate is not None
                    found.append(GateState(gate=gate, held=held, waiting=waiting))
            if len(found) >= limit:
                break
        return found[:limit]

    async def tasks(self, key: str, limit: int) -> tuple[list[str], list[str]]:
        root, slots = self._redis.root, sized(key)
        words = ("ZRANGE", f"{root}slots", f"[{slots}:", f"({slots};", "BYLEX", "LIMIT", 0, limit)
        held = [member[len(slots.encode()) + 1 :] for member in await self._redis.command(*words)]
        waiting: list[bytes] = []
        for queue in await self._redis.command("ZRANGE", f"{root}lines:{key}", 0, QUEUES - 1):
            line = b"%bwait:%d:%b:%b" % (root.encode(), len(queue), queue, key.encode())
            waiting += await self._redis.command("ZRANGE", line, 0, limit - 1)
        for member in await self._redis.command("ZRANGE", f"{root}later:{key}", 0, LATER - 1):
            length, _, rest = member.partition(b":")
            waiting.append(rest[int(length) :])
        return [each.decode() for each in held], [each[48:].decode() for each in sorted(waiting)[:limit]]
