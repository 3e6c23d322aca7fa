"""Side rows in Redis: of each kind and owner a hash of the texts and a sorted set of the names.

Redis's own expiry is not used: on every store the ``now`` of the call decides which rows exist.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aiotaskq.backends.redis.connection import RedisConnections
from aiotaskq.backends.redis.reads import many
from aiotaskq.backends.redis.rows import number, to_text
from aiotaskq.backends.redis.transaction import RedisTransaction
from aiotaskq.backends.side_rows import OwnedRows, Range, SideRow, SideRows

READ = 500  # rows in one answer of a script: the server runs no other command meanwhile


class RedisSideRows(SideRows):
    """The keys ``side:…``, ``names:…``, ``owners:…`` and ``until:…``."""

    def __init__(self, redis: RedisConnections) -> None:
        self._redis = redis

    async def get(self, kind: str, names: Sequence[str], now: int) -> list[str | None]:
        parts = [names[start : start + READ] for start in range(0, len(names), READ)]
        found = [row for part in parts for row in await self._rows(kind, part, now)]
        return [None if row is None else row.text for row in found]

    async def _rows(
        self, kind: str, names: Sequence[str], now: int, owner: str = "", texts: bool = True
    ) -> list[SideRow | None]:
        """Read rows by name, in one step; None where there is none at ``now``."""
        reads = [("HMGET", f"side:{kind}:{owner}", *names)] if texts else []
        reads += [] if owner else [("ZMSCORE", f"until:{kind}", *names)]
        answers: list[Sequence[bytes | None]] = await many(self._redis, reads) if names else [()] * len(reads)
        stored = answers[0] if texts else [b""] * len(names)
        until = map(number, [None] * len(names) if owner else answers[-1])
        return [
            None if text is None or (at is not None and at <= now) else SideRow(name, to_text(text), at, owner)
            for name, text, at in zip(names, stored, until, strict=True)
        ]

    async def read(self, wanted: Range) -> list[SideRow]:
        kind, now, limit, prefix, after, before, newest, texts, owner = wanted
        low, high = bounds(prefix, after, before)
        found: list[SideRow] = []
        while limit is None or len(found) < limit:
            most = READ if limit is None else min(READ, limit - len(found))
            words = ("ZREVRANGEBYLEX", high, low) if newest else ("ZRANGEBYLEX", low, high)
            key = f"{self._redis.root}names:{kind}:{owner}"
            page = await self._redis.command(words[0], key, *words[1:], "LIMIT", 0, most)
            rows = await self._rows(kind, list(map(to_text, page)), now, owner, texts)
            found += [row for row in rows if row is not None]
            if len(page) < most:
                break
            last = f"({to_text(page[-1])}"
            low, high = (low, last) if newest else (last, high)
        return found

    async def count(self, kind: str, now: int) -> int:
        every = self._redis.command("HLEN", f"{self._redis.root}side:{kind}:")
        late = self._redis.command("ZCOUNT", f"{self._redis.root}until:{kind}", "-inf", now)
        counts = await asyncio.gather(every, late)
        return int(counts[0] - counts[1])

    async def expire(self, kind: str, now: int, limit: int) -> int:
        return int(await self._redis.run("side_expire", kind, now, limit))


class RedisOwnedRows(OwnedRows):
    """The same rows in a transaction; it does not read what it has written.

    A row that was read and is written is compared at the commit.
    """

    def __init__(self, tx: RedisTransaction) -> None:
        self._tx = tx
        self._read: dict[str, dict[str, bytes]] = {}  # texts by place and name

    def last(self, kind: str, owners: Sequence[str]) -> dict[str, str]:
        found = self._tx.read("last", [f"{kind}:{owner}" for owner in owners])
        return {owner: name for owner in owners if (name := found[f"{kind}:{owner}"]) is not None}

    def owners(self, kind: str, limit: int, *, prefix: str = "", after: str = "") -> list[str]:
        words = ("ZRANGEBYLEX", f"owners:{kind}", *bounds(prefix, after), "LIMIT", "0", str(limit))
        return list(map(to_text, self._tx.answers([words])[0]))

    def of(self, kind: str, owners: Sequence[str], *, texts: bool = True) -> list[SideRow]:
        if texts:
            lists = self._tx.answers([("HGETALL", f"side:{kind}:{owner}") for owner in owners])
            found = [dict(zip(map(to_text, words[::2]), words[1::2], strict=True)) for words in lists]
            self._read |= {f"{kind}:{owner}": rows for owner, rows in zip(owners, found, strict=True)}
        else:
            lists = self._tx.answers([("ZRANGE", f"names:{kind}:{owner}", "0", "-1") for owner in owners])
            found = [dict.fromkeys(map(to_text, names), b"") for names in lists]
        return [
            SideRow(name, to_text(text), None, owner)
            for owner, rows in zip(owners, found, strict=True)
            for name, text in sorted(rows.items())
        ]

    def lock(self, kind: str, names: Sequence[str], owner: str = "") -> dict[str, str]:
        found = self._tx.read(f"side:{kind}:{owner}", names)
        return {name: to_text(text) for name, text in found.items() if text is not None}

    def add(self, kind: str, rows: Sequence[SideRow]) -> None:
        self._put("add", kind, rows)

    def put(self, kind: str, rows: Sequence[SideRow]) -> None:
        self._put("put", kind, rows)

    def _put(self, how: str, kind: str, rows: Sequence[SideRow]) -> None:
        for row in rows:
            until = "" if row.until is None else str(row.until)
            self._write(how, f"{kind}:{row.owner}", row.name, row.text, until)

    def delete(self, kind: str, owner: str, names: Sequence[str]) -> None:
        for name in names:
            self._write("remove", f"{kind}:{owner}", name)

    def _write(self, how: str, place: str, name: str, text: str = "", until: str = "") -> None:
        self._tx.side_words += (how, place, name, text, until)
        if how != "add" and (known := self._read.get(place, {}).get(name)) is not None:
            self._tx.compare(f"side:{place}", name, known)

    def delete_of(self, kind: str, owners: Sequence[str]) -> None:
        if owners:
            self._tx.commands.append(["ZREM", f"owners:{kind}", list(owners)])
        keys = [f"{key}:{kind}:{owner}" for owner in owners for key in ("side", "names")]
        self._tx.commands += (["UNLINK", key, []] for key in [*keys, *([f"until:{kind}"] if "" in owners else [])])


def bounds(prefix: str, after: str, before: str | None = None) -> tuple[str, str]:
    """Return the bounds of ZRANGEBYLEX for names that begin so, and lie behind one and before another one."""
    highs = [each for each in (before, f"{prefix}\U0010ffff" if prefix else None) if each is not None]
    return f"[{prefix}" if prefix > after else f"({after}", f"({min(highs)}" if highs else "+"
