"""Hints between processes: what this one tells the others through Redis, and what it hears from them."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Sequence

import msgspec

from aiotaskq.backends.base import ENDED, KINDS, READY, TAKEN, Hints
from aiotaskq.backends.redis.connection import RedisLink
from aiotaskq.errors import AiotaskqError, ClosedError
from aiotaskq.log import log

PING_AFTER = 1.5  # seconds of silence after which the server is asked whether it is still there, and given to answer
BACK_OFF = (0.05, 1.0)  # seconds between attempts to subscribe again: the first, and the longest
MOST_NAMES = 1_000  # ids in one message; more are not named, and everybody looks

Message = tuple[str, dict[str, list[str]]]
"""Who says it, and what: the names by kind."""
_decode = msgspec.json.Decoder(Message).decode


class RedisHints:
    """Publishes the hints of one backend, and listens for those of others once ``listen`` was called.

    What is told while a message is on its way goes together into the next one. A hint may be lost, so nothing here
    fails: polling goes on.
    """

    def __init__(self, link: RedisLink, hints: Hints) -> None:
        self._link = link
        self._hints = hints
        self._me = secrets.token_hex(8)
        self._channel = f"{link.root}hints"
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0
        self._waiting: dict[str, dict[str, None] | None] = {}  # names by kind; None when not all are known
        self._publisher: asyncio.Task[None] | None = None
        self._listener: asyncio.Task[None] | None = None
        self._listens = False
        hints.forward = self.forward

    def start(self) -> None:
        """Belong to the running loop from now on, as the link does."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop or self._pid != os.getpid():
            self._loop, self._pid, self._publisher, self._listener = loop, os.getpid(), None, None
        if self._listens and (self._listener is None or self._listener.done()):
            self._listener = asyncio.create_task(self._listen(), name="aiotaskq-hints")

    def listen(self) -> None:
        """Tell this process's listeners what others do, until ``stop``; idempotent."""
        self._listens = True
        self.start()

    async def stop(self) -> None:
        """Hear no more, and let what was told go out."""
        self._listens = False
        if self._loop is not asyncio.get_running_loop() or self._pid != os.getpid():
            return
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.wait([self._listener])
        if self._publisher is not None and not self._publisher.done():
            await asyncio.wait([self._publisher])
        self._loop = self._listener = self._publisher = None

    # ---- telling ----

    def forward(self, kind: str, names: Sequence[str]) -> None:
        """Tell the other processes soon; from any thread."""
        loop = self._loop
        if loop is None or loop.is_closed():
            return  # not open: nothing was written that anybody could look for
        try:
            here = asyncio.get_running_loop() is loop
        except RuntimeError:
            here = False
        if here:
            self._note(kind, names)
        else:
            loop.call_soon_threadsafe(self._note, kind, names)

    def _note(self, kind: str, names: Sequence[str]) -> None:
        known = self._waiting.setdefault(kind, {})
        if not names or known is None or len(known) + len(names) > MOST_NAMES:
            self._waiting[kind] = None
        else:
            known.update(dict.fromkeys(names))
        if self._publisher is None or self._publisher.done():
            self._publisher = asyncio.create_task(self._publish(), name="aiotaskq-hints-out")

    async def _publish(self) -> None:
        while self._waiting:
            told = {kind: list(names or ()) for kind, names in self._waiting.items()}
            self._waiting.clear()
            try:
                await self._link.command("PUBLISH", self._channel, msgspec.json.encode((self._me, told)))
            except AiotaskqError as error:
                log.debug("a hint was lost: {}", error)

    # ---- hearing ----

    async def _listen(self) -> None:
        pause, failing = BACK_OFF[0], False
        while True:
            try:
                async with self._link.subscribed(self._channel) as message:
                    if failing:
                        log.info("{} is heard again", self._link.shown)
                    pause, failing = BACK_OFF[0], False
                    self._hear_what_was_missed()
                    while True:
                        self._hear(await message(PING_AFTER))
            except ClosedError:
                return
            except Exception as error:  # whatever it was: nobody would notice a listener that has ended
                if not failing:
                    log.warning("hints of other processes are not heard for now, polling goes on: {}", error)
                failing = True
            await asyncio.sleep(pause)
            pause = min(2 * pause, BACK_OFF[1])

    def _hear_what_was_missed(self) -> None:
        for kind in (READY, TAKEN, ENDED):  # who runs a task that is to stop asks for that himself
            self._hints.hear(kind)

    def _hear(self, message: bytes | None) -> None:
        if message is None:
            return
        try:
            who, told = _decode(message)
        except msgspec.DecodeError:
            return  # somebody else's words on our channel
        if who != self._me:
            for kind, names in told.items():
                if kind in KINDS:
                    self._hints.hear(kind, names)
