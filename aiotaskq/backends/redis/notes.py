"""The notes in Redis: a list for each task that has any; ``lua/notes_add.lua`` numbers them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from aiotaskq.backends.listeners import GATES, NOTED, Listeners
from aiotaskq.backends.notes import Notes
from aiotaskq.backends.redis import scripts
from aiotaskq.backends.redis.connection import RedisConnections
from aiotaskq.core.notes import MAX_NOTES, MAX_SIZE, NewNotes, Note

_encode = msgspec.json.Encoder().encode


class RedisNotes(Notes):
    """The keys ``notes:…`` and ``noted``."""

    def __init__(self, redis: RedisConnections, listeners: Listeners) -> None:
        self._redis, self._listeners = redis, listeners

    async def add(self, new: Sequence[NewNotes], last: bool = False) -> list[bool | None]:
        if not new:
            return []
        words: list[bytes | int | str] = [MAX_NOTES, MAX_SIZE, int(last)]
        for each in new:
            used = "" if each.usage is None else _encode(each.usage)
            words += (each.task_id, each.fence, used, len(each.notes))
            for note in each.notes:
                words += (note.size, f"{note.kind} {note.at}", self._stored(note.text))
        spent = any(each.usage is not None for each in new)
        script = scripts.NOTES_ADD_GATED if spent else scripts.NOTES_ADD
        held = [bool(flag) for flag in await self._redis.run(script, *words)]
        if spent and held.pop():
            self._listeners.notify(GATES)
        if written := [each.task_id for each, ok in zip(new, held, strict=True) if ok]:
            self._listeners.notify(NOTED, written)
        return [*held]

    async def read(self, task_id: str, after: int, limit: int) -> list[Note]:
        return self._notes(await self._redis.run(scripts.NOTES_READ, task_id, after, limit))

    async def last(self, task_id: str, limit: int) -> list[Note]:
        return self._notes(await self._redis.run(scripts.NOTES_READ, task_id, "", limit))

    def _notes(self, entries: Sequence[bytes]) -> list[Note]:
        return [self._note(*entry.decode().split(" ", 4)) for entry in entries]

    def _note(self, _size: str, n: str, kind: Any, at: str, text: str) -> Note:
        return Note(int(n), int(at), kind, self._plain(text))
