"""Hints between processes on PostgreSQL: NOTIFY for what this one tells the others, LISTEN for what they tell it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from aiotaskq.backends.base import CANCEL, ENDED, KINDS, READY, TAKEN, Hints
from aiotaskq.backends.sql.database import Database
from aiotaskq.backends.sql.engines import connect_postgresql, in_time
from aiotaskq.backends.sql.notify_gap import Gap
from aiotaskq.concurrency.backoff import backoff
from aiotaskq.concurrency.loop_bound import LoopBound
from aiotaskq.errors import AiotaskqError
from aiotaskq.log import log

CHANNEL: Final = "aiotaskq"
SIZE: Final = 7_900  # bytes in one message; the server takes less than 8,000
MOST_NAMES: Final = 1_000  # ids of one kind that are told; of more only that there are some, and everybody looks
SILENCE: Final = 3.0
"""Seconds without a word after which the server is asked whether it is there, and that it may take to answer."""
BACK_OFF: Final = (0.05, 5.0)  # seconds between attempts to listen again: the first, and the longest

# A notification is a commit of its own, and the disk would be waited for, by the next claim as well; but a hint that is
# lost with the server has nobody left to tell.
_NOTIFY: Final = "SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, $2)"

Message = tuple[str, str, list[str]]
"""Who says it, the kind, and the names."""
_decode = msgspec.json.Decoder(Message).decode


class Notifications:
    """Sends the hints of one backend after its commits, and listens for those of others once ``listen`` was called.

    A hint may be lost, so nothing here fails: polling goes on.
    """

    def __init__(self, database: Database, hints: Hints) -> None:
        self._database = database
        self._hints = hints
        self._me = secrets.token_hex(8)
        self._bound = LoopBound()
        self._waiting: dict[str, dict[str, None] | None] = {}  # names by kind; None when not all are known
        self._gaps = {kind: Gap() for kind in KINDS}
        self._senders: dict[str, asyncio.Task[None]] = {}
        self._listener: asyncio.Task[None] | None = None
        hints.forward = self.forward

    def _bind(self) -> None:
        """Belong to the running loop; what ran in another one, or before a fork, has gone with it."""
        if self._bound.bind():
            self._senders, self._listener = {}, None
            self._waiting, self._gaps = {}, {kind: Gap() for kind in KINDS}

    def listen(self) -> None:
        """Tell this process's listeners what others do, until ``stop``; idempotent."""
        self._bind()
        if self._listener is None or self._listener.done():
            self._listener = asyncio.create_task(self._listen(), name="aiotaskq-listen")

    async def stop(self) -> None:
        """Hear no more, and let what was told go out."""
        if not self._bound.here:
            return
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.cancel()
            await asyncio.wait([listener])
        while self._senders:
            await asyncio.wait(list(self._senders.values()))

    # ---- telling ----

    def weigh(self, kind: str, more: int) -> None:
        """Count so many more tasks towards the load than the hint that follows says, since it names none."""
        self._bind()
        self._gaps[kind].wish(more)

    def forward(self, kind: str, names: Sequence[str]) -> None:
        """Tell the other processes soon; from any thread."""
        if self._bound.alive and not self._bound.here:
            self._bound.call_soon(self._note, kind, names)
        elif asyncio._get_running_loop() is not None:
            self._note(kind, names)

    def _note(self, kind: str, names: Sequence[str]) -> None:
        self._bind()
        self._gaps[kind].wish(len(names) or 1)
        known = self._waiting.setdefault(kind, {})
        # A cancel without names would tell nobody anything.
        if kind != CANCEL and (not names or known is None or len(known) + len(names) > MOST_NAMES):
            self._waiting[kind] = None
        elif known is not None:
            known.update(dict.fromkeys(names))
        if kind not in self._senders:
            self._start_sender(kind)

    def _start_sender(self, kind: str) -> None:
        sender = self._senders[kind] = asyncio.create_task(self._send(kind), name=f"aiotaskq-notify-{kind}")
        sender.add_done_callback(lambda sender: self._sender_done(kind, sender))

    def _sender_done(self, kind: str, sender: asyncio.Task[None]) -> None:
        # A callback, since a sender that is cancelled before it begins runs none of its own code.
        if self._senders.get(kind) is not sender:
            return  # of a loop that has ended
        del self._senders[kind]
        if kind in self._waiting and not sender.cancelled():
            self._start_sender(kind)

    async def _send(self, kind: str) -> None:
        """Send what has come together, as soon as the gap allows, until nothing has."""
        gap, clock = self._gaps[kind], asyncio.get_running_loop().time
        for _ in range(8):
            await asyncio.sleep(0)  # a claim of this process begins first: its worker was woken by the same hint
        while kind in self._waiting:
            if (delay := gap.delay(clock())) > 0:
                await asyncio.sleep(delay)
            gap.sent(clock())
            names = self._waiting.pop(kind)
            texts = list(messages(self._me, kind, list(names or ())))
            try:
                await self._database.write(
                    lambda c, texts=texts: [  # type: ignore[misc]
                        c.exec_driver_sql(_NOTIFY, (CHANNEL, text)) for text in texts
                    ],
                    alone=True,
                )
            except AiotaskqError as error:
                log.debug("a hint was lost: {}", error)

    def along(self, kind: str, count: int) -> tuple[str, str] | None:
        """Return the channel and the message of a notification that may go out now, about so many tasks, if one may.

        The caller sends it in the statement that it tells of, and does not call ``forward``.
        """
        self._bind()
        gap, now = self._gaps[kind], asyncio.get_running_loop().time()
        if kind in self._senders or gap.delay(now) > 0:
            return None
        gap.wish(count)
        gap.sent(now)
        return CHANNEL, next(messages(self._me, kind, ()))

    # ---- hearing ----

    async def _listen(self) -> None:
        failures = 0
        while True:
            connection: Any = None
            try:
                connection = await in_time(connect_postgresql(self._place()))
                gone = asyncio.Event()
                connection.add_termination_listener(lambda _connection, gone=gone: gone.set())
                await _answered(connection, connection.add_listener(CHANNEL, self._hear))
                if failures:
                    log.info("{}: hints of other processes are heard again", self._database.shown)
                failures = 0
                for kind in (READY, TAKEN, ENDED):  # what was said before; who runs a task asks himself whether to stop
                    self._hints.hear(kind)
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
                    connection.terminate()  # without a farewell, for which a dead peer would be waited for
            await asyncio.sleep(backoff(failures, *BACK_OFF))

    def _place(self) -> str:
        url = self._database.url.set(drivername="postgresql")
        return url.render_as_string(hide_password=False)

    def _hear(self, _connection: object, _pid: int, _channel: str, message: str) -> None:
        try:
            who, kind, names = _decode(message)
        except msgspec.DecodeError:
            return  # somebody else's words on our channel
        if who != self._me and kind in KINDS:
            self._hints.hear(kind, names)


async def _until_lost(connection: Any, gone: asyncio.Event) -> None:
    """Return or raise when the connection is lost; a peer that fell silent is found out by asking."""
    while not gone.is_set():
        try:
            async with asyncio.timeout(SILENCE):
                await gone.wait()
        except TimeoutError:
            await _answered(connection, connection.execute("SELECT 1"))
    raise ConnectionError("the server has closed the connection")


async def _answered(connection: Any, request: Any) -> None:
    """Await an answer; without one in time, cut the connection, since to cancel would be to ask the same dead peer."""
    timer = asyncio.get_running_loop().call_later(SILENCE, connection.terminate)
    try:
        await request
    finally:
        timer.cancel()


def messages(me: str, kind: str, names: Sequence[str]) -> Iterator[str]:
    """Yield the texts that tell a kind with its names, each small enough for one NOTIFY."""
    while True:
        count = len(names)
        while len(text := msgspec.json.encode((me, kind, names[:count]))) > SIZE:
            count //= 2
        yield text.decode()
        names = names[count:]
        if not names:
            return
