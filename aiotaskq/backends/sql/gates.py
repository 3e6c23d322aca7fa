"""Gates in SQL: the table ``aiotaskq_gate``, the transactions that admit tasks, and what is left to do after them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final, TypeVar

from sqlalchemy import BigInteger, Connection, String, bindparam, delete, false, func, select

from aiotaskq.backends.flow.gates import Admitted, admit_due, admit_touched
from aiotaskq.backends.flow.touched import Followed, Touched
from aiotaskq.backends.gates import Gates
from aiotaskq.backends.listeners import GATES, READY, Listeners
from aiotaskq.backends.sql.caller_session import run_in
from aiotaskq.backends.sql.claim import Claim
from aiotaskq.backends.sql.claim import claim as claim_tasks
from aiotaskq.backends.sql.claim_statements import PAUSED, PENDING
from aiotaskq.backends.sql.database import Database
from aiotaskq.backends.sql.gate_rows import LIVE, PARKED_AT, STATUS, parked_at
from aiotaskq.backends.sql.rows import GATES as GATE_TABLE
from aiotaskq.backends.sql.rows import SLOTS, TASKS, decode_flow
from aiotaskq.backends.sql.statement_size import chunks
from aiotaskq.backends.sql.statements import run
from aiotaskq.backends.sql.transaction import Messages, SqlTransaction
from aiotaskq.core.gate import Bounds, Gate, GateChange, GateState
from aiotaskq.core.task import Task
from aiotaskq.errors import AiotaskqError

T = TypeVar("T")
Known = Mapping[str, Bounds | None]
Write = Callable[[Callable[[Connection], Any]], Awaitable[Any]]


class SqlGates(Gates):
    """Every gate of a database."""

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

    async def admit(self, now: int, limit: int) -> int | None:
        at = await self._read(SqlTransaction.next_at)
        if at is None or at > now:
            return at
        due = await self._read(lambda tx: tx.due_gates(now, limit))
        if due:  # else another process has just admitted them
            await self._after(await self._database.write(lambda c: admit_due(self.tx(c), due, now)))
            self._listeners.notify(READY)
        return await self._read(SqlTransaction.next_at)

    async def mend(self, now: int) -> int:
        for queue in await self._database.read(_paused_with_slots):
            await self.pause(queue)
        forgotten = await self._database.read(_forgotten)
        await self._make_due(forgotten)
        await self._database.write(lambda c: _drop_unused(self.tx(c), now))
        return len(forgotten)

    async def find(self, keys: Sequence[str] | None = None, limit: int = 1_000, *, prefix: str = "") -> list[GateState]:
        def body(tx: SqlTransaction) -> list[GateState]:
            if keys is None:
                gates = {gate.key: gate for gate in tx.find_gates(limit, prefix)}
            else:
                gates = tx.stored_gates(sorted(keys)[:limit])
            held, waiting = tx.held_and_waiting(gates)
            known = [key for key in (sorted(gates) if keys is None else keys) if key in gates]
            return [GateState(gate=gates[key], held=held[key], waiting=waiting[key]) for key in known]

        return await self._read(body)

    async def tasks(self, key: str, limit: int) -> tuple[list[str], list[str]]:
        return await self._read(lambda tx: tx.tasks_at(key, limit))

    async def change(self, key: str, change: GateChange, now: int) -> Gate:
        touched = Touched()
        touched.changed(key, change, now)
        admitted = await self.settle(touched)
        self._listeners.notify(READY)
        return admitted.gates[key]

    async def _read(self, body: Callable[[SqlTransaction], T]) -> T:
        return await self._database.read(lambda connection: body(self.tx(connection)))

    # ---- for the backend ----

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

        admitted = await self._database.write(body) or Admitted({})
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
            tx.touched = touched
            return body(tx)

        def wake() -> None:
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

    async def _make_due(self, known: Known) -> None:
        """Let the next sweep admit these gates; their bounds are for those that do not exist."""
        for part in chunks(sorted(known)):
            touched = Touched()
            touched.make_due(part, known)
            await self.settle(touched)

    async def pause(self, queue: str) -> None:
        """Park the tasks of a queue that is paused by now, and make the gates due of which they had a slot."""
        await self._park(queue, await self._database.read(lambda c: _held_by_waiting(c, queue)))

    async def _park_given_back(self, queues: Mapping[str, Collection[str]]) -> None:
        """Park the tasks that were given back to a paused queue; ``queues`` are the queues and the gates of such tasks.

        After the commit: what is paused before this read is seen here, and a pause after it finds these tasks ready.
        """
        with contextlib.suppress(AiotaskqError):  # the tasks are given back; ``mend`` parks them
            for queue in await self._read(SqlTransaction.paused_queues):
                if queue in queues:
                    await self._park(queue, queues[queue])

    async def _park(self, queue: str, keys: Collection[str]) -> None:
        for part in chunks(sorted(keys)):
            touched = Touched()
            touched.park(part, queue)
            await self.settle(touched)

    async def resume(self, queue: str) -> None:
        """Make the gates due at which tasks of a queue wait that is not paused any more."""
        await self._make_due(dict.fromkeys(await self._database.read(lambda c: _awaited(c, queue))))


# ---- what is left where queues are paused and resumed, by other programs, and by lost processes ----

c, g, s = TASKS.c, GATE_TABLE.c, SLOTS.c
_KEYS: Final[Any] = bindparam("keys", expanding=True)
_KEY: Final = bindparam("key_", type_=String)
_NOW: Final = bindparam("now", type_=BigInteger)
_QUEUE: Final = bindparam("queue", type_=String)
_READY_AT: Final = (c.run_at < PARKED_AT, STATUS == PENDING, c.queue == _QUEUE)
_HELD_OF: Final = select(g.key).where(select(c.task_id).where(c.live_gate == g.key, *_READY_AT).exists())
_HELD_BEYOND_OF: Final = (
    select(s.gate)
    .select_from(SLOTS.join(TASKS, s.task_id == c.task_id))
    .where(STATUS == PENDING, c.queue == _QUEUE)
    .distinct()
)
_WAIT: Final = select(c.task_id).where(*parked_at(g.key))
_AWAITED: Final = select(g.key).where(_WAIT.where(c.queue == _QUEUE).exists())
_FORGOTTEN: Final = select(g.key).where(_WAIT.exists(), g.next_at.is_(None))
_ALL: Final = select(g.key)
_NEXT_AT_TASKS: Final = select(func.min(c.live_gate)).where(c.live_gate > _KEY)
_ONE: Final = select(c.flow).where(*parked_at(_KEY)).limit(1)
_IDLE: Final = (
    g.fixed == false(),
    g.tat <= _NOW,
    g.closed_until <= _NOW,
    g.next_at.is_(None),
    ~select(c.task_id).where(c.live_gate == g.key).exists(),
    ~select(s.task_id).where(s.gate == g.key).exists(),
)
_UNUSED: Final = select(g.key).where(*_IDLE)
_DROP: Final = delete(GATE_TABLE).where(g.key.in_(_KEYS), *_IDLE)
_ORPHANS: Final = select(s.task_id).where(~select(c.task_id).where(c.task_id == s.task_id, LIVE).exists())


def _paused_with_slots(connection: Connection) -> list[str]:
    """Return the paused queues of which waiting tasks hold slots: a process has died while it paused them."""
    paused = [row[0] for row in run(connection, PAUSED, {}).fetchall()]
    return [queue for queue in paused if _held_by_waiting(connection, queue)]


def _held_by_waiting(connection: Connection, queue: str) -> list[str]:
    """Return the gates of which tasks of a queue hold a slot that have not started."""
    found = [run(connection, query, {"queue": queue}).fetchall() for query in (_HELD_OF, _HELD_BEYOND_OF)]
    return sorted({row[0] for rows in found for row in rows})


def _awaited(connection: Connection, queue: str) -> list[str]:
    """Return the gates at which tasks of a queue wait."""
    return [row[0] for row in run(connection, _AWAITED, {"queue": queue}).fetchall()]


def _forgotten(connection: Connection) -> dict[str, Bounds | None]:
    """Return the gates at which tasks wait, and that have no ``next_at``; missing ones with the bounds of a task."""
    found: dict[str, Bounds | None] = {row[0]: None for row in run(connection, _FORGOTTEN, {}).fetchall()}
    known = {row[0] for row in run(connection, _ALL, {}).fetchall()}
    key = run(connection, _NEXT_AT_TASKS, {"key_": ""}).fetchall()[0][0]
    while key is not None:
        if key not in known:
            for (text,) in run(connection, _ONE, {"key_": key}).fetchall():
                found[key] = None if text is None else dict(decode_flow(text).gates).get(key)
        key = run(connection, _NEXT_AT_TASKS, {"key_": key}).fetchall()[0][0]
    return found


def _drop_unused(tx: SqlTransaction, now: int) -> None:
    """Delete the gates at which nothing waits or holds a slot, and that are as new ones at ``now``; and lost slots."""
    connection = tx.connection
    unused = [row[0] for row in run(connection, _UNUSED, {"now": now}).fetchall()]
    for part in chunks(unused):
        locked = tx.gates(dict.fromkeys(part), wait=False)
        connection.execute(_DROP, {"keys": list(locked), "now": now})
    tx.remove_slots([row[0] for row in run(connection, _ORPHANS, {}).fetchall()])
