"""What is read of gates and groups in Redis."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from aiotaskq.backends.gates import GateReads
from aiotaskq.backends.groups import GroupReads
from aiotaskq.backends.redis.connection import RedisConnections
from aiotaskq.backends.redis.gate_rows import sized
from aiotaskq.backends.redis.reads import READ, many, newest_stamps, read_state, stamp_of, to_members
from aiotaskq.backends.redis.rows import to_text
from aiotaskq.backends.redis.transaction import RedisTransaction
from aiotaskq.core.gate import GateState
from aiotaskq.core.groups import GroupState, Member
from aiotaskq.core.status import PENDING

if TYPE_CHECKING:
    from aiotaskq.backends.redis.transactions import RedisTransactions

QUEUES = 100  # of which the tasks are read that wait at a gate: an answer for people, not for a rule
LATER = 10_000  # tasks read of those that were not due


class RedisGateReads(GateReads):
    """The gates of one namespace."""

    def __init__(self, redis: RedisConnections, transactions: RedisTransactions) -> None:
        self._redis, self._transactions = redis, transactions

    async def due(self, now: int, limit: int) -> tuple[list[str], int | None]:
        key = f"{self._redis.root}gates:due"
        words = await self._redis.command("ZRANGE", key, 0, max(limit - 1, 0), "WITHSCORES")
        ats = [int(float(score)) for score in words[1::2]]
        due = [name.decode() for name, at in zip(words[::2], ats, strict=True) if at <= now]
        return due[:limit], min(ats, default=None)

    async def known(self) -> dict[str, None]:
        names = await self._redis.command("HKEYS", f"{self._redis.root}gates")
        return dict.fromkeys(name.decode() for name in names)

    async def of_queue(self, queue: str, held: bool) -> list[str]:
        keys = list(await self.known())
        if held:
            return keys
        found: list[str] = []
        for start in range(0, len(keys), READ):
            part = keys[start : start + READ]
            there = await many(self._redis, [("EXISTS", f"wait:{sized(queue)}:{key}") for key in part])
            found += [key for key, exists in zip(part, there, strict=True) if exists]
        return found

    async def find(self, keys: Sequence[str] | None = None, limit: int = 1_000, *, prefix: str = "") -> list[GateState]:
        wanted = sorted(key for key in await self.known() if key.startswith(prefix)) if keys is None else keys
        found: list[GateState] = []
        for start in range(0, len(wanted), READ):
            part = wanted[start : start + READ]
            rows = (await self._transactions.look(partial(RedisTransaction.read, kind="gates", names=part))).values()
            found += [GateState(gate=each.gate, held=each.held, waiting=each.waiting) for each in rows if each.gate]
            if len(found) >= limit:
                break
        return found[:limit]

    async def tasks(self, key: str, limit: int) -> tuple[list[str], list[str]]:
        root, slots = self._redis.root, sized(key)
        words = ("ZRANGE", f"{root}slots", f"[{slots}:", f"({slots};", "BYLEX", "LIMIT", 0, limit)
        held = [member[len(slots.encode()) + 1 :] for member in await self._redis.command(*words)]
        waiting: list[bytes] = []
        for queue in await self._redis.command("ZRANGE", f"{root}lines:{key}", 0, QUEUES - 1):
            line = b"%bwait:%d:%b:%b" % (root.encode(), len(queue), queue, key.encode())
            for low, high, most in (("0", "0", limit), ("(0", "+inf", LATER)):
                waiting += await self._redis.command("ZRANGEBYSCORE", line, low, high, "LIMIT", 0, most)
        return [each.decode() for each in held], [each[48:].decode() for each in sorted(waiting)[:limit]]


class RedisGroupReads(GroupReads):
    """The groups of one namespace."""

    def __init__(self, redis: RedisConnections, transactions: RedisTransactions) -> None:
        self._redis, self._transactions = redis, transactions

    async def _get(self, ids: Sequence[str]) -> list[GroupState]:
        return list((await self._transactions.transact(lambda tx: tx.groups(ids))).values())

    async def find(self, limit: int, *, after: str | None = None, ended: bool | None = None) -> list[GroupState]:
        which = ["live", "ended"] if ended is None else ["ended" if ended else "live"]
        found: list[GroupState] = []
        last = None
        if after is not None:
            if not (known := await self._get([after])):
                return found
            last = stamp_of(known[0]).encode()
        keys = [f"groups:{name}" for name in which]
        while stamps := await newest_stamps(self._redis, keys, last, min(limit - len(found), READ)):
            found += await self._get([to_text(stamp[20:]) for stamp in stamps])
            last = stamps[-1]
        return found

    async def members(self, group_id: str, limit: int, *, start: int = 0) -> list[Member]:
        key = f"{self._redis.root}members:{group_id}"
        return to_members(group_id, await self._redis.command("LRANGE", key, start, start + limit - 1), start)

    async def cancelling(self, limit: int) -> list[str]:
        names = await self._redis.command("ZRANGE", f"{self._redis.root}groups:cancelling", 0, limit - 1)
        return [name.decode() for name in names]

    async def over(self, before: int, limit: int) -> list[str]:
        words = ("-inf", f"({before}", "LIMIT", 0, limit)
        names = await self._redis.command("ZRANGEBYSCORE", f"{self._redis.root}groups:done", *words)
        return [name.decode() for name in names]

    async def children(self, limit: int, after: str) -> tuple[list[str], str]:
        words = (f"({after}" if after else "-", "+", "LIMIT", 0, limit)
        stamps = await self._redis.command("ZRANGEBYLEX", f"{self._redis.root}is:live", *words)
        ids = [stamp[20:] for stamp in stamps]
        texts = await self._redis.command("HMGET", f"{self._redis.root}state", *ids) if ids else ()
        rows = [read_state(to_text(task_id), text) for task_id, text in zip(ids, texts, strict=True)]
        found = [row.task.task_id for row in rows if row is not None and row.task.waits and row.task.status is PENDING]
        return found, stamps[-1].decode() if len(stamps) == limit else ""
