"""Schedules in Redis: the compare-and-swap and the fired tasks in one transaction."""

from __future__ import annotations

from collections.abc import Sequence

from aiotaskq.backends.base import ScheduleChange, Schedules
from aiotaskq.backends.flow.gates import push
from aiotaskq.backends.redis.connection import RedisConnections
from aiotaskq.backends.redis.schedule_rows import (
    Row,
    changed_words,
    guard_of,
    row_words,
    text_of,
    to_schedule,
)
from aiotaskq.backends.redis.transaction import RedisTransaction
from aiotaskq.backends.redis.transactions import RedisTransactions
from aiotaskq.core.coded import encoded
from aiotaskq.core.schedule import Schedule, UndecodableSchedule

READ = 1_000  # rows in one answer of the server: it runs no other command meanwhile


class RedisSchedules(Schedules):
    """The keys ``schedules…``."""

    def __init__(self, redis: RedisConnections, transactions: RedisTransactions) -> None:
        self._redis, self._transactions = redis, transactions
        self._key = f"{redis.root}schedules"

    async def add(self, schedules: Sequence[Schedule]) -> list[Schedule]:
        rows = [row_words(schedule, self.codec) for schedule in schedules]

        def body(tx: RedisTransaction) -> list[bytes | None]:
            texts, there = tx.texts("schedules", [row[0] for row in rows]), []
            for row in rows:
                there.append(texts[row[0]])
                if there[-1] is None:
                    texts[row[0]] = _write(tx, row)
            return there

        stored = []
        for schedule, text in zip(schedules, await self._transactions.run(body), strict=True):
            known = to_schedule(schedule.task_id.encode(), text, self.codec) if text else schedule
            stored.append(schedule if known == schedule else known)
        return stored

    async def change(self, changes: Sequence[ScheduleChange]) -> list[bool]:
        fired = [
            item.tasks if (codec := self.codec) is None else [encoded(task, codec) for task in item.tasks]
            for item in changes
        ]

        def body(tx: RedisTransaction) -> list[bool]:
            texts, held = tx.texts("schedules", [item.before.task_id for item in changes]), []
            for item, tasks in zip(changes, fired, strict=True):
                before, text = item.before, texts[item.before.task_id]
                row = None if text is None else to_schedule(before.task_id.encode(), text, self.codec)
                held.append(row is not None and guard_of(row) == guard_of(before))
                if held[-1] and text is not None:
                    after = item.after.replace(version=before.version + 1)
                    is_damaged = isinstance(row, UndecodableSchedule)
                    new = changed_words(text, after, self.codec) if is_damaged else row_words(after, self.codec)
                    texts[before.task_id] = _write(tx, new, text)
                    push(tx, tasks)
            return held

        return await self._transactions.run(body)

    async def get(self, ids: Sequence[str]) -> list[Schedule | None]:
        rows = await self._read(ids)
        return [
            None if row is None else to_schedule(schedule_id.encode(), row, self.codec)
            for schedule_id, row in zip(ids, rows, strict=True)
        ]

    async def _read(self, ids: Sequence[str]) -> list[bytes | None]:
        rows: list[bytes | None] = []
        for start in range(0, len(ids), READ):
            rows += await self._redis.command("HMGET", self._key, *ids[start : start + READ])
        return rows

    async def recode(self, ids: Sequence[str]) -> list[bool | None]:
        if self.codec is None:
            return await super().recode(ids)

        def body(tx: RedisTransaction) -> list[bool | None]:
            done: dict[str, bool | None] = dict.fromkeys(ids)
            for schedule_id, text in tx.texts("schedules", [*done]).items():
                schedule = None if text is None else to_schedule(schedule_id.encode(), text, self.codec)
                if schedule is not None and not isinstance(schedule, UndecodableSchedule):
                    tx.set_fields("schedules", {schedule_id: text_of(schedule, self.codec)})
                    done[schedule_id] = True
            return [done[schedule_id] for schedule_id in ids]

        return await self._transactions.run(body)

    async def all(self, enabled_only: bool = False) -> list[Schedule]:
        found: dict[bytes, bytes] = {}
        cursor = b"0"
        while True:
            cursor, rows = await self._redis.command("HSCAN", self._key, cursor, "COUNT", READ)
            found.update(zip(rows[::2], rows[1::2], strict=True))
            if cursor == b"0":
                break
        schedules = [to_schedule(*pair, self.codec) for pair in found.items()]
        wanted = [schedule for schedule in schedules if schedule.enabled or not enabled_only]
        return sorted(wanted, key=lambda schedule: (schedule.created_at, schedule.task_id))

    async def due(self, now: int, limit: int) -> list[Schedule]:
        return await self._find("due", str(now), limit)

    async def _find(self, index: str, most: str, limit: int) -> list[Schedule]:
        found: list[Schedule] = []
        start = 0
        while limit > len(found):
            words = ("-inf", most, "LIMIT", start, min(READ, limit - len(found)))
            ids = [_name(word) for word in await self._redis.command("ZRANGEBYSCORE", f"{self._key}:{index}", *words)]
            for schedule_id, row in zip(ids, await self._read(ids), strict=True):
                if row is None:
                    continue  # the rows are the truth: an entry that its row does not confirm is passed over
                schedule = to_schedule(schedule_id.encode(), row, self.codec)
                if index != "due" or schedule.enabled or isinstance(schedule, UndecodableSchedule):
                    found.append(schedule)
            start += len(ids)
            if not ids:
                break
        return found

    async def undelivered(self, limit: int) -> list[Schedule]:
        return await self._find("outbox", "+inf", limit)

    async def delete(self, ids: Sequence[str]) -> list[bool]:
        def body(tx: RedisTransaction) -> list[bool]:
            texts, found = tx.texts("schedules", ids), []
            for schedule_id in ids:
                found.append(texts[schedule_id] is not None)
                texts[schedule_id] = None
                tx.set_fields("schedules", {schedule_id: False})
                for index in ("due", "outbox"):
                    tx.put(f"schedules:{index}", schedule_id, None)
            return found

        return await self._transactions.run(body)


def _write(tx: RedisTransaction, row: Row, before: bytes = b"") -> bytes:
    """Write a row and its places in the indexes; return its text, which was ``before``."""
    schedule_id, text, due, undelivered = row
    if text is not None:
        tx.set_fields("schedules", {schedule_id: text})
    tx.put("schedules:due", schedule_id, due)
    tx.put("schedules:outbox", schedule_id, 0 if undelivered else None)
    return before if text is None else text.encode()


def _name(word: bytes) -> str:
    return word.decode(errors="backslashreplace")  # another program may have written it
