"""The log of a task: what its handler writes while it runs, as side rows; ``core.notes`` has the bounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from aiotaskq.backends.flow.notes import append, behind, to_notes
from aiotaskq.backends.listeners import NOTED, Listeners
from aiotaskq.backends.side_rows import NOTE, SideRow, SideRows
from aiotaskq.core.coded import plain_text, stored_text

if TYPE_CHECKING:
    from aiotaskq.backends.flow.transaction import Store
    from aiotaskq.core.codec import Codec
    from aiotaskq.core.notes import LogEntry, NewNotes


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
        rows = await self._side.range(NOTE, 0, limit, owner=task_id, after=behind(after))
        return [note for note in self._of(rows) if note.n > after][:limit]

    async def last(self, task_id: str, limit: int) -> list[LogEntry]:
        """Read the newest notes of a task, in the order of their numbers."""
        rows = await self._side.range(NOTE, 0, limit, owner=task_id, newest=True)
        return self._of(rows[::-1])[-limit:]

    def _of(self, rows: Sequence[SideRow]) -> list[LogEntry]:
        return [note for row in rows for note in to_notes(row, lambda text: plain_text(text, self.codec)[0])]
