"""The audit log of a store: what operators have changed; ``core.audit`` has the bounds."""

from __future__ import annotations

import msgspec

from aiotaskq.backends.side_rows import Range, SideRow, SideRows
from aiotaskq.core.audit import MAX_ENTRIES, AuditEntry, kept_until, unreadable_entry

KIND = "audit"
EXPIRED = 1_000  # entries deleted at a time: far more than are added
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(AuditEntry).decode


class AuditLog:
    """The entries of one store, as side rows in the order of their instants."""

    def __init__(self, rows: SideRows) -> None:
        self._rows = rows

    async def add(self, entry: AuditEntry) -> None:
        """Add an entry; delete those that are too old by then, and all but the newest ``MAX_ENTRIES``."""
        row = SideRow(f"{entry.at:020d} {entry.id}", _encode(entry).decode(), kept_until(entry.at))
        await self._rows.put(KIND, [row])
        await self._rows.expire(KIND, entry.at, EXPIRED)
        if (more := await self._rows.count(KIND, 0) - MAX_ENTRIES) > 0:
            oldest = await self._rows.read(Range(KIND, 0, more, texts=False))
            await self._rows.delete(KIND, [each.name for each in oldest], 0)

    async def read(self, limit: int) -> list[AuditEntry]:
        """Read the newest entries, the newest first; of one instant in the order of their ids, the last first."""
        return [_entry_of(row) for row in await self._rows.read(Range(KIND, 0, limit, newest=True))]


def _entry_of(row: SideRow) -> AuditEntry:
    """Return the entry of a row; another one in its place where another program has damaged it."""
    try:
        return _decode(row.text)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        at = row.name.partition(" ")[0]
        return unreadable_entry(row.name, int(at) if at.isascii() and at.isdecimal() else 0, str(error))
