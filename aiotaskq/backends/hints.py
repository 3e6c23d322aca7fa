"""Hints between processes over a channel of the server: what the stores that have one share."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence

import msgspec

from aiotaskq.backends.listeners import CANCEL, ENDED, KINDS, NOTED, READY, TAKEN, Listeners
from aiotaskq.concurrency.failure_backoff import backoff
from aiotaskq.concurrency.loop_bound import LoopBound, running_loop_or_none
from aiotaskq.errors import AiotaskqError, ClosedError
from aiotaskq.log import log

MOST_NAMES = 1_000
"""Ids of one kind that are sent. If there are more, none is: every listener looks for itself."""

Message = tuple[str, dict[str, list[str]]]
"""The sender, and the names by kind."""
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Message).decode


class HintChannel:
    """Sends the hints of one backend, and receives those of others once ``listen`` was called.

    Hints of one kind that come while one is being sent go together into the next message. A hint may be lost: an error
    is logged and not raised, since polling goes on.
    """

    def __init__(self, listeners: Listeners, shown: str, back_off: tuple[float, float]) -> None:
        """Send what ``listeners`` forwards, and pass it the hints of other processes. ``shown`` is the masked URL.

        ``back_off``: seconds between attempts to listen again, the first and the longest.
        """
        self._listeners, self._shown, self._back_off = listeners, shown, back_off
        self._sender = secrets.token_hex(8)
        self._bound = LoopBound()
        self.renew()
        listeners.forward = self.forward

    def bind(self) -> None:
        """Belong to the running loop."""
        if self._bound.bind():
            self.renew()

    def renew(self) -> None:
        """Forget the tasks of a loop that is gone, or of a parent process: they have gone with it."""
        self._waiting: dict[str, dict[str, None] | None] = {}  # names by kind; None where not all are known
        self._senders: dict[str, asyncio.Task[None]] = {}
        self._listener: asyncio.Task[None] | None = None

    def listen(self) -> None:
        """Receive the hints of other processes in the running loop, until ``stop``; idempotent."""
        self.bind()
        if self._listener is None or self._listener.done():
            self._listener = asyncio.create_task(self._listen(), name="aiotaskq-listen")

    async def stop(self) -> None:
        """Receive no more hints, and wait until those of this process are sent; idempotent."""
        if not self._bound.here:
            return
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.cancel()
            await asyncio.wait([listener])
        while any(map(self._sends, self._senders)):
            await asyncio.wait(self._senders.values())

    # ---- what differs between servers ----

    async def turn(self, kind: str) -> None:
        """Wait until a hint of this kind may be sent."""

    async def send(self, kind: str, names: Sequence[str]) -> None:
        """Send a hint to the other processes."""
        raise NotImplementedError

    async def follow(self, begun: Callable[[], None]) -> None:
        """Subscribe, call ``begun``, and pass messages to ``hear`` until the connection is lost."""
        raise NotImplementedError

    # ---- sending ----

    def forward(self, kind: str, names: Sequence[str]) -> None:
        """Send a hint soon; from any thread."""
        if self._bound.alive and not self._bound.here:
            self._bound.call_soon(self._note, kind, names)
        elif running_loop_or_none() is not None:
            self._note(kind, names)

    def _note(self, kind: str, names: Sequence[str]) -> None:
        self.bind()
        known = self._waiting.setdefault(kind, {})
        # A cancel without names would mean nothing.
        if kind != CANCEL and (not names or known is None or len(known) + len(names) > MOST_NAMES):
            self._waiting[kind] = None
        elif known is not None:
            known.update(dict.fromkeys(names))
        if not self._sends(kind):
            self._senders[kind] = asyncio.create_task(self._send(kind), name=f"aiotaskq-notify-{kind}")

    def _sends(self, kind: str) -> bool:
        sender = self._senders.get(kind)
        return sender is not None and not sender.done()

    async def _send(self, kind: str) -> None:
        while kind in self._waiting:
            await self.turn(kind)
            names = self._waiting.pop(kind)
            try:
                await self.send(kind, list(names or ()))
            except AiotaskqError as error:
                log.debug("a hint was lost: {}", error)

    def message(self, hints: Mapping[str, Sequence[str]]) -> bytes:
        """Return the message with these names by kind; nothing for no hints."""
        few = {kind: names if kind == CANCEL or len(names) <= MOST_NAMES else () for kind, names in hints.items()}
        return _encode((self._sender, few)) if few else b""

    # ---- listening ----

    async def _listen(self) -> None:
        failures = 0

        def begun() -> None:
            nonlocal failures
            if failures:
                log.info("{}: hints of other processes are received again", self._shown)
            failures = 0
            for kind in (READY, TAKEN, ENDED, NOTED):  # may have been missed; a worker reads the cancel flags itself
                self._listeners.receive(kind)

        while True:
            try:
                await self.follow(begun)
            except ClosedError:
                return
            except Exception as error:  # of any kind: the next attempt may do better
                if not failures:
                    log.warning(
                        "{}: hints of other processes are not received for now, polling goes on: {}: {}",
                        *(self._shown, type(error).__name__, error),
                    )
                failures += 1
            await asyncio.sleep(backoff(failures, *self._back_off))

    def hear(self, message: bytes | str) -> None:
        """Pass on a message, unless it is one of this process or of another program."""
        try:
            sender, hints = _decode(message)
        except msgspec.DecodeError:
            return
        if sender != self._sender:
            for kind, names in hints.items():
                if kind in KINDS:
                    self._listeners.receive(kind, names)
