"""Public values: keys with a time to live. Those of a durable store are side rows, as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from aiotaskq.backends.side_rows import Range, SideRow, SideRows
from aiotaskq.log import log, printable

KIND = "value"
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.decode
_DAMAGED = (msgspec.DecodeError, ValueError, TypeError, RecursionError)


class Values:
    """A store of public values. ``expires_at`` is in microseconds, None for never; at that instant a value is gone."""

    def __init__(self, rows: SideRows) -> None:
        self._rows = rows

    async def put(self, items: Sequence[tuple[str, Any, int | None]]) -> None:
        """Store values, each as key, value and expires_at; each replaces the value of its key."""
        await self._rows.put(KIND, [SideRow(key, _encode(value).decode(), until) for key, value, until in items])

    async def get(self, keys: Sequence[str], now: int) -> list[tuple[Any] | None]:
        """Read values, each as a 1-tuple, or None where it is missing or expired."""
        found = await self._rows.get(KIND, keys, now)
        return [None if text is None else _read(key, text) for key, text in zip(keys, found, strict=True)]

    async def expires_at(self, key: str, now: int) -> int | None:
        """Return when a live value expires; None for never, and where there is none."""
        # Of the names that begin with a key, the key is the first one.
        found = await self._rows.read(Range(KIND, now, 1, prefix=key, texts=False))
        return found[0].until if found and found[0].name == key else None

    async def delete(self, keys: Sequence[str], now: int) -> list[bool]:
        """Delete values; return for each whether there was a live one."""
        return await self._rows.delete(KIND, keys, now)

    async def keys(self, now: int) -> list[str]:
        """Return the live keys, sorted."""
        return [row.name for row in await self._rows.read(Range(KIND, now, texts=False))]

    async def page(
        self, now: int, limit: int, *, prefix: str = "", after: str | None = None
    ) -> list[tuple[str, int | None]]:
        """Return up to ``limit`` live keys that begin with ``prefix``, in their order, behind ``after``.

        Each with when its value expires, None for never.
        """
        rows = await self._rows.read(Range(KIND, now, limit, prefix=prefix, after=after or "", texts=False))
        return [(row.name, row.until) for row in rows]

    async def count(self, now: int) -> int:
        """Count the live keys."""
        return await self._rows.count(KIND, now)

    async def expire(self, now: int, limit: int) -> int:
        """Remove up to ``limit`` expired values; return how many. Other coroutines run in between."""
        return await self._rows.expire(KIND, now, limit)

    async def clear(self) -> None:
        """Remove every public value."""
        await self._rows.clear(KIND)


def _read(key: str, text: str) -> tuple[Any] | None:
    """Return a value in a 1-tuple, or None if it cannot be read, which is logged."""
    try:
        return (_decode(text),)
    except _DAMAGED:
        log.warning("public value {} is not JSON: it is kept and cannot be read", printable(key))
        return None
