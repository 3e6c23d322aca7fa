"""The registry of workers in Redis: a hash with the lease of each, and the rows that each holds."""

from __future__ import annotations

import msgspec

from aiotaskq.backends.redis import scripts
from aiotaskq.backends.redis.connection import RedisConnections
from aiotaskq.backends.redis.rows import owner_word
from aiotaskq.backends.workers import Workers
from aiotaskq.core.worker_info import WorkerInfo

READ = 1_000  # rows in one answer of a script: the server runs no other command meanwhile
_decode = msgspec.json.Decoder(WorkerInfo).decode


class RedisWorkers(Workers):
    """The hash ``workers``."""

    def __init__(self, redis: RedisConnections) -> None:
        self._redis = redis

    async def register(self, worker: WorkerInfo) -> None:
        await self._write(worker, add=True)

    async def heartbeat(self, worker: WorkerInfo) -> bool:
        return await self._write(worker, add=False)

    async def _write(self, worker: WorkerInfo, add: bool) -> bool:
        value = b"%d %b" % (worker.lease_until, msgspec.json.encode(worker))
        words = (owner_word(worker.owner), value, int(add))
        return bool(await self._redis.run(scripts.WORKER_WRITE, *words, repeatable=True))

    async def remove(self, worker: WorkerInfo) -> bool:
        return bool(await self._redis.run(scripts.WORKER_REMOVE, owner_word(worker.owner), worker.lease_until))

    async def all(self) -> list[WorkerInfo]:
        rows = await self._redis.command("HGETALL", f"{self._redis.root}workers")
        workers = [_decode(row.partition(b" ")[2]) for row in rows[1::2]]
        return sorted(workers, key=lambda worker: (worker.started_at, worker.owner))

    async def held(self, owner: str) -> list[tuple[str, int, bool]]:
        found: list[tuple[str, int, bool]] = []
        last: bytes | str = ""
        while True:
            last, *words = await self._redis.run(scripts.HELD, owner_word(owner), last, READ)
            rows = iter(words)
            found += [
                (name.decode(), int(fence), flag == b"1") for name, fence, flag in zip(rows, rows, rows, strict=True)
            ]
            if not last:
                return found
