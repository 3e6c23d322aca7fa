"""Hints between processes on PostgreSQL, by NOTIFY and LISTEN."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, text

from aiotaskq.backends.listeners import CANCEL, ENDED, KINDS, NOTED, READY, TAKEN, Listeners
from aiotaskq.backends.sql.connecting import in_time
from aiotaskq.backends.sql.connections import Notifier, Transactions
from aiotaskq.backends.sql.statements import run
from aiotaskq.concurrency.failure_backoff import backoff
from aiotaskq.concurrency.loop_bound import LoopBound, running_loop_or_none
from aiotaskq.errors import AiotaskqError
from aiotaskq.log import log

CHANNEL: Final = "aiotaskq"
SIZE: Final = 7_900
"""Bytes in one message; the server accepts less than 8,000."""
MOST_NAMES: Final = 1_000
"""Ids of one kind that are sent. If there are more, none is: every listener looks for itself."""
SILENCE: Final = 3.0
"""Seconds without a notification after which the server is sent a query, and seconds to wait for its answer."""
BACK_OFF: Final = (0.05, 5.0)
"""Seconds between attempts to listen again: the first, and the longest."""
SHORT: Final = 0.01
"""Seconds from one notification to the next, on average, while there are few tasks."""
BURST: Final = 5
"""Notifications that may follow each other without a gap, after a pause of as many short gaps."""
LONG: Final = 0.05
"""Seconds from one notification to the next under load: each takes a lock that all of the server's commits share."""
BUSY: Final = 400.0
"""Tasks per second of this process above which it is under load."""

# A notification is a commit of its own. It does not wait for the disk: a hint that is lost in a crash of the server has
# no listeners left, since their connections are lost, too.
_NOTIFY: Final = text("SELECT set_config('synchronous_commit', 'off', true), pg_notify(:channel, :message)")

Message = tuple[str, str, list[str]]
"""The sender, the kind, and the names."""
_decode = msgspec.json.Decoder(Message).decode


class Notifications(Notifier):
    """Sends the hints of one backend after its commits, and listens for those of others once ``listen`` was called."""

    def __init__(self, database: Transactions, listeners: Listeners, connect: Callable[[], Awaitable[Any]]) -> None:
        """``database`` writes the notifications; ``connect`` opens the asyncpg connection that listens."""
        self._database = database
        self._connect = connect
        self._listeners = listeners
        self._sender = secrets.token_hex(8)
        self._bound = LoopBound()
        self._waiting: dict[str, dict[str, None] | None] = {}  # names by kind; None when not all are known
        self._gaps = {kind: Gap() for kind in KINDS}
        self._senders: dict[str, asyncio.Task[None]] = {}
        self._listener: asyncio.Task[None] | None = None
        listeners.forward = self.forward

    def bind(self) -> None:
        """Belong to the running loop; tasks of a loop that is gone, or of a parent process, have gone with it."""
        if self._bound.bind():
            self._senders, self._listener = {}, None
            self._waiting, self._gaps = {}, {kind: Gap() for kind in KINDS}

    def listen(self) -> None:
        self.bind()
        if self._listener is None or self._listener.done():
            self._listener = asyncio.create_task(self._listen(), name="aiotaskq-listen")

    async def stop(self) -> None:
        if not self._bound.here:
            return
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.cancel()
            await asyncio.wait([listener])
        while any(map(self._sends, self._senders)):
            await asyncio.wait(self._senders.values())

    # ---- sending ----

    def weigh(self, kind: str, count: int) -> None:
        self.bind()
        self._gaps[kind].note(count)

    def forward(self, kind: str, names: Sequence[str]) -> None:
        """Send a hint soon; from any thread."""
        if self._bound.alive and not self._bound.here:
            self._bound.call_soon(self._note, kind, names)
        elif running_loop_or_none() is not None:
            self._note(kind, names)

    def _note(self, kind: str, names: Sequence[str]) -> None:
        self.bind()
        self._gaps[kind].note(len(names) or 1)
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
        """Send the hints that wait, as often as the gap allows, until none does."""
        gap, clock = self._gaps[kind], asyncio.get_running_loop().time
        for _ in range(8):
            await asyncio.sleep(0)  # a claim of this process, whose worker was woken by the same hint, begins first
        while kind in self._waiting:
            if (delay := gap.delay(clock())) > 0:
                await asyncio.sleep(delay)
            gap.sent(clock())
            names = self._waiting.pop(kind)
            texts = list(messages(self._sender, kind, list(names or ())))
            try:
                await self._database.write(partial(_notify, texts), autocommit=True)
            except AiotaskqError as error:
                log.debug("a hint was lost: {}", error)

    def along(self, kind: str, count: int) -> tuple[str, str] | None:
        self.bind()
        gap, now = self._gaps[kind], asyncio.get_running_loop().time()
        if self._sends(kind) or gap.delay(now) > 0:
            return None
        gap.note(count)
        gap.sent(now)
        return CHANNEL, next(messages(self._sender, kind, ()))

    # ---- listening ----

    async def _listen(self) -> None:
        failures = 0
        while True:
            connection: Any = None
            try:
                connection = await in_time(self._connect())
                gone = asyncio.Event()
                connection.add_termination_listener(lambda _connection, gone=gone: gone.set())
                await _answered(connection, connection.add_listener(CHANNEL, self._hear))
                if failures:
                    log.info("{}: hints of other processes are heard again", self._database.shown)
                failures = 0
                for kind in (READY, TAKEN, ENDED, NOTED):  # may have been missed; a heartbeat reads the cancel flags
                    self._listeners.receive(kind)
                await _until_lost(connection, gone)
            except Exception as error:  # whatever the driver raises: the next attempt may do better
                if not failures:
                    log.warning(
                        "{}: hints of other processes are not heard for now, polling goes on: {}: {}",
                        *(self._database.shown, type(error).__name__, error),
                    )
                failures += 1
            finally:
                if connection is not None:
                    connection.terminate()  # without waiting for a peer that may be dead
            await asyncio.sleep(backoff(failures, *BACK_OFF))

    def _hear(self, _connection: object, _pid: int, _channel: str, message: str) -> None:
        try:
            sender, kind, names = _decode(message)
        except msgspec.DecodeError:
            return  # another program uses the channel
        if sender != self._sender and kind in KINDS:
            self._listeners.receive(kind, names)


def _notify(texts: Sequence[str], connection: Connection) -> None:
    for each in texts:
        run(connection, _NOTIFY, {"channel": CHANNEL, "message": each})


async def _until_lost(connection: Any, gone: asyncio.Event) -> None:
    """Return or raise when the connection is lost; a silent peer is sent a query."""
    while not gone.is_set():
        try:
            async with asyncio.timeout(SILENCE):
                await gone.wait()
        except TimeoutError:
            await _answered(connection, connection.execute("SELECT 1"))
    raise ConnectionError("the server has closed the connection")


async def _answered(connection: Any, request: Any) -> None:
    """Await an answer; if it is late, cut the connection, since a cancel would be sent to the same dead peer."""
    timer = asyncio.get_running_loop().call_later(SILENCE, connection.terminate)
    try:
        await request
    finally:
        timer.cancel()


def messages(sender: str, kind: str, names: Sequence[str]) -> Iterator[str]:
    """Yield the messages for a hint, each small enough for one NOTIFY."""
    while True:
        count = len(names)
        while len(text := msgspec.json.encode((sender, kind, names[:count]))) > SIZE:
            count //= 2
        yield text.decode()
        names = names[count:]
        if not names:
            return


class Gap:
    """Decides when the next notification of one kind may be sent. Each ``now`` is in seconds of one monotonic clock.

    A notification waits for at most ``LONG`` seconds. In ``t`` seconds there are at most ``BURST + t / SHORT`` of them;
    under load, after a burst, one in each ``LONG``.
    """

    __slots__ = ("_due", "_sent", "_tasks")

    def __init__(self) -> None:
        self._tasks = 0
        self._sent = self._due = float("-inf")

    def note(self, count: int) -> None:
        """Note so many tasks to notify about; one notification is about all that were noted before it."""
        self._tasks += count

    def delay(self, now: float) -> float:
        """Return the seconds to wait before a notification is sent; zero or less when it may go at once."""
        return self._due - now

    def sent(self, now: float) -> None:
        """Note that a notification is sent now, about all tasks noted so far."""
        busy = self._tasks > BUSY * max(now - self._sent, SHORT)
        # The pause before this notification is credited, but never more than a burst of it.
        self._due = now + LONG if busy else max(self._due, now - (BURST - 1) * SHORT) + SHORT
        self._sent, self._tasks = now, 0
