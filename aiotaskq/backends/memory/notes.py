"""The notes in memory: a deque for each task that has any."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from aiotaskq.backends.listeners import NOTED, Listeners
from aiotaskq.backends.memory.lock import BriefLock
from aiotaskq.backends.notes import Notes, may_write
from aiotaskq.core.notes import MAX_NOTES, MAX_SIZE, NewNote, NewNotes, Note
from aiotaskq.core.task import Task
from aiotaskq.core.usage import Usage, risen


class _Log:
    """The notes of one task."""

    def __init__(self) -> None:
        self.notes: deque[Note] = deque()
        self._sizes: deque[int] = deque()
        self._last = self._size = 0

    def append(self, new: NewNote) -> None:
        self._last += 1
        self.notes.append(Note(self._last, new.at, new.kind, new.text))
        self._sizes.append(new.size)
        self._size += new.size
        while len(self.notes) > MAX_NOTES or self._size > MAX_SIZE:
            self.notes.popleft()
            self._size -= self._sizes.popleft()


class MemoryNotes(Notes):
    """The notes of this process."""

    def __init__(self, rows: dict[str, Task], lock: BriefLock, listeners: Listeners) -> None:
        self._rows, self._lock, self._listeners = rows, lock, listeners
        self.grouped: Callable[[str, Usage], None] = lambda group_id, more: None
        """Adds to what the members of a group have used up."""
        self.by_task: dict[str, _Log] = {}
        """Of the tasks that have any; an entry is removed with its task."""

    async def add(self, new: Sequence[NewNotes], last: bool = False) -> list[bool | None]:
        with self._lock:
            held = [self._add(each, last) for each in new]
        if written := [each.task_id for each, ok in zip(new, held, strict=True) if ok]:
            self._listeners.notify(NOTED, written)
        return [*held]

    def _add(self, new: NewNotes, last: bool) -> bool:
        row = self._rows.get(new.task_id)
        if row is None or row.fence != new.fence or row.status not in may_write(last):
            return False
        if new.notes:
            log = self.by_task.setdefault(new.task_id, _Log())
            for note in new.notes:
                log.append(note)
        if new.usage is not None:
            usage, more = risen(row.usage, new.usage)
            self._rows[new.task_id] = row.replace(usage=usage)
            if more and row.flow is not None and row.flow.group is not None:
                self.grouped(row.flow.group, more)
        return True

    def _of(self, task_id: str) -> deque[Note]:
        return self.by_task[task_id].notes if task_id in self.by_task else deque()

    async def read(self, task_id: str, after: int, limit: int) -> list[Note]:
        with self._lock:
            notes = self._of(task_id)
            skipped = max(0, after + 1 - notes[0].n) if notes else 0
            return list(islice(notes, skipped, skipped + limit))

    async def last(self, task_id: str, limit: int) -> list[Note]:
        with self._lock:
            newest: Iterator[Note] = islice(reversed(self._of(task_id)), limit)
            return list(newest)[::-1]
