"""The log of a task: what its handler writes while it runs, as side rows; ``core.notes`` has the bounds.

The notes of one write are one side row of their task. Its name has the number of the last one, and the bytes of all
texts of the task until its end, those included that were deleted: names alone tell which rows are to go.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from aiotaskq.backends.flow.groups import spend_reported
from aiotaskq.backends.listeners import NOTED, Listeners
from aiotaskq.backends.side_rows import NOTE, Range, SideRow, SideRows
from aiotaskq.core.coded import plain_text, stored_text
from aiotaskq.core.notes import MAX_NOTES, MAX_SIZE, Kind, LogEntry, NewNotes
from aiotaskq.core.status import COMPLETED, RUNNING

if TYPE_CHECKING:
    from aiotaskq.backends.flow.transaction import Run, Store, Transaction
    from aiotaskq.core.codec import Codec

Stored = tuple[int, Kind, int, str]
"""The time, the kind, the bytes of the text and the text of a note, which a codec may have encoded."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[Stored]).decode


class Notes:
    """The notes of the tasks of one store. They are deleted with their task. Each method is atomic."""

    codec: Codec | None = None
    """That of the backend: it encodes the texts."""

    def __init__(self, store: Store, side: SideRows, listeners: Listeners) -> None:
        self._store, self._side, self._listeners = store, side, listeners

    async def add(self, new: Sequence[NewNotes], last: bool = False) -> list[bool | None]:
        """Append notes to running tasks; return for each task whether it runs with this fence, else it has no notes.

        None stands for a task whose row another transaction has locked, as that of its handler: nothing was written for
        it, and it may be tried again. The ``last`` notes of a run wait for the row instead, and are also appended where
        the run has completed its task in a transaction of its own. The oldest notes of a task go where it would have
        more than ``MAX_NOTES``, or texts of more than ``MAX_SIZE``. No task is named twice in one call.
        Sends the hint ``noted``.

        What a task has used up is written with its notes: ``core.usage.risen`` says what is stored. By how much that
        has risen is added, in the same transaction, to the sums of its group and of those around it. Where that uses
        up the budget of a group, its gate closes: the tasks that have passed it and have not started are parked at
        their first gates again, but for those that another transaction is about to start.
        """
        if not new:
            return []
        texts = [[stored_text(note.text, self.codec) for note in each.notes] for each in new]
        held = await self._store.transact(lambda tx: append(tx, new, texts, last))
        if written := [each.task_id for each, ok in zip(new, held, strict=True) if ok]:
            self._listeners.notify(NOTED, written)
        return held

    async def read(self, task_id: str, after: int, limit: int) -> list[LogEntry]:
        """Read the first notes of a task whose number is greater than ``after``, in the order of their numbers."""
        rows = await self._side.read(Range(NOTE, 0, limit, owner=task_id, after=behind(after)))
        return [note for note in self._of(rows) if note.n > after][:limit]

    async def last(self, task_id: str, limit: int) -> list[LogEntry]:
        """Read the newest notes of a task, in the order of their numbers."""
        rows = await self._side.read(Range(NOTE, 0, limit, owner=task_id, newest=True))
        return self._of(rows[::-1])[-limit:]

    def _of(self, rows: Sequence[SideRow]) -> list[LogEntry]:
        return [note for row in rows for note in to_notes(row, lambda text: plain_text(text, self.codec)[0])]


class _Place(NamedTuple):
    """What the name of a row says."""

    n: int
    end: int

    @property
    def name(self) -> str:
        return f"{self.n:010d} {self.end:016d}"

    def passed(self, last: _Place) -> bool:
        """Whether all notes until here go where the newest one is ``last``."""
        return self.n <= last.n - MAX_NOTES or self.end <= last.end - MAX_SIZE


def _place(name: str) -> _Place:
    return _Place(int(name[:10]), int(name[11:]))


def behind(n: int) -> str:
    """Return what lies behind the names of the rows that end with this note, or before."""
    return f"{n:010d}~"


def to_notes(row: SideRow, plain: Callable[[str], str]) -> list[LogEntry]:
    """Return the notes of a row, whose texts ``plain`` decodes."""
    stored = _decode(row.text)
    first = _place(row.name).n - len(stored) + 1
    return [LogEntry(n, at, kind, plain(text)) for n, (at, kind, _, text) in enumerate(stored, first)]


def append(tx: Transaction, new: Sequence[NewNotes], texts: Sequence[Sequence[str]], last: bool) -> list[bool | None]:
    """Do as ``Notes.add``; ``texts`` are those of the notes as they are stored."""
    ids = [each.task_id for each in new]
    tx.foresee(ids, lambda: tx.side.last(NOTE, ids))
    # A handler's own transaction may hold the row of its task: waiting for it would delay the notes of all others.
    runs = tx.runs(sorted(ids), wait=last)
    held = [_holds(runs.get(each.task_id), each, last) for each in new]
    if kept := [(each, part) for each, part, ok in zip(new, texts, held, strict=True) if ok and part]:
        newest = tx.side.last(NOTE, [each.task_id for each, _ in kept])
        tx.side.add(NOTE, [_added(tx, each, part, newest.get(each.task_id)) for each, part in kept])
    if spent := [each for each, ok in zip(new, held, strict=True) if ok and each.usage is not None]:
        spend_reported(tx, spent)  # last, since it may lock gates
    return held


def _holds(run: Run | None, new: NewNotes, last: bool) -> bool | None:
    if run is None or run.fence != new.fence or run.status not in ((RUNNING, COMPLETED) if last else (RUNNING,)):
        return False
    return None if run.taken else True


def _added(tx: Transaction, new: NewNotes, texts: Sequence[str], newest: str | None) -> SideRow:
    """Return the row of new notes, and delete what goes since they come."""
    stored = [(note.at, note.kind, note.size, text) for note, text in zip(new.notes, texts, strict=True)]
    n, end = (0, 0) if newest is None else _place(newest)
    place = _Place(n + len(stored), end + sum(size for _, _, size, _ in stored))
    if place.n > MAX_NOTES or place.end > MAX_SIZE:
        _trim(tx, new.task_id, place)
        stored = _staying(stored, place, place)
    return SideRow(place.name, _encode(stored).decode(), owner=new.task_id)


def _trim(tx: Transaction, task_id: str, last: _Place) -> None:
    """Delete the rows of which all notes go, and store the first one of the others without those that go."""
    names = [row.name for row in tx.side.of(NOTE, [task_id], texts=False)]
    gone = [name for name in names if _place(name).passed(last)]
    for first in names[len(gone) : len(gone) + 1]:
        stored = _decode(tx.side.lock(NOTE, [first], task_id)[first])
        stay = _staying(stored, _place(first), last)
        if len(stay) < len(stored):
            tx.side.delete(NOTE, task_id, [first])
            tx.side.add(NOTE, [SideRow(first, _encode(stay).decode(), owner=task_id)] if stay else [])
    if gone:
        tx.side.delete(NOTE, task_id, gone)


def _staying(stored: Sequence[Stored], place: _Place, last: _Place) -> list[Stored]:
    """Return the notes of a row that stay where the newest note is ``last``."""
    stay: list[Stored] = []
    n, end = place
    for note in reversed(stored):
        if n <= last.n - MAX_NOTES or end - note[2] < last.end - MAX_SIZE:
            break
        stay.append(note)
        n, end = n - 1, end - note[2]
    return stay[::-1]
