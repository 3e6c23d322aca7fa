"""Schedules in Redis: the compare-and-swap and the fired tasks in one transaction.

A row is JSON of all fields; coded params and a coded outbox are texts there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from aiotaskq.backends.flow.transaction import push
from aiotaskq.backends.redis.connection import RedisConnections
from aiotaskq.backends.redis.reads import READ
from aiotaskq.backends.redis.rows import DAMAGED, read_object, to_text
from aiotaskq.backends.redis.transaction import RedisTransaction
from aiotaskq.backends.redis.transactions import RedisTransactions
from aiotaskq.backends.schedules import CODED, Decide, Schedules
from aiotaskq.core.codec import Codec
from aiotaskq.core.coded import from_stored, is_coded, stored_text
from aiotaskq.core.schedule import Schedule, UndecodableSchedule
from aiotaskq.errors import ValidationError

T = TypeVar("T")

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_decode_schedule = msgspec.json.Decoder(Schedule).decode
_TYPES = {field.name: field.type for field in msgspec.structs.fields(Schedule)}
_LOST: dict[str, Any] = {"name": "", "task_type": "", "schedule_type": "", "created_at": 0, "updated_at": 0}


class RedisSchedules(Schedules):
    """The keys ``schedules…``."""

    def __init__(self, redis: RedisConnections, transactions: RedisTransactions) -> None:
        self._redis, self._transactions = redis, transactions
        self._key = f"{redis.root}schedules"

    async def _write(self, ids: Sequence[str], decide: Decide[T], whole: bool = True) -> T:
        def body(tx: RedisTransaction) -> T:
            texts = tx.read("schedules", [*dict.fromkeys(ids)])
            found = {name: to_schedule(name, text, self.codec) for name, text in texts.items() if text is not None}
            decision = decide(found)
            for schedule, _ in decision.written:
                schedule_id, new = schedule.task_id, text_of(schedule, self.codec)
                is_damaged = isinstance(found.get(schedule_id), UndecodableSchedule)
                _put(tx, schedule, _mended(texts[schedule_id] or b"", schedule, new) if is_damaged else new)
            for schedule_id in decision.deleted:
                tx.fields["schedules"][schedule_id] = False
                for index in ("due", "outbox"):
                    tx.scores[f"schedules:{index}"][schedule_id] = None
            if decision.fired:
                push(tx, decision.fired)
            return decision.answer

        return await self._transactions.transact(body)

    async def get(self, ids: Sequence[str]) -> list[Schedule | None]:
        found: list[Schedule | None] = []
        for start in range(0, len(ids), READ):
            part = ids[start : start + READ]
            for schedule_id, row in zip(part, await self._redis.command("HMGET", self._key, *part), strict=True):
                found.append(None if row is None else to_schedule(schedule_id, row, self.codec))
        return found

    async def all(self, enabled_only: bool = False) -> list[Schedule]:
        found: dict[bytes, bytes] = {}
        cursor = b"0"
        while True:
            cursor, rows = await self._redis.command("HSCAN", self._key, cursor, "COUNT", READ)
            found.update(zip(rows[::2], rows[1::2], strict=True))
            if cursor == b"0":
                break
        schedules = [to_schedule(to_text(word), row, self.codec) for word, row in found.items()]
        wanted = [schedule for schedule in schedules if schedule.enabled or not enabled_only]
        return sorted(wanted, key=lambda schedule: (schedule.created_at, schedule.task_id))

    async def due(self, now: int, limit: int) -> list[Schedule]:
        return await self._find("due", str(now), limit)

    async def _find(self, index: str, most: str, limit: int) -> list[Schedule]:
        found: list[Schedule] = []
        start = 0
        while limit > len(found):
            words = ("-inf", most, "LIMIT", start, min(READ, limit - len(found)))
            ids = [to_text(word) for word in await self._redis.command("ZRANGEBYSCORE", f"{self._key}:{index}", *words)]
            # The rows are the truth: an entry that its row does not confirm is passed over.
            found += [
                each
                for each in await self.get(ids)
                if each is not None and (index != "due" or each.enabled or isinstance(each, UndecodableSchedule))
            ]
            start += len(ids)
            if not ids:
                break
        return found

    async def undelivered(self, limit: int) -> list[Schedule]:
        return await self._find("outbox", "+inf", limit)


def _put(tx: RedisTransaction, schedule: Schedule, text: str | None) -> None:
    """Write a row and its places in the indexes; without a text the row stays, and nothing looks for it."""
    if text is not None:
        tx.fields["schedules"][schedule.task_id] = text
    tx.scores["schedules:due"][schedule.task_id] = schedule.due if schedule.enabled and text is not None else None
    tx.scores["schedules:outbox"][schedule.task_id] = 0 if schedule.outbox and text is not None else None


def _mended(before: bytes, after: Schedule, text: str) -> str | None:
    """Return a row that becomes ``after`` and could not be decoded, with what cannot be read of it; None for no row."""
    texts, problem = read_object(before)
    kept = {name: texts[name] for name in CODED if not getattr(after, name) and name in texts}
    return None if problem else _encode({**_decode(text), **kept}).decode()


def text_of(schedule: Schedule, codec: Codec | None) -> str:
    """Return the row of a schedule. Raises ValidationError for one that no row can hold."""
    values = {name: value for name in CODED if codec is not None and (value := getattr(schedule, name))}
    try:
        stored = {name: stored_text(_encode(value).decode(), codec) for name, value in values.items()}
        coded: dict[str, Any] = {name: text for name, text in stored.items() if is_coded(text)}
        return _encode(schedule.replace(**coded) if coded else schedule).decode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValidationError(f"schedule: {error}") from None


def to_schedule(task_id: str, row: bytes, codec: Codec | None) -> Schedule:
    """Return the schedule of a row; one that cannot be decoded is not enabled, and lacks what cannot be read."""
    try:
        return _decode_schedule(row)
    except DAMAGED:
        return _with_coded(task_id, row, codec)


def _with_coded(task_id: str, row: bytes, codec: Codec | None) -> Schedule:
    """Read a row part by part: it is coded, or damaged."""
    fields: dict[str, Any] = {}
    found, problem = read_object(row)
    lost = problem != "" or not _LOST.keys() <= found.keys()
    for name, value in found.items():
        if name not in _TYPES:
            continue  # of a newer version
        try:
            decoded = _decode(from_stored(value, codec)) if name in CODED and is_coded(value) else value
            fields[name] = msgspec.convert(decoded, _TYPES[name])
        except Exception:  # the codec is the application's, and may raise anything
            lost = True
    fields = {**_LOST, **fields, "task_id": task_id}
    if lost:
        return UndecodableSchedule(**{**fields, "enabled": False})
    return Schedule(**fields)
