"""The connections to one database, of which ``Database`` has an object for each event loop, and its notifier."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar, cast

from sqlalchemy import URL, Connection, Engine
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.util import await_
from sqlalchemy.util.concurrency import in_greenlet

from aiotaskq.backends.sql.names import Names

T = TypeVar("T")
SessionBody: TypeAlias = Callable[[AsyncSession], Coroutine[Any, Any, T]]
"""What a transaction does with its session. It awaits nothing else: on SQLite it runs on a thread without a loop."""


def in_session(body: SessionBody[T], commits: bool) -> Callable[[Connection], T]:
    """Return the transaction body that runs a coroutine with an ``AsyncSession``; whether the session ``commits``."""

    def run(connection: Connection) -> T:
        session = AsyncSession(expire_on_commit=False, autoflush=False)
        session.sync_session.bind = connection
        try:
            answer = await_(body(session)) if in_greenlet() else _without_loop(body(session))
            if commits:
                session.sync_session.commit()
            return answer
        finally:
            session.sync_session.close()

    return run


def _without_loop(body: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on a connection's thread, where no statement waits for an event loop."""
    try:
        body.send(None)
    except StopIteration as end:
        return cast(T, end.value)
    body.close()
    raise RuntimeError("the body of a transaction awaits something else than its session")


class Connections(ABC):
    """Runs transaction bodies: plain functions over a SQLAlchemy ``Connection``."""

    needs_shield: ClassVar[bool]
    """Whether a cancelled caller would interrupt a transaction, so that it must run in an asyncio task of its own."""
    sync_engine: Engine

    async def open(self) -> None:  # noqa: B027 - there may be nothing to do
        """Prepare the database for connections."""

    @abstractmethod
    async def write(self, body: Callable[[Connection], T], autocommit: bool = False) -> T:
        """Run the body in one transaction that writes, and commit it.

        With ``autocommit`` all that the body writes is one statement, which may go without BEGIN and COMMIT.
        """

    @abstractmethod
    async def read(self, body: Callable[[Connection], T]) -> T:
        """Run a body that only reads; each statement sees what is committed when it begins."""

    def check(self) -> None:  # noqa: B027
        """Raise DatabaseUnavailable if the connections lead to another database than at first."""

    @abstractmethod
    async def dispose(self) -> None:
        """Close every connection, after what runs."""

    def abandon(self) -> None:  # noqa: B027 - sockets go with their loop
        """Let go of every connection without waiting, for a loop that is gone."""


class Transactions(Protocol):
    """The transactions and reads of a ``Database``, as the classes of a store call them."""

    url: URL
    names: Names | None
    """The names of the tables, where they are not those of the models."""
    shown: str
    patience: float | None
    """The most seconds for one statement, on a server, if less than the usual ones."""
    writing: Callable[[], None]
    """Called when a transaction has the lock of a database with a single writer; on any thread."""
    written: Callable[[], None]
    """Called when that transaction has ended."""

    async def write(self, body: Callable[[Connection], T], autocommit: bool = False) -> T:
        """Run the body in one transaction and commit it."""

    async def read(self, body: Callable[[Connection], T]) -> T:
        """Run a body that only reads."""


class Notifier:
    """Passes no hints: for a database without a channel, where other processes are heard of by polling only.

    A hint may be lost, so no method raises for want of a connection.
    """

    def bind(self) -> None:
        """Belong to the running loop, which sends the hints of other threads."""

    def listen(self) -> None:
        """Pass on what other processes tell, in the running loop, until ``stop``; idempotent."""

    async def stop(self) -> None:
        """Send what is waiting, and close every connection; idempotent."""

    def along(self, kind: str, count: int) -> tuple[str, str] | None:
        """Return the channel and the message of a notification about ``count`` tasks, if one may be sent now.

        The caller sends it in the statement that it is about, and does not forward the hint.
        """
        return None

    def weigh(self, kind: str, count: int) -> None:
        """Count ``count`` tasks towards the load beside those that the next hint names."""
