"""The registry of workers in Redis: a hash with the lease of each, and the rows that each holds."""

from __future__ import annotations

import asyncio

import msgspec
from msgspec.structs import replace

from aiotaskq.backends.redis.connection import RedisConnections
from aiotaskq.backends.redis.reads import READ, read_heads
from aiotaskq.backends.redis.rows import owner_word
from aiotaskq.backends.redis.transaction import RedisTransaction
from aiotaskq.backends.redis.transactions import RedisTransactions
from aiotaskq.backends.workers import Workers
from aiotaskq.core.worker_info import WorkerInfo

_decode = msgspec.json.Decoder(WorkerInfo).decode


class RedisWorkers(Workers):
    """The hash ``workers``."""

    def __init__(self, redis: RedisConnections, transactions: RedisTransactions) -> None:
        self._redis, self._transactions = redis, transactions

    async def register(self, worker: WorkerInfo) -> None:
        word, slots = owner_word(worker.owner), worker.wanted_concurrency
        asked = {f"{word} quiet": worker.quiet and "1", f"{word} slots": slots is not None and str(slots)}

        def body(tx: RedisTransaction) -> None:
            tx.set_fields("workers", {word: _text(worker)})
            tx.set_fields("steered", asked)

        await self._transactions.transact(body, repeatable=True)

    async def heartbeat(self, worker: WorkerInfo) -> bool:
        word = owner_word(worker.owner)

        def body(tx: RedisTransaction) -> bool:
            there = tx.texts("workers", [word])[word] is not None
            if there:
                tx.set_fields("workers", {word: _text(worker)})
            return there

        return await self._transactions.transact(body, repeatable=True)

    async def steer(self, owner: str, *, quiet: bool | None = None, concurrency: int | None = None) -> bool:
        word = owner_word(owner)
        asked = {"quiet": None if quiet is None else str(int(quiet)), "slots": concurrency and str(concurrency)}

        def body(tx: RedisTransaction) -> bool:
            there = tx.texts("workers", [word])[word] is not None
            if there:
                tx.set_fields("steered", {f"{word} {name}": value for name, value in asked.items() if value})
            return there

        return await self._transactions.transact(body, repeatable=True)

    async def remove(self, worker: WorkerInfo) -> bool:
        word = owner_word(worker.owner)

        def body(tx: RedisTransaction) -> bool:
            there = (tx.texts("workers", [word])[word] or b"").startswith(b"%d " % worker.lease_until)
            if there:
                tx.set_fields("workers", {word: False})
                tx.set_fields("steered", {f"{word} quiet": False, f"{word} slots": False})
            return there

        return await self._transactions.transact(body)

    async def all(self) -> list[WorkerInfo]:
        root = self._redis.root
        hashes = (self._redis.command("HGETALL", f"{root}workers"), self._redis.command("HGETALL", f"{root}steered"))
        workers, steered = (dict(zip(words[::2], words[1::2], strict=True)) for words in await asyncio.gather(*hashes))
        found = [
            _info(value, steered.get(b"%b quiet" % word, b""), steered.get(b"%b slots" % word, b""))
            for word, value in workers.items()
        ]
        return sorted(found, key=lambda worker: (worker.started_at, worker.owner))

    async def held(self, owner: str) -> list[tuple[str, int, bool]]:
        found: list[tuple[str, int, bool]] = []
        word = owner_word(owner).encode()
        first = b"[%b " % word
        while True:
            words = (first, b"(%b!" % word, "BYLEX", "LIMIT", 0, READ)
            members = await self._redis.command("ZRANGE", f"{self._redis.root}held", *words)
            ids = [member[len(word) + 21 :] for member in members]
            for task_id, head in zip(ids, await read_heads(self._redis, ids), strict=True):
                if head is not None and head[1] == b"running" and head[4].partition(b"!")[0] == b"@" + word:
                    found.append((task_id.decode(), int(head[2]), head[3] == b"1"))
            if len(members) < READ:
                return found
            first = b"(" + members[-1]


def _text(worker: WorkerInfo) -> str:
    return f"{worker.lease_until} {msgspec.json.encode(worker).decode()}"


def _info(value: bytes, quiet: bytes, slots: bytes) -> WorkerInfo:
    info = _decode(value.partition(b" ")[2])
    return replace(info, quiet=quiet == b"1", wanted_concurrency=int(slots) if slots else None)
