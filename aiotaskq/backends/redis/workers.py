"""The registry of workers in Redis: a hash with the lease of each, and the rows that each holds."""

from __future__ import annotations

from collections.abc import Callable

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
        await self._transactions.transact(lambda tx: tx.set_fields("workers", _field(worker)), repeatable=True)

    async def heartbeat(self, worker: WorkerInfo) -> bool:
        def written(known: WorkerInfo) -> WorkerInfo:
            return replace(worker, quiet=known.quiet, wanted_concurrency=known.wanted_concurrency)

        return await self._change(worker.owner, written)

    async def steer(self, owner: str, *, quiet: bool | None = None, concurrency: int | None = None) -> bool:
        def written(known: WorkerInfo) -> WorkerInfo:
            asked = {"quiet": quiet, "wanted_concurrency": concurrency}
            return replace(known, **{name: value for name, value in asked.items() if value is not None})

        return await self._change(owner, written)

    async def _change(self, owner: str, written: Callable[[WorkerInfo], WorkerInfo]) -> bool:
        word = owner_word(owner)

        def body(tx: RedisTransaction) -> bool:
            if (text := tx.texts("workers", [word])[word]) is not None:
                tx.set_fields("workers", _field(written(_decode(text))))
            return text is not None

        return await self._transactions.transact(body, repeatable=True)

    async def remove(self, worker: WorkerInfo) -> bool:
        word = owner_word(worker.owner)

        def body(tx: RedisTransaction) -> bool:
            text = tx.texts("workers", [word])[word]
            if text is None or _decode(text).lease_until != worker.lease_until:
                return False
            tx.set_fields("workers", {word: False})
            return True

        return await self._transactions.transact(body)

    async def all(self) -> list[WorkerInfo]:
        found = map(_decode, await self._redis.command("HVALS", f"{self._redis.root}workers"))
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


def _field(worker: WorkerInfo) -> dict[str, str]:
    return {owner_word(worker.owner): msgspec.json.encode(worker).decode()}
