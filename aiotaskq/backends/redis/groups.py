"""What is read of groups in Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aiotaskq.backends.groups import GroupReads
from aiotaskq.backends.redis.connection import RedisConnections
from aiotaskq.backends.redis.heads import waits_for_parents
from aiotaskq.backends.redis.reads import READ, read_heads, stamp_of, to_group, to_members
from aiotaskq.core.groups import GroupState, Member


class RedisGroupReads(GroupReads):
    """The groups of one namespace."""

    def __init__(self, redis: RedisConnections) -> None:
        self._redis = redis

    async def _get(self, ids: Sequence[str]) -> list[GroupState | None]:
        found: list[GroupState | None] = []
        for start in range(0, len(ids), READ):
            part = ids[start : start + READ]
            texts = await self._redis.command("HMGET", f"{self._redis.root}groups", *part)
            callbacks = await self._redis.command("HMGET", f"{self._redis.root}groups:then", *part)
            found += map(to_group, part, texts, callbacks)
        return found

    async def find(self, limit: int, *, after: str | None = None, ended: bool | None = None) -> list[GroupState]:
        which = ["live", "ended"] if ended is None else ["ended" if ended else "live"]
        (last,) = (None,) if after is None else await self._get([after])
        if last is None and after is not None:
            return []
        found: list[GroupState] = []
        while len(found) < limit:
            wanted = min(limit - len(found), READ)
            words = ("+" if last is None else f"({stamp_of(last)}", "-", "LIMIT", 0, wanted)
            keys = [f"{self._redis.root}groups:{name}" for name in which]
            parts = await asyncio.gather(*(self._redis.command("ZREVRANGEBYLEX", key, *words) for key in keys))
            stamps = sorted((stamp for part in parts for stamp in part), reverse=True)[:wanted]
            ids = [stamp[20:].decode() for stamp in stamps]
            page = [group for group in await self._get(ids) if group is not None]
            found += page
            if len(ids) < wanted or not page:
                break
            last = page[-1]
        return found

    async def members(self, group_id: str, limit: int, *, start: int = 0) -> list[Member]:
        key = f"{self._redis.root}members:{group_id}"
        return to_members(group_id, await self._redis.command("LRANGE", key, start, start + limit - 1), start)

    async def cancelling(self, limit: int) -> list[str]:
        names = await self._redis.command("ZRANGE", f"{self._redis.root}groups:cancelling", 0, limit - 1)
        return [name.decode() for name in names]

    async def over(self, before: int, limit: int) -> list[str]:
        words = ("-inf", f"({before}", "LIMIT", 0, limit)
        names = await self._redis.command("ZRANGEBYSCORE", f"{self._redis.root}groups:done", *words)
        return [name.decode() for name in names]

    async def children(self, limit: int, after: str) -> tuple[list[str], str]:
        words = (f"({after}" if after else "-", "+", "LIMIT", 0, limit)
        stamps = await self._redis.command("ZRANGEBYLEX", f"{self._redis.root}is:live", *words)
        ids = [stamp[20:] for stamp in stamps]
        found = [
            task_id.decode()
            for task_id, head in zip(ids, await read_heads(self._redis, ids), strict=True)
            if head is not None and head[1] == b"pending" and waits_for_parents(head)
        ]
        return found, stamps[-1].decode() if len(stamps) == limit else ""
