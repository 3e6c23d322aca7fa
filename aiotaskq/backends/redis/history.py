"""The history in Redis: a hash for each period; ``lua/include/history.lua`` adds to them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from aiotaskq.backends.history import History
from aiotaskq.backends.redis import scripts
from aiotaskq.backends.redis.connection import RedisConnections
from aiotaskq.core.history import WIDTHS, Period, Roll, added_up
from aiotaskq.core.usage import decode as decode_usage

READ = 100  # hashes in one answer of a script: the server runs no other command meanwhile
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(tuple[str, str, str]).decode


class RedisHistory(History):
    """The keys ``history:…``."""

    def __init__(self, redis: RedisConnections) -> None:
        self._redis = redis

    async def add(self, periods: Sequence[Period]) -> None:
        words: list[bytes | int | str] = []
        for period in added_up(periods):
            words += (period.seconds, period.at, _encode((period.queue, period.type, period.kind)), _value(period))
        if words:
            await self._redis.run(scripts.HISTORY_ADD, *words)

    async def read(self, since: int, until: int, *, queue: str | None = None, type: str | None = None) -> list[Period]:
        found: list[Period] = []
        for seconds in WIDTHS:
            begin = since
            while answer := await self._redis.run(scripts.HISTORY_READ, seconds, begin, until, READ):
                for at, fields in zip(answer[::2], answer[1::2], strict=True):
                    found += [_period(seconds, int(at), *pair) for pair in zip(fields[::2], fields[1::2], strict=True)]
                begin = int(answer[-2]) + 1
        wanted = [period for period in found if queue in (None, period.queue) and type in (None, period.type)]
        return sorted(wanted, key=lambda period: period.key)

    async def roll(self, roll: Roll, limit: int) -> int:
        into = "" if roll.into is None else roll.into
        return int(await self._redis.run(scripts.HISTORY_ROLL, roll.seconds, into, roll.before, limit))


def _value(period: Period) -> str:
    usage = _encode(period.usage).decode() if period.usage else ""
    return f"{period.n} {period.run_us} {period.wait_us}|{period.runs}|{period.waits}|{usage}"


def _period(seconds: int, at: int, field: bytes, value: bytes) -> Period:
    sums, runs, waits, usage = value.decode().split("|", 3)
    n, run_us, wait_us = map(int, sums.split())
    return Period(at, seconds, *_decode(field), n, run_us, wait_us, runs, waits, decode_usage(usage) if usage else {})
