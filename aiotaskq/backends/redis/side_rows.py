"""Side rows in Redis: of each kind and owner a hash of the texts and a sorted set of the names.

Redis's own expiry is not used: on every store the ``now`` of the call decides which rows exist.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from aiotaskq.backends.redis import scripts
from aiotaskq.backends.redis.connection import RedisConnections
from aiotaskq.backends.redis.reads import Names
from aiotaskq.backends.redis.transaction import RedisTransaction
from aiotaskq.backends.side_rows import OwnedRows, SideRow, SideRows

READ = 500  # rows in one answer of a script: the server runs no other command meanwhile


class RedisSideRows(SideRows):
    """The keys ``side:…``, ``names:…``, ``owners:…`` and ``until:…``."""

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
        low, high = bounds(prefix, after, before)
        found: list[SideRow] = []
        while limit is None or len(found) < limit:
            most = READ if limit is None else min(READ, limit - len(found))
            words = (owner, now, high if newest else low, low if newest else high, most, int(newest), int(texts))
            looked, last, *rows = await self._redis.run(scripts.SIDE_RANGE, kind, *words)
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
        root = self._redis.root
        await self._redis.command("UNLINK", f"{root}side:{kind}:", f"{root}names:{kind}:", f"{root}until:{kind}")


class RedisOwnedRows(OwnedRows):
    """The same rows in a transaction; it does not read what it has written.

    A row that was read and is written is compared at the commit.
    """

    def __init__(self, tx: RedisTransaction) -> None:
        self._tx = tx

    def last(self, kind: str, owners: Sequence[str]) -> dict[str, str]:
        found = self._tx.read("last", [f"{kind}:{owner}" for owner in owners])
        return {owner: name for owner in owners if (name := found[f"{kind}:{owner}"]) is not None}

    def names(self, kind: str, owner: str, limit: int, after: str = "") -> list[str]:
        return self._names(Names(f"names:{kind}:{owner}", *bounds("", after), limit))

    def owners(self, kind: str, limit: int, *, prefix: str = "", after: str = "") -> list[str]:
        return self._names(Names(f"owners:{kind}", *bounds(prefix, after), limit))

    def _names(self, wanted: Names) -> list[str]:
        found: list[str] = self._tx.read("names", [wanted])[wanted]
        return found

    def page(self, kind: str, after: tuple[str, str], limit: int) -> list[SideRow]:
        owner, name = after
        wanted = {owner: Names(f"names:{kind}:{owner}", *bounds("", name), limit)} if owner else {}
        for other in self.owners(kind, limit, after=owner):
            wanted[other] = Names(f"names:{kind}:{other}", "-", "+", limit)
        return self._named(wanted)[:limit]

    def _named(self, wanted: Mapping[str, Names]) -> list[SideRow]:
        found = self._tx.read("names", wanted.values())
        return [SideRow(name, "", None, owner) for owner, each in wanted.items() for name in found[each]]

    def of(self, kind: str, owners: Sequence[str], *, texts: bool = True) -> list[SideRow]:
        if not texts:
            return self._named({owner: Names(f"names:{kind}:{owner}", "-", "+", -1) for owner in owners})
        rows = self._tx.read("side", [f"{kind}:{owner}" for owner in owners])
        return [
            SideRow(name, _text(text), None, owner)
            for owner in owners
            for name, text in sorted(rows[f"{kind}:{owner}"].items())
        ]

    def lock(self, kind: str, names: Sequence[str]) -> dict[str, str]:
        found = self._tx.texts(f"side:{kind}:", names)
        return {name: _text(text) for name, text in found.items() if text is not None}

    def get(self, kind: str, owner: str, name: str) -> str | None:
        text = self._tx.texts(f"side:{kind}:{owner}", [name])[name]
        return None if text is None else _text(text)

    def add(self, kind: str, rows: Sequence[SideRow]) -> None:
        self._put("add", kind, rows)

    def put(self, kind: str, rows: Sequence[SideRow]) -> None:
        self._put("put", kind, rows)

    def _put(self, how: str, kind: str, rows: Sequence[SideRow]) -> None:
        for row in rows:
            until = "" if row.until is None else str(row.until)
            self._tx.write_side(how, f"{kind}:{row.owner}", row.name, row.text, until)

    def delete(self, kind: str, owner: str, names: Sequence[str]) -> None:
        for name in names:
            self._tx.write_side("remove", f"{kind}:{owner}", name)

    def delete_of(self, kind: str, owners: Sequence[str]) -> None:
        if owners:
            self._tx.commands.append(["ZREM", f"owners:{kind}", list(owners)])
        self._tx.unlinked += [f"{key}:{kind}:{owner}" for owner in owners for key in ("side", "names")]


def bounds(prefix: str, after: str, before: str | None = None) -> tuple[str, str]:
    """Return the bounds of ZRANGEBYLEX for names that begin so, and lie behind one and before another one."""
    highs = [each for each in (before, f"{prefix}\U0010ffff" if prefix else None) if each is not None]
    return f"[{prefix}" if prefix > after else f"({after}", f"({min(highs)}" if highs else "+"


def _text(data: bytes) -> str:
    return data.decode(errors="backslashreplace")  # another program may have written it


def _words(rows: Sequence[SideRow]) -> Iterator[str | int]:
    for row in rows:
        yield from (row.name, row.text, "" if row.until is None else row.until)
