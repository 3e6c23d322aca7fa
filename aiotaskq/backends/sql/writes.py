"""The transactions of a database that admit tasks at gates at their end, and what is left to do after them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, TypeVar

from sqlalchemy import Connection

from aiotaskq.backends.change import Claim
from aiotaskq.backends.flow.gates import Admitted, admit_touched
from aiotaskq.backends.flow.transaction import Followed, Touched
from aiotaskq.backends.listeners import GATES, READY, Listeners
from aiotaskq.backends.sql.caller_session import run_in
from aiotaskq.backends.sql.claim import claim as claim_tasks
from aiotaskq.backends.sql.database import Database
from aiotaskq.backends.sql.statement_size import chunks
from aiotaskq.backends.sql.transaction import Messages, SqlTransaction
from aiotaskq.core.task import Task
from aiotaskq.errors import AiotaskqError

T = TypeVar("T")
Write = Callable[[Callable[[Connection], Any]], Awaitable[Any]]


class SqlWrites:
    """The transactions of one database."""

    def __init__(self, database: Database, listeners: Listeners) -> None:
        self._database, self._listeners = database, listeners
        self._running: set[asyncio.Task[None]] = set()
        self.followed: Callable[[Followed], None] = lambda followed: None
        """Called with what followed in a transaction, after its commit."""
        self.messages: Messages = lambda ended, now: []
        """See ``Groups.messages``."""

    def tx(self, connection: Connection) -> SqlTransaction:
        """Return the transaction in which a connection is."""
        return SqlTransaction(connection, self._database.dialect, self.messages)

    @property
    def pending(self) -> frozenset[asyncio.Task[None]]:
        """What runs after the commits of callers."""
        return frozenset(self._running)

    async def write(
        self,
        body: Callable[[SqlTransaction], T],
        claim: Claim | None = None,
        write: Write | None = None,
    ) -> tuple[T, list[Task], Collection[str] | None]:
        """Run a body in a transaction, admit the gates that it touches, and claim.

        Return the answer of the body, the claimed tasks, and the ids of the tasks that have become ready at gates. None
        instead of these ids means that other tasks may have become ready, too.
        """

        def whole(connection: Connection) -> tuple[T, Admitted | None, list[Task], SqlTransaction]:
            tx = self.tx(connection)
            answer = body(tx)
            admitted = admit_touched(tx)
            return answer, admitted, [] if claim is None else claim_tasks(tx, claim), tx

        answer, admitted, tasks, tx = await (write or self._database.write)(whole)
        followed, given_back = tx.touched.followed, tx.touched.given_back
        if followed:
            self.followed(followed)
        await self._after(admitted)
        if given_back:
            await self._park_given_back(given_back)
        return answer, tasks, None if followed else () if admitted is None else admitted.ready

    async def settle(self, touched: Touched) -> Admitted:
        """Admit the gates that another transaction has touched, and those that this one misses."""

        def body(connection: Connection) -> Admitted | None:
            tx = self.tx(connection)
            tx.touched = touched
            return admit_touched(tx, refused=False)

        admitted = await self._database.write(body) or Admitted()
        await self._after(admitted)
        return admitted

    async def _after(self, admitted: Admitted | None) -> None:
        """Send the hint after a transaction, and admit the gates that it missed."""
        if admitted is None:
            return
        if admitted.has_next_at:
            self._listeners.notify(GATES)
        if admitted.missed is not None:
            with contextlib.suppress(AiotaskqError):  # the first transaction is committed; ``mend`` finds these gates
                await self.settle(admitted.missed)
                self._listeners.notify(READY)

    async def write_in(
        self, session: Any, body: Callable[[SqlTransaction], T], committed: Callable[[], None] = lambda: None
    ) -> T:
        """Run a body in the transaction of a caller; call ``committed`` after its commit, from any thread.

        The gates that it touches are admitted then: the transaction may be long.
        """
        touched, loop = Touched(), asyncio.get_running_loop()

        def inside(connection: Connection) -> T:
            tx = self.tx(connection)
            tx.touched, tx.joined = touched, True
            return body(tx)

        def wake() -> None:
            if touched.wakes:
                self._listeners.notify(READY)
            if touched:
                with contextlib.suppress(RuntimeError):  # the loop was closed: these gates are mended
                    loop.call_soon_threadsafe(self._start, touched)
            if touched.followed:
                self.followed(touched.followed)
            committed()

        return await run_in(session, self._database.url, self._database.dialect, inside, wake)

    def _start(self, touched: Touched) -> None:
        task = asyncio.get_running_loop().create_task(self._follow(touched))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _follow(self, touched: Touched) -> None:
        with contextlib.suppress(AiotaskqError):  # what was written is committed; these gates are mended
            await self.settle(touched)
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
                if queue in queues:
                    await self._park(queue, queues[queue])

    async def _park(self, queue: str, keys: Collection[str]) -> None:
        for part in chunks(sorted(keys)):
            touched = Touched()
            touched.park(part, queue)
            await self.settle(touched)
