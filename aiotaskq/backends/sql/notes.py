"""The notes in SQL: a row each, numbered under the lock of their task's row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, delete, select

from aiotaskq.backends.listeners import NOTED, Listeners
from aiotaskq.backends.notes import Notes, may_write
from aiotaskq.backends.sql.database import Database
from aiotaskq.backends.sql.dialects import dialect_of
from aiotaskq.backends.sql.gates import SqlGates
from aiotaskq.backends.sql.insert import insert_new
from aiotaskq.backends.sql.rows import TASKS
from aiotaskq.backends.sql.statement_size import chunks
from aiotaskq.backends.sql.usage import Known, write_usage
from aiotaskq.core.notes import MAX_NOTE, MAX_NOTES, MAX_SIZE, NewNotes, Note
from aiotaskq.models import NoteRow

_N: Any = NoteRow.__table__
c, task = _N.c, TASKS.c
_COLUMNS = ("task_id", "n", "at", "kind", "text", "ends")
_GUARD = select(task.task_id, task.status, task.fence)
_NEWEST = (_N.select().where(c.task_id == task.task_id).order_by(c.n.desc()).limit(1)).correlate(TASKS)
_LAST = select(
    task.task_id,
    _NEWEST.with_only_columns(c.n).scalar_subquery().label("n"),
    _NEWEST.with_only_columns(c.ends).scalar_subquery().label("ends"),
)
_READ = select(c.n, c.at, c.kind, c.text)


class SqlNotes(Notes):
    """The table ``aiotaskq_note``."""

    def __init__(self, database: Database, gates: SqlGates, listeners: Listeners) -> None:
        self._database, self._gates, self._listeners = database, gates, listeners

    async def add(self, new: Sequence[NewNotes], last: bool = False) -> list[bool | None]:
        if not new:
            return []
        texts = [[self._stored(note.text) for note in each.notes] for each in new]
        held, freed = await self._database.write(lambda connection: _add(connection, new, texts, last))
        if freed:
            await self._gates.follow_up(None, freed)
        if written := [each.task_id for each, ok in zip(new, held, strict=True) if ok]:
            self._listeners.notify(NOTED, written)
        return held

    async def read(self, task_id: str, after: int, limit: int) -> list[Note]:
        query = _READ.where(c.task_id == task_id, c.n > after).order_by(c.n).limit(limit)
        return self._notes(await self._database.read(lambda connection: connection.execute(query).all()))

    async def last(self, task_id: str, limit: int) -> list[Note]:
        query = _READ.where(c.task_id == task_id).order_by(c.n.desc()).limit(limit)
        return self._notes(await self._database.read(lambda connection: connection.execute(query).all()))[::-1]

    def _notes(self, rows: Sequence[Any]) -> list[Note]:
        return [Note(n, at, kind, self._plain(text)) for n, at, kind, text in rows]


def _add(
    connection: Connection, new: Sequence[NewNotes], texts: Sequence[Sequence[str]], last: bool
) -> tuple[list[bool | None], Known]:
    # A handler's own transaction may hold the row of its task: waiting for it would delay the notes of all others.
    ids = sorted(each.task_id for each in new)
    running = _running(connection, ids, lock=True, skip=not last)
    if not last and (taken := [task_id for task_id in ids if task_id not in running]):
        elsewhere = _running(connection, taken, lock=False, skip=False)
    else:
        elsewhere = {}
    held = [_holds(running, each, last) or (None if _holds(elsewhere, each, last) else False) for each in new]
    kept = [(each, part) for each, part, ok in zip(new, texts, held, strict=True) if ok]
    if not kept:
        return held, {}
    _append(connection, [(each, part) for each, part in kept if part])
    return held, write_usage(connection, [each for each, _ in kept])  # last, since it may lock gates


def _append(connection: Connection, kept: Sequence[tuple[NewNotes, Sequence[str]]]) -> None:
    if not kept:
        return
    # In a statement of its own: one that waits for a lock sees the rows as they were before the wait.
    newest = {
        row.task_id: (row.n or 0, row.ends or 0)
        for part in chunks([each.task_id for each, _ in kept])
        for row in connection.execute(_LAST.where(task.task_id.in_(part)))
    }
    rows: list[tuple[Any, ...]] = []
    for each, part in kept:
        n, ends = newest[each.task_id]
        for note, text in zip(each.notes, part, strict=True):
            n, ends = n + 1, ends + note.size
            rows.append((each.task_id, n, note.at, note.kind, text, ends))
        newest[each.task_id] = n, ends
    insert_new(connection, _N, _COLUMNS, rows)
    for task_id, (n, ends) in newest.items():
        if n > MAX_NOTES:
            connection.execute(delete(_N).where(c.task_id == task_id, c.n <= n - MAX_NOTES))
        if ends > MAX_SIZE:  # with the room of one note, since a row says where its text ends, and not where it begins
            connection.execute(delete(_N).where(c.task_id == task_id, c.ends < ends - MAX_SIZE + MAX_NOTE))


def _holds(rows: Mapping[str, tuple[Any, int]], new: NewNotes, last: bool) -> bool:
    status, fence = rows.get(new.task_id, (None, 0))
    return fence == new.fence and status in may_write(last)


def _running(connection: Connection, ids: Sequence[str], *, lock: bool, skip: bool) -> dict[str, tuple[Any, int]]:
    found: dict[str, tuple[Any, int]] = {}
    for part in chunks(ids):
        query = _GUARD.where(task.task_id.in_(part))
        if lock:
            query = dialect_of(connection).by_id(query.order_by(task.task_id).with_for_update(skip_locked=skip))
        found.update({row.task_id: (row.status, row.fence) for row in connection.execute(query)})
    return found
