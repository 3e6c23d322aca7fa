"""Transactions in Redis: a function reads rows and decides, and one script writes what it has decided.

The function is plain, and changes nothing but its ``RedisTransaction``, so it may run several times. It is left where
it reads what is not known yet; that is read, and the function runs again. The script, ``lua/commit.lua``, compares the
digests of all that was read, also of what is missing, and writes nothing if one has changed: then the function runs
again on fresh reads. After a conflict it waits for others of this process that met one there, and after ``OPTIMISTIC``
conflicts for those of other processes: with a lock in Redis. The locks only save attempts, and may be lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TypeVar
from weakref import WeakValueDictionary

from aiotaskq.backends.base import Room
from aiotaskq.backends.flow.touched import Followed
from aiotaskq.backends.listeners import Listeners
from aiotaskq.backends.redis import scripts
from aiotaskq.backends.redis.connection import RedisConnections
from aiotaskq.backends.redis.reads import Reads, Unread
from aiotaskq.backends.redis.transaction import Messages, RedisTransaction
from aiotaskq.core.errors import queue_full
from aiotaskq.errors import DatabaseUnavailable

T = TypeVar("T")
Message = Callable[[Mapping[str, Sequence[str]]], bytes]

OPTIMISTIC = 3
LOCKED_FOR = 1_000  # milliseconds; then the lock of a process that was killed is free
LOOK_AGAIN = (0.001, 0.02)  # seconds between two attempts to lock


class RedisTransactions:
    """Runs functions in transactions of one namespace."""

    def __init__(self, redis: RedisConnections, listeners: Listeners, message: Message) -> None:
        """``message`` returns hints as they are published."""
        self._redis, self._listeners, self._message = redis, listeners, message
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # by what has changed
        self.messages: Messages = lambda _ended, _now: []
        """As ``Groups.messages``."""
        self.followed: Callable[[Followed], None] = lambda _more: None
        """Called with what has followed, after the commit."""
        self.go_on: Callable[[int], Awaitable[None]]
        """Called to admit the gates that are due, since a transaction has left them."""

    async def run(
        self,
        body: Callable[[RedisTransaction], T],
        *,
        room: Room | None = None,
        repeatable: bool = False,
        goes_on: bool = True,
    ) -> T:
        """Run ``body`` in one transaction, write what it has decided, and return its result.

        ``body`` may run several times. With ``room`` the tasks that it pushes have to fit. ``repeatable``: the commit
        is sent again if its connection is lost, since ``body`` finds what it has written. ``goes_on``: the gates are
        admitted after it that it has left, since too many tasks pass. Raises QueueFull, and what
        ``body`` raises.
        """
        reads = Reads(self._redis)
        async with contextlib.AsyncExitStack() as locks:
            conflicts = 0
            refused: set[int] = set()
            others: dict[str, str] = {}
            came: set[str] = set()
            while True:
                tx = RedisTransaction(reads, self.messages, refused, others)
                tx.room, tx.came = room, came
                try:
                    result = body(tx)
                    tx.settle()
                    words = tx.words()
                except Unread as unread:
                    await reads.fetch(unread.names, unread.gates)
                    continue
                if words is None:
                    return result
                hints = tx.hints()
                hint = self._message(hints)
                answer = await self._redis.run(scripts.COMMIT, hint, *words, repeatable=repeatable)
                if answer[0] == -2:
                    refused.update(tx.updates[tx.changed_id(number)] for number in answer[1])
                    continue
                if answer[0] == -3:
                    parts = [[name.decode(errors="backslashreplace") for name in part] for part in answer[1:]]
                    others.update(zip(*parts, strict=True))
                    continue
                if answer[0] == -4:
                    came ^= {name.decode(errors="backslashreplace") for name in answer[1]}
                    continue
                if answer[0]:
                    break
                conflicts += 1
                name = answer[1].decode(errors="backslashreplace")
                if conflicts == 1:
                    await locks.enter_async_context(self._locks.setdefault(name, asyncio.Lock()))
                if conflicts == OPTIMISTIC:
                    await locks.enter_async_context(self._locked(name))
                refused.clear()
                others.clear()
                await reads.again()
        if answer[0] == -1 and room is not None:
            raise queue_full(room.maxsize, answer[1])
        for kind, names in hints.items():
            self._listeners.receive(kind, names)
        if tx.touched.followed:
            self.followed(tx.touched.followed)
        if goes_on and tx.is_partial:
            with contextlib.suppress(DatabaseUnavailable):  # what was asked for is written; a sweep goes on
                await self.go_on(tx.touched.now)
        return result

    @contextlib.asynccontextmanager
    async def _locked(self, name: str) -> AsyncIterator[None]:
        key, owner = f"lock:{name}", secrets.token_hex(8)
        words = ("SET", self._redis.root + key, owner, "NX", "PX", LOCKED_FOR)
        while True:
            if await self._redis.command(*words):
                break
            await asyncio.sleep(random.uniform(*LOOK_AGAIN))
        try:
            yield
        finally:
            await self._redis.run(scripts.UNLOCK, key, owner)
