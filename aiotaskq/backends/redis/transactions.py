"""Transactions in Redis: a function reads rows and decides, and one script writes what it has decided.

The function is plain, and changes nothing but its ``RedisTransaction``, so it may run several times. It is left where
it reads what is not known yet; that is read, and the function runs again. The script, ``lua/commit.lua``, compares the
digests of all that was read, also of what is missing, and writes nothing if one has changed: then the function runs
again on fresh reads. After its first conflict a transaction waits for the others of this process with a conflict at the
same place. After ``OPTIMISTIC`` conflicts it also pauses for a random time, since other processes have conflicts, too.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar
from weakref import WeakValueDictionary

from aiotaskq.backends.base import Backend
from aiotaskq.backends.change import Claim
from aiotaskq.backends.flow.transaction import Holder, Store
from aiotaskq.backends.redis.connection import RedisConnections
from aiotaskq.backends.redis.reads import Reads, Unread
from aiotaskq.backends.redis.rows import NO_CLAIM, claim_words, to_text
from aiotaskq.backends.redis.side_rows import RedisOwnedRows
from aiotaskq.backends.redis.transaction import RedisTransaction
from aiotaskq.backends.side_rows import SideRow
from aiotaskq.concurrency.failure_backoff import backoff
from aiotaskq.core.errors import queue_full
from aiotaskq.errors import DatabaseUnavailable

T = TypeVar("T")
Message = Callable[[Mapping[str, Sequence[str]]], bytes]

OPTIMISTIC = 3
SWEPT = 200  # gates that are admitted in one transaction
BACK_OFF = (0.001, 0.02)  # seconds after a conflict: the first, and the longest


class RedisTransactions(Store):
    """Runs functions in transactions of one namespace."""

    wakes_later = True  # one emit does not keep the server busy, nor repeat while tasks begin to wait

    def __init__(self, redis: RedisConnections, backend: Backend, message: Message) -> None:
        """``message`` returns hints as they are published. The rest is what ``backend`` has made by the first call."""
        self._redis, self._backend, self._message = redis, backend, message
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # by what has changed

    async def transact(self, body: Callable[[RedisTransaction], T], *, repeatable: bool = False) -> T:
        """Do as ``Store.transact``."""
        return (await self.write(body, NO_CLAIM, repeatable))[0]

    async def write(
        self, body: Callable[[RedisTransaction], T], claim: Claim, repeatable: bool = False
    ) -> tuple[T, list[bytes] | None]:
        """Run ``body`` in one transaction, write what it has decided, and then claim.

        Return its result and the claimed rows, None where it writes nothing. ``body`` may run several times.
        ``repeatable``: the commit is sent again if its connection is lost, since ``body`` finds what it has written.
        The gates that it has left, since too many tasks pass, are admitted after it. Raises QueueFull, and what
        ``body`` raises.
        """
        reads = Reads(self._redis)
        async with contextlib.AsyncExitStack() as locks:
            conflicts = 0
            refused: set[int] = set()
            others: dict[str, str] = {}
            while True:
                tx = RedisTransaction(reads, self._backend.groups.messages, self._backend.codec, refused, others)
                tx.side = RedisOwnedRows(tx)
                try:
                    result = body(tx)
                    tx.settle()
                    words = tx.words()
                except Unread as unread:
                    await reads.fetch(unread.names)
                    continue
                if words is None:
                    return result, None
                hints = tx.hints()
                hint = self._message(hints)
                answer = await self._redis.run("commit", hint, *claim_words(claim), *words, repeatable=repeatable)
                if answer[0] == -2:
                    refused.update(tx.updates[to_text(name)] for name in answer[1])
                    continue
                if answer[0] == -3:
                    parts = [[to_text(name) for name in part] for part in answer[1:]]
                    others.update(zip(*parts, strict=True))
                    continue
                if answer[0]:
                    break
                conflicts += 1
                name = to_text(answer[1])
                if conflicts == 1:
                    await locks.enter_async_context(self._locks.setdefault(name, asyncio.Lock()))
                if conflicts >= OPTIMISTIC:
                    await asyncio.sleep(backoff(conflicts - OPTIMISTIC + 1, *BACK_OFF))
                refused.clear()
                others.clear()
                await reads.again()
        if answer[0] == -1 and tx.room is not None:
            raise queue_full(tx.room.maxsize, answer[1])
        for kind, names in hints.items():
            self._backend.listeners.receive(kind, names)
        if tx.touched.followed:
            self._backend.groups.note(tx.touched.followed)
        if tx.is_partial and not tx.touched.swept:
            with contextlib.suppress(DatabaseUnavailable):  # what was asked for is written; a sweep goes on
                now = tx.touched.now
                while (next_at := await self._backend.gates.admit(now, SWEPT)) is not None and next_at <= now:
                    pass
        return result, answer[1]

    async def add_held(self, kind: str, rows: Sequence[SideRow], holders: Sequence[Holder]) -> list[str | None]:
        """Do as ``Store.add_held``."""
        words: list[str | int] = []
        for row, (fence, seq) in zip(rows, holders, strict=True):
            words += (row.owner, fence, seq, row.name, row.text)
        found = await self._redis.run("side_add", kind, *words, repeatable=True)
        return [None if text is None else text.decode() for text in found]
