"""Hints between processes through Redis: PUBLISH for those of this process, SUBSCRIBE for those of others."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence

import msgspec

from aiotaskq.backends.listeners import ENDED, KINDS, NOTED, READY, TAKEN, Listeners
from aiotaskq.backends.redis.connection import RedisConnections
from aiotaskq.concurrency.failure_backoff import backoff
from aiotaskq.concurrency.loop_bound import LoopBound
from aiotaskq.errors import AiotaskqError, ClosedError
from aiotaskq.log import log

PING_AFTER = 1.5  # seconds between two pings of the server
BACK_OFF = (0.05, 1.0)  # seconds between attempts to subscribe again: the first, and the longest
MAX_NAMES = 1_000  # ids in one message; with more the message has none, and every listener looks

Message = tuple[str, dict[str, list[str]]]
"""The sender, and the names by kind."""
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Message).decode


class RedisNotifier:
    """Publishes the hints of one backend, and receives those of others once ``listen`` was called.

    Hints that come while a message is being sent go together into the next one. A hint may be lost: an error is logged
    and not raised, since polling goes on.
    """

    def __init__(self, redis: RedisConnections, listeners: Listeners) -> None:
        """Publish what ``listeners`` forwards, and pass it the hints of other processes."""
        self._redis = redis
        self._listeners = listeners
        self._sender = secrets.token_hex(8)
        self.ready = self.message({READY: ()})
        """The message of a push."""
        self._channel = f"{redis.root}hints"
        self._bound = LoopBound()
        self._waiting: dict[str, dict[str, None] | None] = {}  # names by kind; None where there are too many
        self._publisher: asyncio.Task[None] | None = None
        self._listener: asyncio.Task[None] | None = None
        self._listens = False
        listeners.forward = self.forward

    def start(self) -> None:
        """Belong to the running loop from now on, as the connections do."""
        if self._bound.bind():
            self._publisher = self._listener = None
        if self._listens and (self._listener is None or self._listener.done()):
            self._listener = asyncio.create_task(self._receive(), name="aiotaskq-hints")

    def listen(self) -> None:
        """Receive the hints of other processes until ``stop``; idempotent."""
        self._listens = True
        self.start()

    async def stop(self) -> None:
        """Receive no more hints, and wait until those of this process are sent."""
        self._listens = False
        if not self._bound.here:
            return
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.wait([self._listener])
        if self._publisher is not None and not self._publisher.done():
            await asyncio.wait([self._publisher])
        self._bound.release()
        self._listener = self._publisher = None

    # ---- sending ----

    def forward(self, kind: str, names: Sequence[str]) -> None:
        """Send a hint to the other processes soon; from any thread."""
        if self._bound.here:
            self._note(kind, names)
        else:  # without a loop it is not open, so nothing was written
            self._bound.call_soon(self._note, kind, names)

    def _note(self, kind: str, names: Sequence[str]) -> None:
        known = self._waiting.setdefault(kind, {})
        if not names or known is None or len(known) + len(names) > MAX_NAMES:
            self._waiting[kind] = None
        else:
            known.update(dict.fromkeys(names))
        if self._publisher is None or self._publisher.done():
            self._publisher = asyncio.create_task(self._publish(), name="aiotaskq-hints-out")

    def message(self, hints: Mapping[str, Sequence[str]]) -> bytes:
        """Return the message with these names by kind, for a script that publishes it; nothing for no hints."""
        few = {kind: names if len(names) <= MAX_NAMES else () for kind, names in hints.items()}
        return _encode((self._sender, few)) if few else b""

    async def _publish(self) -> None:
        while self._waiting:
            message = self.message({kind: list(names or ()) for kind, names in self._waiting.items()})
            self._waiting.clear()
            try:
                await self._redis.command("PUBLISH", self._channel, message)
            except AiotaskqError as error:
                log.debug("a hint was lost: {}", error)

    # ---- receiving ----

    async def _receive(self) -> None:
        failures = 0
        while True:
            try:
                async with self._redis.subscribed(self._channel, self._handle) as wire:
                    if failures:
                        log.info("{}: hints of other processes are received again", self._redis.shown)
                    failures = 0
                    for kind in (READY, TAKEN, ENDED, NOTED):  # a worker reads the cancel flags of its tasks itself
                        self._listeners.receive(kind)
                    await wire.watch(PING_AFTER)
            except ClosedError:
                return
            except Exception as error:  # of any kind: a receiver that ended would go unnoticed
                if not failures:
                    log.warning("hints of other processes are not received for now, polling goes on: {}", error)
                failures += 1
            await asyncio.sleep(backoff(failures, *BACK_OFF))

    def _handle(self, message: bytes) -> None:
        try:
            sender, hints = _decode(message)
        except msgspec.DecodeError:
            return  # not a message of aiotaskq
        if sender != self._sender:
            for kind, names in hints.items():
                if kind in KINDS:
                    self._listeners.receive(kind, names)
