"""Hints between processes on PostgreSQL, by NOTIFY and LISTEN."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, text

from aiotaskq.backends.hints import HintChannel
from aiotaskq.backends.listeners import KINDS, Listeners
from aiotaskq.backends.sql.connecting import in_time
from aiotaskq.backends.sql.connections import Notifier, Transactions
from aiotaskq.backends.sql.names import Names
from aiotaskq.backends.sql.statements import run

CHANNEL: Final = "aiotaskq"
"""The channel of the default schema; those of others begin so."""
SIZE: Final = 7_900
"""Bytes in one message; the server accepts less than 8,000."""
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


class Notifications(HintChannel, Notifier):
    """Notifies after the commits of one backend, each kind as often as its gap allows."""

    def __init__(self, database: Transactions, listeners: Listeners, connect: Callable[[], Awaitable[Any]]) -> None:
        """``database`` writes the notifications; ``connect`` opens the asyncpg connection that listens."""
        super().__init__(listeners, database.shown, BACK_OFF)
        self._database, self._channel = database, channel(database.names)
        self._connect = connect

    def renew(self) -> None:
        super().renew()
        self._gaps = {kind: Gap() for kind in KINDS}

    # ---- sending ----

    def weigh(self, kind: str, count: int) -> None:
        self.bind()
        self._gaps[kind].note(count)

    def _note(self, kind: str, names: Sequence[str]) -> None:
        self.weigh(kind, len(names) or 1)
        super()._note(kind, names)

    async def turn(self, kind: str) -> None:
        gap, clock = self._gaps[kind], asyncio.get_running_loop().time
        for _ in range(8):
            await asyncio.sleep(0)  # a claim of this process, whose worker was woken by the same hint, begins first
        if (delay := gap.delay(clock())) > 0:
            await asyncio.sleep(delay)
        gap.sent(clock())

    async def send(self, kind: str, names: Sequence[str]) -> None:
        def body(connection: Connection) -> None:
            for each in messages(self._sender, kind, names):
                run(connection, _NOTIFY, {"channel": self._channel, "message": each})

        await self._database.write(body, autocommit=True)

    def along(self, kind: str, count: int) -> tuple[str, str] | None:
        self.bind()
        gap, now = self._gaps[kind], asyncio.get_running_loop().time()
        if self._sends(kind) or gap.delay(now) > 0:
            return None
        gap.note(count)
        gap.sent(now)
        return self._channel, next(messages(self._sender, kind, ()))

    # ---- listening ----

    async def follow(self, begun: Callable[[], None]) -> None:
        connection: Any = await in_time(self._connect())
        try:
            gone = asyncio.Event()
            connection.add_termination_listener(lambda _connection: gone.set())
            await _answered(connection, connection.add_listener(self._channel, lambda *words: self.hear(words[-1])))
            begun()
            await _until_lost(connection, gone)
        finally:
            connection.terminate()  # without waiting for a peer that may be dead


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


def channel(names: Names | None) -> str:
    """Return the channel of the tables with these names."""
    return CHANNEL if names is None or names.schema == "public" else f"{CHANNEL}_{names.schema}"


def messages(sender: str, kind: str, names: Sequence[str]) -> Iterator[str]:
    """Yield the messages for a hint, each small enough for one NOTIFY."""
    while True:
        count = len(names)
        while len(text := msgspec.json.encode((sender, {kind: names[:count]}))) > SIZE:
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
