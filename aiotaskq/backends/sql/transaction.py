"""A transaction in SQL: the rows of a database, by the statements of one connection; and what is read of gates.

A transaction admits tasks at gates at its end, and then what is left to do is done. Its locks are taken in one order:
events, then tasks, then groups, then gates.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, Concatenate, Final, ParamSpec, TypeVar, cast

from sqlalchemy import BigInteger, Connection, String, bindparam, func, select

from aiotaskq.backends.base import Backend
from aiotaskq.backends.change import Change, Claim, Room, encoded_changes
from aiotaskq.backends.flow.gates import Admitted, admit_touched, check_max_waiting
from aiotaskq.backends.flow.transaction import Followed, Holder, Messages, Run, Store, Touched
from aiotaskq.backends.gates import GateReads
from aiotaskq.backends.listeners import ENDED, READY
from aiotaskq.backends.listeners import GATES as GATES_HINT
from aiotaskq.backends.side_rows import SideRow
from aiotaskq.backends.sql import claim as claim_sql
from aiotaskq.backends.sql.caller_session import run_in
from aiotaskq.backends.sql.claim_statements import PENDING
from aiotaskq.backends.sql.database import Database
from aiotaskq.backends.sql.dialects.base import Dialect
from aiotaskq.backends.sql.gate_rows import PARKED_AT, STATUS, GateRows, parked_at
from aiotaskq.backends.sql.group_rows import GroupRows
from aiotaskq.backends.sql.pushes import conflicts, insert, left_in
from aiotaskq.backends.sql.rows import GATES, SLOTS, TASKS, decode_flow, json_text, stored_run_at, to_task
from aiotaskq.backends.sql.side_rows import SqlOwnedRows, insert_held
from aiotaskq.backends.sql.statement_size import chunks
from aiotaskq.backends.sql.statements import run
from aiotaskq.backends.sql.tasks import read_rows, update_tasks
from aiotaskq.core.codec import Codec
from aiotaskq.core.gate import Bounds, GateState
from aiotaskq.core.status import RUNNING, Status
from aiotaskq.core.task import Task
from aiotaskq.core.usage import Usage
from aiotaskq.errors import AiotaskqError

Write = Callable[[Callable[[Connection], Any]], Awaitable[Any]]
T = TypeVar("T")
P = ParamSpec("P")
c, g, s = TASKS.c, GATES.c, SLOTS.c
_PLACE = ("waits", "run_at", "due_at", "gate", "live_gate")
"""The columns of a task that goes on waiting, or waits no longer."""


class SqlTransaction(GateRows, GroupRows):
    """The rows of a database, in the transaction of a connection."""

    def __init__(
        self,
        connection: Connection,
        dialect: Dialect,
        messages: Messages,
        codec: Codec | None = None,
        *,
        joined: bool = False,
        locks: bool = True,
    ) -> None:
        """``joined``: whether it is a caller's; ``locks``: whether it may write."""
        super().__init__(connection, dialect)
        self.messages, self.codec, self.joined, self._locks = messages, codec, joined, locks
        self.written: list[tuple[Sequence[Change], list[bool]]] = []

    @functools.cached_property
    def side(self) -> SqlOwnedRows:
        """The side rows."""
        return SqlOwnedRows(self, self._locks)

    def tasks(self, ids: Sequence[str]) -> dict[str, Task]:
        query = self.dialect.by_id(select(TASKS).order_by(c.task_id).with_for_update())
        return {row.task_id: to_task(row) for row in self.rows_in(query, c.task_id, ids)}

    def look(self, ids: Sequence[str]) -> dict[str, Task]:
        return {row.task_id: to_task(row) for row in self.rows_in(select(TASKS), c.task_id, ids)}

    def existing(self, ids: Sequence[str]) -> set[str]:
        return {row[0] for row in self.rows_in(select(c.task_id), c.task_id, ids)}

    def insert(self, tasks: Sequence[Task]) -> list[Task]:
        return insert(self, tasks) if tasks else []

    def rewrite(self, changes: Sequence[tuple[Task, Task]]) -> None:
        if ended := [Change(before, after) for before, after in changes if after.final]:
            self.dialect.write(self.connection, ended)
        moved = [
            (after.waits or None, stored_run_at(after), after.due_at, after.gate, after.gate, after.task_id)
            for _, after in changes
            if not after.final
        ]
        if moved:
            self.dialect.set_each(self.connection, _PLACE, moved)
        self.note_slots(changes)

    def write_usage(self, usages: Mapping[str, Usage]) -> None:
        rows = [(json_text(usage), task_id) for task_id, usage in usages.items()]
        self.dialect.set_each(self.connection, ("usage",), rows)

    def update(self, changes: Sequence[Change]) -> list[bool]:
        held = update_tasks(self, encoded_changes(changes, self.codec))
        self.written.append((changes, held))
        return held

    def check_room(self, tasks: Sequence[Task], room: Room) -> None:
        if len(tasks) > (left := left_in(self, room)):
            room.new_of(tasks, conflicts(self, tasks), left)

    def check_push(self, tasks: Sequence[Task]) -> bool:
        if self.joined:
            check_max_waiting(self, tasks)
        return self.joined

    def add_held(self, kind: str, rows: Sequence[SideRow], holders: Sequence[Holder]) -> list[str | None]:
        found = insert_held(self, kind, rows, holders)
        if found is None:
            # A shared lock: a handler's own transaction may have one as well, by a step of it.
            runs = read_rows(self, [row.owner for row in rows], "share")
            held = [
                (run := runs.get(row.owner)) is not None and run.status == RUNNING and (run.fence, run.seq) == holder
                for row, holder in zip(rows, holders, strict=True)
            ]
            found = self.side.insert(kind, [row for row, ok in zip(rows, held, strict=True) if ok]), held
        inserted, held = found
        if inserted == sum(held):
            return [row.text if ok else None for row, ok in zip(rows, held, strict=True)]
        # Of each the first write stays.
        there = {(row.owner, row.name): row.text for row in self.side.of(kind, sorted({row.owner for row in rows}))}
        return [there.get((row.owner, row.name)) if ok else None for row, ok in zip(rows, held, strict=True)]

    def runs(self, ids: Sequence[str], *, wait: bool = True) -> dict[str, Run]:
        found = read_rows(self, ids, None if not self._locks else "wait" if wait else "skip")
        taken = {} if wait else read_rows(self, [task_id for task_id in ids if task_id not in found], None)
        return {
            task_id: Run(Status(row.status or Status.PENDING), row.fence, row.seq, row.began_at, task_id in taken)
            for task_id, row in (found | taken).items()
        }


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
            return answer, admitted, claim_sql.claim(tx, claim) if claim is not None and claim.limit else [], tx

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
            self._listeners.notify(GATES_HINT)
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

        return await run_in(session, self._database, self._database.dialect, inside, wake)

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


_NEXT: Final = select(func.min(g.next_at))
_NOW, _LIMIT = (bindparam(name, type_=BigInteger) for name in ("now", "limit"))
_DUE: Final = select(g.key).where(g.next_at <= _NOW).order_by(g.next_at).limit(_LIMIT)
_KEY: Final = bindparam("key_", type_=String)
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
_ALL: Final = select(g.key)
_NEXT_AT_TASKS: Final = select(func.min(c.live_gate)).where(c.live_gate > _KEY)
_ONE: Final = select(c.flow).where(*parked_at(_KEY)).limit(1)


def reads(body: Callable[Concatenate[SqlTransaction, P], T]) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    """Return the verb of an object with ``_read`` that runs a body in a transaction that reads."""

    async def verb(self: Any, /, *args: P.args, **options: P.kwargs) -> T:
        return cast(T, await self._read(lambda tx: body(tx, *args, **options)))

    return verb


def _due(tx: SqlTransaction, now: int, limit: int) -> tuple[list[str], int | None]:
    ((at,),) = run(tx.connection, _NEXT, {}).fetchall()
    if at is None or at > now or not limit:
        return [], at
    return [row[0] for row in run(tx.connection, _DUE, {"now": now, "limit": limit}).fetchall()], at


def _known(tx: SqlTransaction) -> dict[str, Bounds | None]:
    connection = tx.connection
    found: dict[str, Bounds | None] = {row[0]: None for row in run(connection, _ALL, {}).fetchall()}
    key = run(connection, _NEXT_AT_TASKS, {"key_": ""}).fetchall()[0][0]
    while key is not None:
        if key not in found:
            for (text,) in run(connection, _ONE, {"key_": key}).fetchall():
                found[key] = None if text is None else dict(decode_flow(text).gates).get(key)
        key = run(connection, _NEXT_AT_TASKS, {"key_": key}).fetchall()[0][0]
    return found


def _of_queue(tx: SqlTransaction, queue: str, held: bool) -> set[str]:
    queries = (_HELD_OF, _HELD_BEYOND_OF) if held else (_AWAITED,)
    return {row[0] for query in queries for row in run(tx.connection, query, {"queue": queue}).fetchall()}


def _find(
    tx: SqlTransaction, keys: Sequence[str] | None = None, limit: int = 1_000, *, prefix: str = ""
) -> list[GateState]:
    if keys is None:
        gates = {gate.key: gate for gate in tx.find_gates(limit, prefix)}
    else:
        gates = tx.stored_gates(sorted(keys)[:limit])
    counts = tx.counts(gates)
    known = [key for key in (sorted(gates) if keys is None else keys) if key in gates]
    return [GateState(gate=gates[key], held=counts[key][0], waiting=counts[key][1]) for key in known]


class SqlGateReads(GateReads):
    """The gates of a database."""

    def __init__(self, read: Callable[[Callable[[SqlTransaction], Any]], Coroutine[Any, Any, Any]]) -> None:
        self._read = read

    due = reads(_due)
    known = reads(_known)
    of_queue = reads(_of_queue)
    find = reads(_find)
    tasks = reads(SqlTransaction.tasks_at)
