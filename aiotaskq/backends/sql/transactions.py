"""The transactions of a database: they admit tasks at gates at their end, and then do what is left to do.

The locks of a transaction are taken in one order: events, then tasks, then groups, then gates.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection

from aiotaskq.backends.base import Backend
from aiotaskq.backends.change import Claim
from aiotaskq.backends.flow.gates import Admitted, admit_touched
from aiotaskq.backends.flow.transaction import Followed, Holder, Store, Touched
from aiotaskq.backends.listeners import ENDED, GATES, READY
from aiotaskq.backends.side_rows import SideRow
from aiotaskq.backends.sql import claim as claim_sql
from aiotaskq.backends.sql.caller_session import run_in
from aiotaskq.backends.sql.database import Database
from aiotaskq.backends.sql.statement_size import chunks
from aiotaskq.backends.sql.transaction import SqlTransaction
from aiotaskq.core.task import Task
from aiotaskq.errors import AiotaskqError

T = TypeVar("T")
Write = Callable[[Callable[[Connection], Any]], Awaitable[Any]]


class SqlTransactions(Store):
    """The transactions of one database."""

    wakes_later = False

    def __init__(
        self, database: Database, backend: Backend, bind: Callable[[], None], enter: Callable[[Connection], None]
    ) -> None:
        """``bind`` and ``enter`` begin in a transaction of a caller."""
        self._database, self._backend, self._bind, self._enter = database, backend, bind, enter
        self._listeners = backend.listeners
        self._running: set[asyncio.Task[None]] = set()

    def tx(self, connection: Connection, **options: bool) -> SqlTransaction:
        """Return the transaction in which a connection is; ``options`` are those of ``SqlTransaction``."""
        messages, codec = self._backend.groups.messages, self._backend.codec
        return SqlTransaction(connection, self._database.dialect, messages=messages, codec=codec, **options)

    @property
    def pending(self) -> frozenset[asyncio.Task[None]]:
        """What runs after the commits of callers."""
        return frozenset(self._running)

    async def write(
        self, body: Callable[[SqlTransaction], T], claim: Claim | None = None, write: Write | None = None
    ) -> tuple[T, list[Task], Collection[str] | None, SqlTransaction]:
        """Run a body in a transaction, admit the gates that it touches, and claim.

        Return the answer of the body, the claimed tasks, the ids of the tasks that have become ready at gates, and the
        transaction. None instead of these ids means that other tasks may have become ready, too.
        """

        def whole(connection: Connection) -> tuple[T, Admitted | None, list[Task], SqlTransaction]:
            tx = self.tx(connection)
            answer = body(tx)
            admitted = admit_touched(tx)
            return answer, admitted, [] if claim is None else claim_sql.claim(tx, claim), tx

        answer, admitted, tasks, tx = await (write or self._database.write)(whole)
        followed, given_back = tx.touched.followed, tx.touched.given_back
        if followed:
            self._note(followed)
        if admitted is not None:
            await self._after(admitted)
        if given_back:
            await self._park_given_back(given_back)
        return answer, tasks, None if followed else () if admitted is None else admitted.ready, tx

    def _note(self, followed: Followed) -> None:
        """Tell what followed in a transaction, after its commit."""
        if names := followed.all_ended:
            self._listeners.notify(ENDED, names)
        self._backend.groups.note(followed)

    async def _settle(self, touched: Touched) -> None:
        """Admit the gates that another transaction has touched, and those that this one misses."""

        def body(connection: Connection) -> Admitted | None:
            tx = self.tx(connection)
            tx.touched = touched
            return admit_touched(tx)

        if (admitted := await self._database.write(body)) is not None:
            await self._after(admitted)

    async def _after(self, admitted: Admitted) -> None:
        """Send the hint after a transaction, and admit the gates that it missed."""
        if admitted.has_next_at:
            self._listeners.notify(GATES)
        if admitted.missed is not None:
            await self._follow(admitted.missed)

    def _start(self, touched: Touched) -> None:
        task = asyncio.get_running_loop().create_task(self._follow(touched))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _follow(self, touched: Touched) -> None:
        with contextlib.suppress(AiotaskqError):  # what was written is committed; ``mend`` finds these gates
            await self._settle(touched)
            self._listeners.notify(READY)

    async def close(self) -> None:
        """Wait for what runs after the commits of callers."""
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _park_given_back(self, queues: Mapping[str, Collection[str]]) -> None:
        """Park the tasks that were released to a paused queue; ``queues`` are the queues and the gates of such tasks.

        After the commit: what is paused before this read is seen here, and a pause after it finds these tasks ready.
        """
        with contextlib.suppress(AiotaskqError):  # the tasks are released; ``mend`` parks them
            for queue in await self._database.read(lambda c: self.tx(c).paused_queues()):
                for part in chunks(sorted(queues.get(queue, ()))):
                    touched = Touched()
                    touched.park(part, queue)
                    await self._settle(touched)

    async def transact(self, body: Callable[[SqlTransaction], T], *, repeatable: bool = False) -> T:
        """Do as ``Store.transact``."""
        answer, _, ready, tx = await self.write(body)
        self._send(tx)
        if ready is None or ready or tx.touched.wakes:
            self._listeners.notify(READY)
        return answer

    def _send(self, tx: SqlTransaction) -> None:
        for changes, held in tx.written:
            self._backend.notify_updated(changes, held)

    async def transact_with(
        self, session: Any, body: Callable[[SqlTransaction], T], committed: Callable[[], None] = lambda: None
    ) -> T:
        """Do as ``Store.transact_with``.

        ``committed`` is called from any thread. The gates are admitted after the commit: the transaction may be long.
        """
        self._bind()  # the commit may come in another thread
        loop = asyncio.get_running_loop()
        ran: list[SqlTransaction] = []

        def inside(connection: Connection) -> T:
            self._enter(connection)
            ran.append(self.tx(connection, joined=True))
            return body(ran[-1])

        def wake() -> None:
            touched = ran[-1].touched
            self._send(ran[-1])
            if touched.wakes:
                self._listeners.notify(READY)
            if touched:
                with contextlib.suppress(RuntimeError):  # the loop was closed: these gates are mended
                    loop.call_soon_threadsafe(self._start, touched)
            if touched.followed:
                self._note(touched.followed)
            committed()

        return await run_in(session, self._database.url, self._database.dialect, inside, wake)

    async def look(self, body: Callable[[SqlTransaction], T]) -> T:
        """Do as ``Store.look``."""
        return await self._database.read(lambda connection: body(self.tx(connection, locks=False)))

    async def add_held(self, kind: str, rows: Sequence[SideRow], holders: Sequence[Holder]) -> list[str | None]:
        """Do as ``Store.add_held``."""
        # Where one statement guards and inserts, it is all that is written; a second one only reads what was first.
        autocommit = self._database.dialect.autocommit
        return await self._database.write(
            lambda connection: self.tx(connection).add_held(kind, rows, holders), autocommit
        )
