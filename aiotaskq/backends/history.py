"""The history of a store: the sums of what workers did; ``core.history`` has the rules."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from operator import attrgetter

import msgspec

from aiotaskq.backends.side_rows import Range, SideRow, SideRows
from aiotaskq.core.history import DAY, HOUR, WIDTHS, Period, Roll, added_up, widened
from aiotaskq.core.ids import new_id
from aiotaskq.core.usage import Usage
from aiotaskq.log import log

KIND = "history"
_encode = msgspec.json.Encoder().encode
_HISTOGRAMS = re.compile(r"(?:[0-9]++:[0-9]++ ?+)*+")
_columns = attrgetter("queue", "type", "kind", "n", "run_us", "wait_us", "runs", "waits", "usage", "tag")


class Part(msgspec.Struct, array_like=True, gc=False):
    """What one write has added under the key of a period; the fields are those of ``Period``."""

    queue: str
    type: str
    kind: str
    n: int
    run_us: int
    wait_us: int
    runs: str
    waits: str
    usage: Usage
    tag: str = ""
    at: int = 0
    seconds: int = 0

    def period(self) -> Period:
        return Period(self.at, self.seconds, *_columns(self))


_decode = msgspec.json.Decoder(list[Part]).decode


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

    async def read(
        self, since: int, until: int, hours: int, *, queue: str | None = None, type: str | None = None, tag: str = ""
    ) -> list[Period]:
        """Read the periods that began at ``since`` or later and before ``until``, in the order of their keys.

        What is there both as hours and as days is read as hours if it began at ``hours`` or later: ``hours_from`` or a
        later begin of a day, or ``until``. All in microseconds UTC; a queue or a type that is given restricts. ``tag``
        is ``name=value``, or a name for all its values; else the sums of all tasks are meant.
        """
        found = parts(await self.rows(since, until, hours), queue, None if type is None else (type,), tag)
        return added_up([part.period() for part in found])

    async def rows(self, since: int, until: int, hours: int) -> list[SideRow]:
        """Read the rows of these periods, for ``parts``."""
        found: list[SideRow] = []
        for seconds in WIDTHS:
            first = max(since, hours) if seconds == HOUR else since
            end = min(until, hours) if seconds == DAY else until
            found += await self._rows.read(Range(KIND, 0, after=_name(seconds, first), before=_name(seconds, end)))
        return found

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
        if roll.into:
            read = [(row.text, _parts(row)) for row in rows]
            periods = [part.period() for _, found in read for part in found or ()]
            longer = _rows_of(widened(period, into) for into in roll.into for period in periods)
            # What cannot be read goes along, and is deleted as days are.
            place = _name(max(roll.into), roll.before)
            longer += [SideRow(f"{place} {new_id()}", text) for text, found in read if found is None]
        return len(gone) if await self._rows.swap(KIND, gone, longer) else 0


def _name(seconds: int, at: int) -> str:
    """Return what the names of these rows begin with; it is less than each of them, and more than those before."""
    return f"{seconds:06d} {at:020d}"


def parts(
    rows: Iterable[SideRow], queue: str | None = None, types: Collection[str] | None = None, tag: str = ""
) -> list[Part]:
    """Return what rows have, as for ``read``; one key may have several parts."""
    read = (part for row in rows for part in _parts(row) or ())
    # A name stands for all its values; without a tag, only the sums of all tasks are meant.
    found = [part for part in read if part.tag == tag or part.tag.partition("=")[0] == tag]
    if queue is not None:
        found = [part for part in found if part.queue == queue]
    return found if types is None else [part for part in found if part.type in types]


def _parts(row: SideRow) -> list[Part] | None:
    """Return what a row has; None if it cannot be read, which is logged: it is kept for as long as days are."""
    try:
        name = row.name.split(" ")
        seconds, at = int(name[0]), int(name[1])
        found = _decode(row.text)
        texts = filter(None, [part.runs for part in found] + [part.waits for part in found])
        if not _HISTOGRAMS.fullmatch(" ".join(texts)):
            raise ValueError("this is no histogram")
    except (msgspec.DecodeError, RecursionError, ValueError, IndexError) as error:
        log.warning("history: the row {} cannot be read: {}", row.name, error)
        return None
    for part in found:
        part.at, part.seconds = at, seconds
    return found


def _rows_of(periods: Iterable[Period]) -> list[SideRow]:
    rows: dict[str, list[Period]] = {}
    for period in added_up(periods):
        rows.setdefault(_name(period.seconds, period.at), []).append(period)
    return [
        SideRow(f"{name} {new_id()}", _encode([_columns(period) for period in found]).decode())
        for name, found in rows.items()
    ]
