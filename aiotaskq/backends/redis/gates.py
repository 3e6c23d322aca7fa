"""Gates in Redis: ``backends.flow.gates`` in transactions."""

from __future__ import annotations

from collections.abc import Sequence

from aiotaskq.backends.flow.gates import admit_due
from aiotaskq.backends.gates import Gates
from aiotaskq.backends.listeners import READY, Listeners
from aiotaskq.backends.redis.connection import RedisConnections
from aiotaskq.backends.redis.gate_reads import Wanted
from aiotaskq.backends.redis.gate_texts import read_gate, sized
from aiotaskq.backends.redis.transaction import RedisTransaction
from aiotaskq.backends.redis.transactions import RedisTransactions
from aiotaskq.core.gate import Gate, GateChange, GateState, is_idle, read_ahead

READ = 1_000  # gates in one answer: the server runs no other command meanwhile
PART = 200  # gates in one transaction that looks at their tasks
QUEUES = 100  # of which the tasks are read that wait at a gate: an answer for people, not for a rule
LATER = 10_000  # tasks read of those that were not due


class RedisGates(Gates):
    """The gates of one namespace."""

    def __init__(self, redis: RedisConnections, listeners: Listeners, transactions: RedisTransactions) -> None:
        self._redis, self._listeners, self._transactions = redis, listeners, transactions
        transactions.go_on = self._go_on

    async def admit(self, now: int, limit: int) -> int | None:
        key = f"{self._redis.root}gates:due"
        due = await self._redis.command("ZRANGEBYSCORE", key, "-inf", now, "LIMIT", 0, limit)
        if due:
            keys = sorted(name.decode() for name in due)
            await self._transactions.run(lambda tx: _sweep(tx, keys, now), goes_on=False)
            self._listeners.notify(READY)
        first = await self._redis.command("ZRANGE", key, 0, 0, "WITHSCORES")
        return int(float(first[1])) if first else None

    async def _go_on(self, now: int) -> None:
        while (first := await self.admit(now, PART)) is not None and first <= now:
            pass

    async def pause(self, queue: str, paused: bool) -> None:
        """Adapt the gates to a queue that was paused or resumed."""
        keys = await self._keys()
        for start in range(0, len(keys), PART):
            part = keys[start : start + PART]
            await self._transactions.run(lambda tx, part=part: _adapt(tx, part, queue, paused))  # type: ignore[misc]

    async def mend(self, now: int) -> int:
        for queue in await self._redis.command("SMEMBERS", f"{self._redis.root}paused"):
            await self.pause(queue.decode(), True)
        count, keys = 0, await self._keys()
        for start in range(0, len(keys), PART):
            part = keys[start : start + PART]
            count += await self._transactions.run(lambda tx, part=part: _mend(tx, part, now))  # type: ignore[misc]
        return count

    async def find(self, keys: Sequence[str] | None = None, limit: int = 1_000, *, prefix: str = "") -> list[GateState]:
        wanted = sorted(key for key in await self._keys() if key.startswith(prefix)) if keys is None else keys
        found: list[GateState] = []
        for start in range(0, len(wanted), READ):
            part = wanted[start : start + READ]
            texts = await self._redis.command("HMGET", f"{self._redis.root}gates", *part)
            for key, text in zip(part, texts, strict=True):
                if text is not None:
                    gate, _, held, waiting = read_gate(key, text)
                    assert gate is not None
                    found.append(GateState(gate=gate, held=held, waiting=waiting))
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
            waiting += await self._redis.command("ZRANGE", line, 0, limit - 1)
        for member in await self._redis.command("ZRANGE", f"{root}later:{key}", 0, LATER - 1):
            length, _, rest = member.partition(b":")
            waiting.append(rest[int(length) :])
        return [each.decode() for each in held], [each[48:].decode() for each in sorted(waiting)[:limit]]

    async def change(self, key: str, change: GateChange, now: int) -> Gate:
        def body(tx: RedisTransaction) -> Gate:
            tx.touched.changed(key, change, now)
            tx.settle()
            return tx.gates({key: None})[key]

        gate = await self._transactions.run(body)
        self._listeners.notify(READY)
        return gate

    async def _keys(self) -> list[str]:
        return [key.decode() for key in await self._redis.command("HKEYS", f"{self._redis.root}gates")]


def _sweep(tx: RedisTransaction, keys: Sequence[str], now: int) -> None:
    tx.want(Wanted(gates=keys, waiting=dict.fromkeys(keys, 2), later=dict.fromkeys(keys, now)))
    tx.admitted = admit_due(tx, keys, now)


def _adapt(tx: RedisTransaction, keys: Sequence[str], queue: str, paused: bool) -> None:
    tx.want(
        Wanted(
            gates=keys, holders=keys if paused else (), waiting={} if paused else dict.fromkeys(keys, 1), paused=True
        )
    )
    if (queue in tx.paused_queues()) != paused:
        return  # changed again
    if paused:
        tx.touched.park(keys, queue)
    else:
        tx.touched.make_due(tx.awaited(keys, queue))


def _mend(tx: RedisTransaction, keys: Sequence[str], now: int) -> int:
    """Do as ``Gates.mend`` for these gates; the counts that are wrong are corrected, too."""
    tx.want(Wanted(gates=keys, holders=keys, counted=keys))
    due = []
    for key, gate in tx.stored_gates(keys).items():
        is_wrong = tx.recount(key)
        held, waiting = tx.counts(key)
        if held == waiting == 0 and is_idle(gate, now):
            tx.drop_gate(key)
        elif waiting and gate.next_at is None and (is_wrong or read_ahead(gate, now).may_pass(held)):
            due.append(key)
    tx.touched.make_due(due)
    return len(due)
