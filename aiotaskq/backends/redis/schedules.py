"""Schedules in Redis: the compare-and-swap and the fired tasks in one script."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiotaskq.backends.base import ScheduleChange, Schedules
from aiotaskq.backends.flow.gates import push
from aiotaskq.backends.listeners import READY, Listeners
from aiotaskq.backends.redis import scripts
from aiotaskq.backends.redis.connection import RedisConnections
from aiotaskq.backends.redis.rows import packed
from aiotaskq.backends.redis.rows import row_words as task_words
from aiotaskq.backends.redis.schedule_rows import (
    changed_words,
    guard_of,
    guard_of_damaged,
    row_words,
    to_schedule,
)
from aiotaskq.backends.redis.transaction import RedisTransaction
from aiotaskq.backends.redis.transactions import RedisTransactions
from aiotaskq.core.coded import encoded
from aiotaskq.core.parking import any_flow
from aiotaskq.core.schedule import Schedule, UndecodableSchedule

READ = 1_000  # rows in one answer of the server: it runs no other command meanwhile


class RedisSchedules(Schedules):
    """The keys ``schedules…``."""

    def __init__(
        self, redis: RedisConnections, listeners: Listeners, transactions: RedisTransactions, hint: bytes
    ) -> None:
        """``hint``: the message that tasks became ready, which the script sends to other processes."""
        self._redis, self._listeners, self._transactions, self._hint = redis, listeners, transactions, hint
        self._key = f"{redis.root}schedules"

    async def add(self, schedules: Sequence[Schedule]) -> list[Schedule]:
        if not schedules:
            return []
        words = [word for schedule in schedules for word in row_words(schedule, self.codec)]
        there = await self._redis.run(scripts.SCHEDULES_ADD, *words)
        stored = []
        for schedule, row in zip(schedules, there, strict=True):
            known = to_schedule(schedule.task_id.encode(), row, self.codec) if row else schedule
            stored.append(schedule if known == schedule else known)
        return stored

    async def change(self, changes: Sequence[ScheduleChange]) -> list[bool]:
        if not changes:
            return []
        damaged = [item.before.task_id for item in changes if isinstance(item.before, UndecodableSchedule)]
        texts = dict(zip(damaged, await self._read(damaged), strict=True)) if damaged else {}
        rows = [self._changed(item, texts.get(item.before.task_id)) for item in changes]
        if any(any_flow(item.tasks) for item in changes):
            return await self._transactions.run(lambda tx: self._fire(tx, changes, rows))
        held = [flag == 1 for flag in await self._redis.run(scripts.SCHEDULES_CHANGE, self._hint, *packed(rows))]
        if any(ok and item.tasks for ok, item in zip(held, changes, strict=True)):
            self._listeners.receive(READY)
        return held

    def _fire(
        self, tx: RedisTransaction, changes: Sequence[ScheduleChange], rows: Sequence[tuple[Any, ...]]
    ) -> list[bool]:
        """Do as ``change`` where tasks with a flow are fired."""
        texts = tx.texts("schedules", [row[0] for row in rows])
        held = []
        for item, (name, guard, text, due, outbox, _) in zip(changes, rows, strict=True):
            held.append((texts[name] or b"").startswith(guard.encode()))
            if held[-1]:
                texts[name] = text.encode()
                tx.set_fields("schedules", {name: text})
                for index, score in (("due", due), ("outbox", "0" if outbox else "")):
                    tx.put(f"schedules:{index}", name, None if score == "" else int(score))
                push(tx, item.tasks if (codec := self.codec) is None else [encoded(task, codec) for task in item.tasks])
        return held

    def _changed(self, item: ScheduleChange, text: bytes | None) -> tuple[Any, ...]:
        before, codec = item.before, self.codec
        after = item.after.replace(version=before.version + 1)
        if text is not None and _same(to_schedule(before.task_id.encode(), text, codec), before):
            guard, words = guard_of_damaged(text), changed_words(text, after, codec)
        else:
            guard, words = guard_of(before), row_words(after, codec)
        sent = item.tasks if codec is None else [encoded(task, codec) for task in item.tasks]
        return (words[0], guard, *words[1:], [word for task in sent for word in task_words(task)])

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
        done: dict[str, bool | None] = dict.fromkeys(ids)
        words: list[bytes | str] = []
        for schedule_id, row in zip(done, await self._read([*done]), strict=True):
            schedule = None if row is None else to_schedule(schedule_id.encode(), row, self.codec)
            if row is not None and schedule is not None and not isinstance(schedule, UndecodableSchedule):
                words += (schedule_id, row, row_words(schedule, self.codec)[1])
        flags = await self._redis.run(scripts.SCHEDULES_RECODE, *words) if words else []
        done.update({str(name): flag == 1 for name, flag in zip(words[::3], flags, strict=True)})
        return [done[schedule_id] for schedule_id in ids]

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
        words = await self._redis.run(scripts.SCHEDULES_FIND, f"schedules:{index}", most, limit)
        return [to_schedule(*pair, self.codec) for pair in zip(words[::2], words[1::2], strict=True)]

    async def undelivered(self, limit: int) -> list[Schedule]:
        return await self._find("outbox", "+inf", limit)

    async def delete(self, ids: Sequence[str]) -> list[bool]:
        return [was == 1 for was in await self._redis.run(scripts.SCHEDULES_DELETE, *ids)] if ids else []


def _same(row: Schedule, before: Schedule) -> bool:
    return guard_of(row) == guard_of(before)
