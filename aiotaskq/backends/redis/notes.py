"""The notes in Redis: a list for each task that has any; ``lua/include/notes.lua`` numbers them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiotaskq.backends.flow.groups import spend
from aiotaskq.backends.flow.notes import may_write
from aiotaskq.backends.listeners import NOTED, Listeners
from aiotaskq.backends.notes import Notes
from aiotaskq.backends.redis import scripts
from aiotaskq.backends.redis.connection import RedisConnections
from aiotaskq.backends.redis.transaction import RedisTransaction
from aiotaskq.backends.redis.transactions import RedisTransactions
from aiotaskq.core.notes import MAX_NOTES, MAX_SIZE, NewNote, NewNotes, Note
from aiotaskq.core.usage import Usage, risen, summed


class RedisNotes(Notes):
    """The keys ``notes:…`` and ``noted``."""

    def __init__(self, redis: RedisConnections, listeners: Listeners, transactions: RedisTransactions) -> None:
        self._redis, self._listeners, self._transactions = redis, listeners, transactions

    async def add(self, new: Sequence[NewNotes], last: bool = False) -> list[bool | None]:
        if not new:
            return []
        texts = [[word for note in each.notes for word in self._words(note)] for each in new]
        if any(each.usage is not None for each in new):
            held = await self._transactions.run(lambda tx: _add(tx, new, texts, last))
        else:
            words: list[int | str] = [MAX_NOTES, MAX_SIZE, int(last)]
            for each, text in zip(new, texts, strict=True):
                words += (each.task_id, each.fence, len(each.notes), *text)
            held = [bool(flag) for flag in await self._redis.run(scripts.NOTES_ADD, *words)]
        if written := [each.task_id for each, ok in zip(new, held, strict=True) if ok]:
            self._listeners.notify(NOTED, written)
        return [*held]

    def _words(self, note: NewNote) -> tuple[str, str, str]:
        return str(note.size), f"{note.kind} {note.at}", self._stored(note.text)

    async def read(self, task_id: str, after: int, limit: int) -> list[Note]:
        return self._read(await self._redis.run(scripts.NOTES_READ, task_id, after, limit))

    async def last(self, task_id: str, limit: int) -> list[Note]:
        return self._read(await self._redis.run(scripts.NOTES_READ, task_id, "", limit))

    def _read(self, entries: Sequence[bytes]) -> list[Note]:
        return [self._note(*entry.decode().split(" ", 4)) for entry in entries]

    def _note(self, _size: str, n: str, kind: Any, at: str, text: str) -> Note:
        return Note(int(n), int(at), kind, self._plain(text))


def _add(tx: RedisTransaction, new: Sequence[NewNotes], texts: Sequence[Sequence[str]], last: bool) -> list[bool]:
    rows = tx.tasks([each.task_id for each in new])
    held = []
    by_group: dict[str, Usage] = {}
    for each, words in zip(new, texts, strict=True):
        row = rows.get(each.task_id)
        held.append(row is not None and row.status in may_write(last) and row.fence == each.fence)
        if row is None or not held[-1]:
            continue
        if words:
            tx.note(each.task_id, words)
        usage, more = risen(row.usage, each.usage)
        if more:
            tx.use(row, usage)
            if row.flow is not None and (group_id := row.flow.group) is not None:
                by_group[group_id] = summed(by_group.get(group_id, {}), more)
    spend(tx, by_group)
    return held
