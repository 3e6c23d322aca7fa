"""Gates in SQL: the table ``aiotaskq_gate``, and the transactions that admit tasks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection

from aiotaskq.backends.gates import Gates
from aiotaskq.backends.listeners import GATES, READY, Listeners
from aiotaskq.backends.sql import gate_repairs as repairs
from aiotaskq.backends.sql import gate_statements as sql
from aiotaskq.backends.sql.admission import Admitted, Messages, SqlAdmission, Touched
from aiotaskq.backends.sql.claim import Claim
from aiotaskq.backends.sql.claim import claim as claim_tasks
from aiotaskq.backends.sql.database import Database
from aiotaskq.backends.sql.rows import decode_flow
from aiotaskq.backends.sql.statement_size import chunks
from aiotaskq.core.gate import Bounds, Flow, Gate, GateChange, GateState
from aiotaskq.core.task import Task
from aiotaskq.errors import AiotaskqError

T = TypeVar("T")
Write = Callable[[Callable[[Connection], Any]], Awaitable[Any]]


class SqlGates(Gates):
    """Every gate of a database."""

    def __init__(self, database: Database, listeners: Listeners) -> None:
        self._database, self._listeners = database, listeners
        self._running: set[asyncio.Task[None]] = set()
        self.followed: Callable[[Touched], None] = lambda touched: None
        """Called with what a transaction has touched, after its commit."""
        self.messages: Messages = lambda ended, now: []
        """See ``Groups.messages``."""

    async def admit(self, now: int, limit: int) -> int | None:
        at = await self._database.read(sql.next_at)
        if at is None or at > now:
            return at
        due = await self._database.read(lambda c: sql.due(c, now, limit))
        if due:  # else another process has just admitted them
            await self._after(await self._database.write(lambda c: _sweep(c, due, now)))
            self._listeners.notify(READY)
        return await self._database.read(sql.next_at)

    async def mend(self, now: int) -> int:
        for queue in await self._database.read(repairs.paused_with_slots):
            await self.pause(queue)
        forgotten = await self._database.read(repairs.forgotten)
        await self.make_due({key: _bounds(key, text) for key, text in forgotten.items()})
        await self._database.write(lambda c: repairs.drop_unused(c, now))
        return len(forgotten)

    async def find(self, keys: Sequence[str] | None = None, limit: int = 1_000, *, prefix: str = "") -> list[GateState]:
        def body(connection: Connection) -> list[GateState]:
            gates = {gate.key: gate for gate in sql.read(connection, keys, limit, prefix)}
            held, waiting = sql.held_and_waiting(connection, gates)
            known = [key for key in (gates if keys is None else keys) if key in gates]
            return [GateState(gate=gates[key], held=held[key], waiting=waiting[key]) for key in known]

        return await self._database.read(body)

    async def tasks(self, key: str, limit: int) -> tuple[list[str], list[str]]:
        return await self._database.read(lambda c: sql.tasks_at(c, key, limit))

    async def change(self, key: str, change: GateChange, now: int) -> Gate:
        def body(connection: Connection) -> tuple[Gate, Admitted]:
            admission = SqlAdmission(connection, now, {})
            return admission.change(key, change), admission.end()

        gate, admitted = await self._database.write(body)
        await self._after(admitted)
        self._listeners.notify(READY)
        return gate

    # ---- for the backend ----

    @property
    def pending(self) -> frozenset[asyncio.Task[None]]:
        """What runs after the commits of callers."""
        return frozenset(self._running)

    async def write(
        self,
        body: Callable[[Connection, Touched], T],
        claim: Claim | None = None,
        write: Write | None = None,
    ) -> tuple[T, list[Task], Collection[str] | None]:
        """Run a body in a transaction, admit the gates that it touches, and claim.

        Return the answer of the body, the claimed tasks, and the ids of the tasks that have become ready at gates. None
        instead of these ids means that other tasks may have become ready, too.
        """

        def whole(connection: Connection) -> tuple[T, Admitted | None, list[Task], Touched]:
            touched = Touched(self.messages)
            answer = body(connection, touched)
            admitted = touched.admit(connection)
            return answer, admitted, [] if claim is None else claim_tasks(connection, *claim), touched

        answer, admitted, tasks, touched = await (write or self._database.write)(whole)
        if touched.grouped:
            self.followed(touched)
        await self._after(admitted)
        if touched.given_back:
            await self._park_given_back(touched.given_back)
        return answer, tasks, None if touched.grouped else () if admitted is None else admitted.ready

    async def _after(self, admitted: Admitted | None) -> None:
        """Send the hint after a transaction, and admit the gates that it missed."""
        while admitted is not None:
            if admitted.has_next_at:
                self._listeners.notify(GATES)
            admitted = await self._admit_missed(admitted.missed, admitted.now) if admitted.missed else None

    async def _admit_missed(self, known: Mapping[str, Bounds | None], now: int) -> Admitted | None:
        def body(connection: Connection) -> Admitted:
            admission = SqlAdmission(connection, now, known)
            admission.lock(known)
            admission.delayed.update(known)
            admission.admit(known)
            return admission.end()

        try:
            admitted = await self._database.write(body)
        except AiotaskqError:
            return None  # the first transaction is committed; ``mend`` finds these gates
        self._listeners.notify(READY)
        return admitted

    def after_commit(self, touched: Touched, loop: asyncio.AbstractEventLoop) -> None:
        """Admit the gates that the transaction of a caller has touched; from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop was closed: these gates are mended
            loop.call_soon_threadsafe(self._start, touched)

    def _start(self, touched: Touched) -> None:
        task = asyncio.get_running_loop().create_task(self._follow(touched))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _follow(self, touched: Touched) -> None:
        with contextlib.suppress(AiotaskqError):  # what was written is committed; these gates are mended
            await self._after(await self._database.write(lambda c: touched.admit(c, committed=True)))
            self._listeners.notify(READY)

    async def close(self) -> None:
        """Wait for what runs after the commits of callers."""
        await asyncio.gather(*self._running, return_exceptions=True)

    async def follow_up(self, admitted: Admitted | None, freed: Mapping[str, Bounds | None]) -> None:
        """Do what is left after a transaction that has admitted gates, or closed some and freed slots of others."""
        await self._after(admitted)
        if freed:
            await self.make_due(freed)

    async def make_due(self, known: Mapping[str, Bounds | None]) -> None:
        """Let the next sweep admit these gates; their bounds are for those that do not exist."""

        def body(connection: Connection, keys: Sequence[str]) -> Admitted:
            admission = SqlAdmission(connection, 0, known)
            admission.lock(keys)
            admission.make_due(keys)
            return admission.end()

        for part in chunks(sorted(known)):
            await self._after(await self._database.write(lambda c, keys=part: body(c, keys)))  # type: ignore[misc]

    async def pause(self, queue: str) -> None:
        """Park the tasks of a queue that is paused by now, and make the gates due of which they had a slot."""
        await self._park(queue, await self._database.read(lambda c: repairs.held_by_waiting(c, queue)))

    async def _park_given_back(self, queues: Mapping[str, Collection[str]]) -> None:
        """Park the tasks that were given back to a paused queue; ``queues`` are the queues and the gates of such tasks.

        After the commit: what is paused before this read is seen here, and a pause after it finds these tasks ready.
        """
        with contextlib.suppress(AiotaskqError):  # the tasks are given back; ``mend`` parks them
            for queue in await self._database.read(repairs.paused):
                if queue in queues:
                    await self._park(queue, queues[queue])

    async def _park(self, queue: str, keys: Collection[str]) -> None:
        for part in chunks(sorted(keys)):
            freed = await self._database.write(lambda c, keys=part: park_paused(c, keys, queue))  # type: ignore[misc]
            await self.make_due(freed)

    async def resume(self, queue: str) -> None:
        """Make the gates due at which tasks of a queue wait that is not paused any more."""
        await self.make_due(dict.fromkeys(await self._database.read(lambda c: repairs.awaited(c, queue))))


def park_paused(connection: Connection, keys: Sequence[str], queue: str) -> dict[str, Bounds | None]:
    """Park the tasks of a paused queue that hold slots of these gates and have not started.

    Return the gates at which others may pass now.
    """
    admission = SqlAdmission(connection, 0, {})
    admission.lock(keys)  # an admission under way may not see the pause yet
    return repairs.park_unstarted(connection, keys, queue)


def _sweep(connection: Connection, keys: Sequence[str], now: int) -> Admitted:
    admission = SqlAdmission(connection, now, {})
    admission.lock_known(keys)
    due = [key for key in keys if key in admission.gates and _is_due(admission.gates[key], now)]
    admission.admit(sorted(due))
    return admission.end()


def _is_due(gate: Gate, now: int) -> bool:
    return gate.next_at is not None and gate.next_at <= now


def _bounds(key: str, text: str | None) -> Bounds | None:
    flow: Flow | None = None if text is None else decode_flow(text)
    return None if flow is None else dict(flow.gates).get(key)
