"""Side rows in Redis: of each kind a hash of the texts, and sorted sets of the names and of those that expire.

Redis's own expiry is not used: on every store the ``now`` of the call decides which rows exist.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from aiotaskq.backends.redis import scripts
from aiotaskq.backends.redis.connection import RedisConnections
from aiotaskq.backends.side_rows import SideRow, SideRows

READ = 500  # rows in one answer of a script: the server runs no other command meanwhile


class RedisSideRows(SideRows):
    """The keys ``side:…``."""

    def __init__(self, redis: RedisConnections) -> None:
        self._redis = redis

    async def put(self, kind: str, rows: Sequence[SideRow]) -> None:
        if rows:
            await self._redis.run(scripts.SIDE_SWAP, kind, 0, *_words(rows), repeatable=True)

    async def get(self, kind: str, names: Sequence[str], now: int) -> list[str | None]:
        found = await self._redis.run(scripts.SIDE_GET, kind, now, *names)
        return [None if text is None else _text(text) for text in found]

    async def range(
        self,
        kind: str,
        now: int,
        limit: int | None = None,
        *,
        prefix: str = "",
        after: str = "",
        before: str | None = None,
        newest: bool = False,
        texts: bool = True,
        owner: str = "",
    ) -> list[SideRow]:
        low = f"[{prefix}" if prefix > after else f"({after}"
        highs = [each for each in (before, f"{prefix}\U0010ffff" if prefix else None) if each is not None]
        high = f"({min(highs)}" if highs else "+"
        place = f"{kind}:{owner}" if owner else kind
        found: list[SideRow] = []
        while limit is None or len(found) < limit:
            most = READ if limit is None else min(READ, limit - len(found))
            words = (now, high if newest else low, low if newest else high, most, int(newest), int(texts))
            looked, last, *rows = await self._redis.run(scripts.SIDE_RANGE, place, *words)
            found += [
                SideRow(_text(name), _text(text), int(until) if until else None, owner)
                for name, text, until in zip(rows[::3], rows[1::3], rows[2::3], strict=True)
            ]
            if looked < most:
                break
            if newest:
                high = f"({last.decode()}"
            else:
                low = f"({last.decode()}"
        return found

    async def count(self, kind: str, now: int) -> int:
        return int(await self._redis.run(scripts.SIDE_COUNT, kind, now))

    async def delete(self, kind: str, names: Sequence[str], now: int) -> list[bool]:
        return [existed == 1 for existed in await self._redis.run(scripts.SIDE_DELETE, kind, now, *names)]

    async def swap(self, kind: str, gone: Sequence[str], rows: Sequence[SideRow]) -> bool:
        return bool(await self._redis.run(scripts.SIDE_SWAP, kind, len(gone), *gone, *_words(rows)))

    async def expire(self, kind: str, now: int, limit: int) -> int:
        return int(await self._redis.run(scripts.SIDE_TRIM, kind, now, limit))

    async def trim(self, kind: str, most: int) -> None:
        await self._redis.run(scripts.SIDE_TRIM, kind, "", most)

    async def clear(self, kind: str) -> None:
        key = f"{self._redis.root}side:{kind}"
        await self._redis.command("UNLINK", key, f"{key}:names", f"{key}:until")


def _text(data: bytes) -> str:
    return data.decode(errors="backslashreplace")  # another program may have written it


def _words(rows: Sequence[SideRow]) -> Iterator[str | int]:
    for row in rows:
        yield from (row.name, row.text, "" if row.until is None else row.until)
