"""The registry of workers in Redis: a hash with the lease of each, and the rows that each holds."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from aiotaskq.backends.redis import scripts
from aiotaskq.backends.redis.connection import RedisConnections
from aiotaskq.backends.redis.heads import owner_word
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
        slots = "" if worker.wanted_concurrency is None else worker.wanted_concurrency
        words = (owner_word(worker.owner), value, int(add), int(worker.quiet), slots)
        return bool(await self._redis.run(scripts.WORKER_WRITE, *words, repeatable=True))

    async def steer(self, owner: str, *, quiet: bool | None = None, concurrency: int | None = None) -> bool:
        words = ("" if quiet is None else int(quiet), "" if concurrency is None else concurrency)
        return bool(await self._redis.run(scripts.WORKER_STEER, owner_word(owner), *words, repeatable=True))

    async def remove(self, worker: WorkerInfo) -> bool:
        return bool(await self._redis.run(scripts.WORKER_REMOVE, owner_word(worker.owner), worker.lease_until))

    async def all(self) -> list[WorkerInfo]:
        words = iter(await self._redis.run(scripts.WORKERS_READ))
        found = [_info(value, quiet, slots) for value, quiet, slots in zip(words, words, words, strict=True)]
        return sorted(found, key=lambda worker: (worker.started_at, worker.owner))

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


def _info(value: bytes, quiet: bytes, slots: bytes) -> WorkerInfo:
    info = _decode(value.partition(b" ")[2])
    return replace(info, quiet=quiet == b"1", wanted_concurrency=int(slots) if slots else None)
