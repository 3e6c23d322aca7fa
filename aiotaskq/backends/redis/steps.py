"""The steps and events in Redis.

A step is a field of the hash of its task: push stamp, kind, number and name, with a blank between; its value has its
place among the steps, its instant, the version of its handler and its text. An event has its instant, when it expires
or ``-``, and its text.

The script that stores an event stores its value for the tasks that wait, too. It cannot make their rows, so they are
woken by updates after it. A process that dies in between leaves that to ``mend``, and to the next call of ``emit``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from aiotaskq.backends.base import Backend
from aiotaskq.backends.change import Change
from aiotaskq.backends.coded import encoded_change
from aiotaskq.backends.redis import scripts
from aiotaskq.backends.redis.connection import RedisConnections
from aiotaskq.backends.redis.rows import changed_words, has_flow, pack
from aiotaskq.backends.redis.transaction import RedisTransaction
from aiotaskq.backends.redis.transactions import RedisTransactions
from aiotaskq.backends.steps import Leave, Steps, recoded, step_name
from aiotaskq.core.steps import EventValue, NewStep, Step, in_order, woken
from aiotaskq.core.task import Task

Message = Callable[[Mapping[str, Sequence[str]]], bytes]
Updated = Callable[[Sequence[Change], dict[str, list[str]], Sequence[int]], list[bool]]
READ = 500  # keys in one answer
TRIES = 10  # to wake tasks that other changes touch meanwhile; then it is left to `mend`


class RedisSteps(Steps):
    """The keys ``steps:…``, ``events``, ``waits:…``, ``woken:…`` and their indexes."""

    mends = True

    def __init__(
        self,
        backend: Backend,
        redis: RedisConnections,
        message: Message,
        updated: Updated,
        transactions: RedisTransactions,
    ) -> None:
        """``message`` returns hints as they are published, ``updated`` passes those of an update on in this process."""
        self._backend, self._redis, self._message, self._updated = backend, redis, message, updated
        self._transactions = transactions

    async def read(self, task_id: str, seq: int) -> list[Step]:
        found = await self._redis.command("HGETALL", f"{self._redis.root}steps:{task_id}")
        steps = [
            self._plain_step(_step(field.decode(), value.decode()))
            for field, value in zip(found[::2], found[1::2], strict=True)
            if field.startswith(f"{seq} ".encode())
        ]
        return in_order(steps)

    async def read_many(self, tasks: Sequence[Task]) -> list[list[Step]]:
        return await asyncio.gather(*(self.read(task.task_id, task.seq) for task in tasks))  # in one round trip

    async def add(self, new: Sequence[NewStep]) -> list[Step | None]:
        if not new:
            return []
        fields = [_field(each) for each in new]
        words: list[bytes | str | int] = []
        for each, field in zip(new, fields, strict=True):
            words += (each.task_id, each.fence, each.seq, field, self._value(each.step))
        found = await self._redis.run(scripts.STEPS_ADD, *words, repeatable=True)
        return [
            None if value is None else self._plain_step(_step(field, value.decode()))
            for field, value in zip(fields, found, strict=True)
        ]

    async def put(self, new: Sequence[NewStep]) -> None:
        for each in new:
            key, field = f"{self._redis.root}steps:{each.task_id}", _field(each)
            await self._redis.command("HSETNX", key, field, self._value(each.step))
            await self._redis.command("SADD", f"{self._redis.root}stepped", each.task_id)

    def _value(self, step: Step) -> str:
        return f"{step.n} {step.at} {step.version} {self._stored(step.text)}"

    async def suspend(self, leaves: Sequence[Leave]) -> list[bool]:
        changes = [leave.change for leave in leaves]
        if has_flow(changes):
            return await self._transactions.run(lambda tx: self._suspend(tx, leaves))
        hints = self._backend.hints_of_update(changes, [True] * len(changes))
        words = [pack(self._words(leave)) for leave in leaves]
        flags = await self._redis.run(scripts.STEPS_SUSPEND, self._message(hints), *words)
        return self._updated(changes, hints, flags)

    def _words(self, leave: Leave) -> list[Any]:
        changes = [leave.change, *([] if leave.woken is None else [Change(leave.change.before, leave.woken)])]
        return [*self._rows_of(leave), *(list(changed_words(each)) for each in self._coded(changes))]

    def _coded(self, changes: list[Change]) -> list[Change]:
        return changes if (codec := self.codec) is None else [encoded_change(each, codec) for each in changes]

    def _suspend(self, tx: RedisTransaction, leaves: Sequence[Leave]) -> list[bool]:
        """Do as ``suspend`` for tasks with a flow."""
        changes = []
        for leave in leaves:
            before = leave.change.before
            came = before.task_id in tx.came and leave.woken is not None
            changes.append(leave.change if not came or leave.woken is None else Change(before, leave.woken))
        held = tx.update(self._coded(changes))
        for leave, ok in zip(leaves, held, strict=True):
            if ok:
                tx.leaves.append([*self._rows_of(leave), leave.change.before.task_id in tx.came])
        return held

    def _rows_of(self, leave: Leave) -> list[Any]:
        before = leave.change.before
        steps = [word for new in leave.new for word in (_field(new), self._value(new.step))]
        waits = [
            word
            for each in leave.waits
            for word in (each.step.name, str(each.step.number), _wait(each, before.began_at or 0))
        ]
        return [before.task_id, str(max(new.step.at for new in leave.new)), steps, waits]

    async def emit(self, events: Sequence[EventValue]) -> list[EventValue]:
        words: list[bytes | str | int] = []
        for event in events:
            expires = "" if event.expires_at is None else event.expires_at
            words += (event.key, f"{event.at} {expires or '-'} {self._stored(event.text)}", event.at, expires)
        answers = await self._redis.run(scripts.STEPS_EMIT, *words, repeatable=True)
        woken = {event.key: waits for event, (_, waits) in zip(events, answers, strict=True) if waits}
        await self._wake(woken, max((event.at for event in events), default=0))
        return [self._event(event.key, found) for event, (found, _) in zip(events, answers, strict=True)]

    async def _wake(self, woken: Mapping[str, Sequence[bytes]], now: int) -> int:
        """Make tasks due for which events have come, given by their keys as in ``woken:<key>``."""
        each = [(key, waits[at : at + 2]) for key, waits in woken.items() for at in range(0, len(waits), 2)]
        count = 0
        for start in range(0, len(each), READ):
            part = [(key, *map(bytes.decode, wait)) for key, wait in each[start : start + READ]]
            for _ in range(TRIES):
                held = await self._backend.update(list(await self._changes([wait[1:] for wait in part], now)))
                count += sum(held)
                if all(held):  # else one was edited since it was read
                    await self._redis.run(scripts.STEPS_WOKEN, *(word for wait in part for word in wait))
                    break
        return count

    async def _changes(self, waits: Iterable[Sequence[str]], now: int) -> Iterator[Change]:
        """Return the changes of the tasks that wait still, given by fields and values of ``waits:<key>``."""
        began: dict[str, set[int]] = {}  # of each task the runs that were left: one may be of an earlier run
        for field, value in waits:
            began.setdefault(field.split(" ", 1)[1], set()).add(int(value.split(" ", 1)[0]))
        rows = await self._backend.get(list(began))
        both = [(row, row.began_at in began[row.task_id] and woken(row, now)) for row in rows if row is not None]
        return (Change(row, after) for row, after in both if after)

    async def get_events(self, keys: Sequence[str], now: int) -> list[EventValue | None]:
        if not keys:
            return []
        stored = await self._redis.command("HMGET", f"{self._redis.root}events", *keys)
        found = [None if text is None else self._event(key, text) for key, text in zip(keys, stored, strict=True)]
        return [event if event is not None and event.there(now) else None for event in found]

    def _event(self, key: str, stored: bytes) -> EventValue:
        at, expires, text = stored.decode().split(" ", 2)
        until = None if expires == "-" else int(expires)
        return self._plain_event(EventValue(key=key, text=text, at=int(at), expires_at=until))

    async def events(self, now: int, limit: int, *, prefix: str = "", after: str | None = None) -> list[EventValue]:
        found: list[EventValue] = []
        first = f"[{prefix}" if after is None or after.encode() < prefix.encode() else f"({after}"
        while len(found) < limit:
            words = ("events:keys", first, "+", "LIMIT", 0, READ)
            page = await self._redis.command("ZRANGEBYLEX", f"{self._redis.root}{words[0]}", *words[1:])
            keys = [key.decode() for key in page]
            kept = [key for key in keys if key.startswith(prefix)]
            if kept:
                values = await self._redis.command("HMGET", f"{self._redis.root}events", *kept)
                known = [self._event(key, value) for key, value in zip(kept, values, strict=True) if value is not None]
                found += [event for event in known if event.there(now)]
            if len(kept) < READ:
                break
            first = f"({kept[-1]}"
        return found[:limit]

    async def waiting(self, keys: Sequence[str]) -> dict[str, int]:
        counts = {}
        for key in keys:
            found = await self._redis.command("HGETALL", f"{self._redis.root}waits:{key}")
            words = [word.decode() for word in found]
            counts[key] = len(list(await self._changes(zip(words[::2], words[1::2], strict=True), 0)))
        return counts

    async def awaited(self, limit: int, *, prefix: str = "") -> dict[str, int]:
        words = await self._redis.command("SMEMBERS", f"{self._redis.root}awaited")
        keys = sorted(key for key in (word.decode() for word in words) if key.startswith(prefix))[:limit]
        return {key: count for key, count in (await self.waiting(keys)).items() if count}

    async def expire(self, now: int, limit: int) -> int:
        return int(await self._redis.run(scripts.EVENTS_EXPIRE, now, limit, repeatable=True))

    async def orphans(self, limit: int) -> list[str]:
        found: list[str] = []
        cursor: bytes | str = "0"
        while len(found) < limit:
            cursor, ids = await self._redis.run(scripts.STEPS_ORPHANS, cursor, READ, repeatable=True)
            found += [each.decode() for each in ids]
            if cursor == b"0":
                break
        return found[:limit]

    async def drop(self, ids: Sequence[str]) -> None:
        for start in range(0, len(ids), READ):
            await self._redis.run(scripts.STEPS_DROP, *ids[start : start + READ], repeatable=True)

    async def recode(self, ids: Sequence[str]) -> tuple[int, list[str]]:
        if self.codec is None:
            return await super().recode(ids)
        answers = []
        for task_id in ids:
            found = await self._redis.command("HGETALL", f"{self._redis.root}steps:{task_id}")
            read = list(zip(found[::2], found[1::2], strict=True))
            names = [step_name(task_id, _step(field.decode(), value.decode())) for field, value in read]
            answers += await self._recode(f"steps:{task_id}", read, 3, names)
        return recoded(answers)

    async def recode_events(self, keys: Sequence[str]) -> tuple[int, list[str]]:
        if self.codec is None:
            return await super().recode_events(keys)
        if not keys:
            return 0, []
        found = await self._redis.command("HMGET", f"{self._redis.root}events", *keys)
        read = [(key.encode(), value) for key, value in zip(keys, found, strict=True) if value is not None]
        return recoded(await self._recode("events", read, 2, [key.decode() for key, _ in read]))

    async def _recode(
        self, hash: str, read: Sequence[tuple[bytes, bytes]], words: int, names: Sequence[str]
    ) -> list[tuple[str, bool]]:
        """Write the texts anew that are behind so many words of the values of a hash; return which were decoded."""
        changes: list[bytes | str] = []
        answers = []
        for (field, value), name in zip(read, names, strict=True):
            *before, text = value.decode().split(" ", words)
            if not text:
                continue
            anew = self._anew(text)
            answers.append((name, anew is not None))
            if anew is not None:
                changes += (field, value, " ".join([*before, anew]))
        for start in range(0, len(changes), 3 * READ):
            await self._redis.run(scripts.STEPS_RECODE, hash, *changes[start : start + 3 * READ], repeatable=True)
        return answers

    async def mend(self, now: int) -> int:
        keys = [word.decode() for word in await self._redis.command("SMEMBERS", f"{self._redis.root}woken")]
        waits = {key: await self._redis.command("HGETALL", f"{self._redis.root}woken:{key}") for key in keys}
        return await self._wake(waits, now)


def _field(new: NewStep) -> str:
    return f"{new.seq} {new.step.kind} {new.step.number} {new.step.name}"


def _wait(new: NewStep, began_at: int) -> str:
    return f"{began_at} {new.seq} {new.step.n} {new.step.version} {new.step.until}"


def _step(field: str, value: str) -> Step:
    _seq, kind, number, name = field.split(" ", 3)
    n, at, version, text = value.split(" ", 3)
    place = {"number": int(number), "n": int(n), "at": int(at), "version": int(version)}
    return Step(kind=kind, name=name, text=text, **place)  # type: ignore[arg-type]
