"""The history of a store: the sums of what workers did; ``core.history`` has the rules."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Annotated

import msgspec

from aiotaskq.backends.side_rows import Range, SideRow, SideRows
from aiotaskq.core.history import WIDTHS, Period, Roll, added_up, widened
from aiotaskq.core.ids import new_id
from aiotaskq.core.usage import Usage
from aiotaskq.log import log

KIND = "history"
_encode = msgspec.json.Encoder().encode
_Histogram = Annotated[str, msgspec.Meta(pattern=r"^(\d+:\d+( \d+:\d+)*)?$")]
_decode = msgspec.json.Decoder(list[tuple[str, str, str, int, int, int, _Histogram, _Histogram, Usage]]).decode
_columns = attrgetter("queue", "type", "kind", "n", "run_us", "wait_us", "runs", "waits", "usage")


class History:
    """The periods of one store, as side rows: one for all periods of one begin and length in one write.

    Each write adds rows of its own, and a read adds up those of one key. So no write waits for another one, and one
    that is repeated adds nothing twice.
    """

    def __init__(self, rows: SideRows) -> None:
        self._rows = rows

    async def add(self, periods: Sequence[Period]) -> None:
        """Add each to what is stored under its key. If the answer is lost, it is not known whether that was done."""
        if periods:
            await self._rows.put(KIND, _rows_of(periods))

    async def read(self, since: int, until: int, *, queue: str | None = None, type: str | None = None) -> list[Period]:
        """Read the periods that began at ``since`` or later and before ``until``, in the order of their keys.

        Both in microseconds UTC; a queue or a type that is given restricts.
        """
        found: list[Period] = []
        for seconds in WIDTHS:
            rows = await self._rows.read(Range(KIND, 0, after=_name(seconds, since), before=_name(seconds, until)))
            found += [period for row in rows for period in _periods(row) or ()]
        return added_up(p for p in found if queue in (None, p.queue) and type in (None, p.type))

    async def roll(self, roll: Roll, limit: int) -> int:
        """Add periods to longer ones in their place, or delete them, the oldest first; return how many rows that was.

        Up to ``limit`` rows. None where another process rolls the same ones.
        """
        after, before = _name(roll.seconds, 0), _name(roll.seconds, roll.before)
        rows = await self._rows.read(Range(KIND, 0, limit, after=after, before=before))
        if not rows:
            return 0
        gone = [row.name for row in rows]
        longer: list[SideRow] = []
        if (into := roll.into) is not None:
            read = [(row.text, _periods(row)) for row in rows]
            longer = _rows_of(widened(period, into) for _, periods in read for period in periods or ())
            # What cannot be read goes along, and is deleted as days are.
            place = _name(into, roll.before)
            longer += [SideRow(f"{place} {new_id()}", text) for text, periods in read if periods is None]
        return len(gone) if await self._rows.swap(KIND, gone, longer) else 0


def _name(seconds: int, at: int) -> str:
    """Return what the names of these rows begin with; it is less than each of them, and more than those before."""
    return f"{seconds:06d} {at:020d}"


def _periods(row: SideRow) -> list[Period] | None:
    """Return the periods of a row; None if it cannot be read, which is logged: it is kept for as long as days are."""
    try:
        seconds, at, _ = row.name.split(" ")
        return [Period(int(at), int(seconds), *columns) for columns in _decode(row.text)]
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        log.warning("history: the row {} cannot be read: {}", row.name, error)
        return None


def _rows_of(periods: Iterable[Period]) -> list[SideRow]:
    rows: dict[str, list[Period]] = {}
    for period in added_up(periods):
        rows.setdefault(_name(period.seconds, period.at), []).append(period)
    return [
        SideRow(f"{name} {new_id()}", _encode([_columns(period) for period in found]).decode())
        for name, found in rows.items()
    ]
