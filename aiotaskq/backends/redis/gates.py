"""Gates in Redis. Tasks pass in the scripts that write rows, and in those of this module; ``lua/include/gates.lua``."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import msgspec

from aiotaskq.backends.gates import Gates
from aiotaskq.backends.listeners import GATES, READY, Listeners
from aiotaskq.backends.redis import scripts
from aiotaskq.backends.redis.connection import RedisConnections
from aiotaskq.core.gate import Bounds, Gate, GateChange, GateState
from aiotaskq.errors import DatabaseUnavailable

MAX_GATES = 1_000  # gates in one call of a script: the server runs no other command meanwhile
MAX_LANES = 100  # lanes read for the tasks that wait at a gate: an answer for people, not for a rule
MAX_LATER = 10_000  # tasks read of those that were not due
ADMITTED = 500  # gates admitted in one call of a script, for the same reason

_decode = msgspec.json.Decoder(Bounds).decode
_encode = msgspec.json.Encoder().encode


class RedisGates(Gates):
    """The gates of one namespace."""

    def __init__(self, redis: RedisConnections, listeners: Listeners, hint: bytes) -> None:
        """``hint``: the message that tasks became ready, which the scripts send to other processes."""
        self._redis, self._listeners, self._hint = redis, listeners, hint

    async def admit(self, now: int, limit: int) -> int | None:
        first, any_due = await self._redis.run(scripts.GATES_ADMIT, self._hint, now, limit)
        if any_due:
            self._listeners.receive(READY)
        return None if first is None else int(float(first))

    async def admit_rest(self, now: int) -> None:
        """Admit the gates that are due at ``now``, in microseconds UTC: a script has left them, since they are many.

        If the server cannot be reached, nothing is raised: what they belong to is written, and a sweep goes on.
        """
        with contextlib.suppress(DatabaseUnavailable):
            while (first := await self.admit(now, ADMITTED)) is not None and first <= now:
                pass

    async def pause(self, queue: str, paused: bool) -> bool:
        """Adapt the gates to a queue that was paused or resumed; return whether some are due."""
        keys, any_due = await self._keys(), False
        cursor: bytes | str = "0"
        while keys:
            part = keys[:MAX_GATES]
            done, cursor, later = await self._redis.run(scripts.PAUSE_GATES, queue, int(paused), cursor, *part)
            del keys[:done]
            any_due = any_due or later == 1
        return any_due

    async def mend(self, now: int) -> int:
        count, any_due = 0, False
        for queue in await self._redis.command("SMEMBERS", f"{self._redis.root}paused"):
            any_due = await self.pause(queue.decode(), True) or any_due
        keys = await self._keys()
        while keys:
            due, done = await self._redis.run(scripts.GATES_MEND, now, *keys[:MAX_GATES])
            count += due
            del keys[:done]
        if count or any_due:
            self._listeners.notify(GATES)
        return count

    async def find(self, keys: Sequence[str] | None = None, limit: int = 1_000, *, prefix: str = "") -> list[GateState]:
        wanted = sorted(key for key in await self._keys() if key.startswith(prefix)) if keys is None else keys
        found: list[GateState] = []
        for start in range(0, len(wanted), MAX_GATES):
            part = wanted[start : start + MAX_GATES]
            words = iter(await self._redis.run(scripts.GATES_FIND, *part))
            for key, text, held, waiting in zip(part, words, words, words, strict=True):
                if text:
                    found.append(GateState(gate=_gate(key, text), held=held, waiting=waiting))
            if len(found) >= limit:
                break
        return found[:limit]

    async def tasks(self, key: str, limit: int) -> tuple[list[str], list[str]]:
        root, name = self._redis.root.encode(), key.encode()
        slot_list = await self._redis.command("HGET", root + b"slots", name)
        if slot_list == b"":  # they are in a set
            held = await self._redis.command("SRANDMEMBER", root + b"slots:" + name, limit)
        else:
            held = [] if slot_list is None else slot_list.split(b"\n")[:limit]
        waiting: list[tuple[int, float, bytes]] = []
        for lane in await self._redis.command("ZRANGE", root + b"lines:" + name, 0, MAX_LANES - 1):
            line = b"%bwait:%d:%b:%b" % (root, len(lane), lane, name)
            words = iter(await self._redis.command("ZRANGE", line, 0, limit - 1, "WITHSCORES"))
            priority = int(lane.partition(b":")[0])
            waiting += [(priority, float(due), stamp) for stamp, due in zip(words, words, strict=True)]
        words = iter(await self._redis.command("ZRANGE", root + b"later:" + name, 0, MAX_LATER - 1, "WITHSCORES"))
        for member, due in zip(words, words, strict=True):
            length, _, rest = member.partition(b":")
            waiting.append((int(rest.partition(b":")[0]), float(due), rest[int(length) :]))
        ids = [stamp[20:] for _, _, stamp in sorted(waiting)[:limit]]
        return [each.decode() for each in sorted(held)], [each.decode() for each in ids]

    async def change(self, key: str, change: GateChange, now: int) -> Gate:
        bounds = _encode(change.bounds) if change.bounds else b""
        closed = "" if change.closed_until is None else change.closed_until
        words = (self._hint, key, now, bounds, int(change.declared), closed, change.closed_at_least, change.charge)
        text, later = await self._redis.run(scripts.GATES_CHANGE, *words, int(change.unless_fixed))
        self._listeners.receive(READY)
        if later:
            self._listeners.receive(GATES)
            await self.admit_rest(now)
        return _gate(key, text)

    async def _keys(self) -> list[str]:
        return [key.decode() for key in await self._redis.command("HKEYS", f"{self._redis.root}gates")]


def _gate(key: str, text: bytes) -> Gate:
    """Return a gate as ``lua/include/gate.lua`` writes it."""
    tat, closed, next_at, charged, fixed, bounds = text.split(b" ", 5)
    return Gate(
        key=key,
        bounds=_decode(bounds),
        fixed=fixed == b"1",
        tat=int(tat),
        charged_until=int(charged),
        closed_until=int(closed),
        next_at=None if next_at == b"-" else int(next_at),
    )
