"""What is read of gates and groups in SQL, and of the tasks there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from sqlalchemy import Connection, String, and_, bindparam, func, or_, select, true

from aiotaskq.backends.gates import GateReads
from aiotaskq.backends.groups import GroupReads
from aiotaskq.backends.sql.claim_statements import PENDING
from aiotaskq.backends.sql.database import Database
from aiotaskq.backends.sql.gate_rows import PARKED_AT, STATUS, parked_at
from aiotaskq.backends.sql.group_rows import to_group
from aiotaskq.backends.sql.rows import GATES, GROUPS, MEMBERS, SLOTS, TASKS, decode_flow
from aiotaskq.backends.sql.statements import run
from aiotaskq.backends.sql.transaction import SqlTransaction
from aiotaskq.core.gate import Bounds, GateState
from aiotaskq.core.groups import GroupState, Member

T = TypeVar("T")
c, g, s = TASKS.c, GATES.c, SLOTS.c
r, m = GROUPS.c, MEMBERS.c
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


class SqlGateReads(GateReads):
    """The gates of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def due(self, now: int, limit: int) -> tuple[list[str], int | None]:
        def body(tx: SqlTransaction) -> tuple[list[str], int | None]:
            at = tx.next_at()
            return [] if at is None or at > now or not limit else tx.due_gates(now, limit), at

        return await self._read(body)

    async def known(self) -> dict[str, Bounds | None]:
        def body(tx: SqlTransaction) -> dict[str, Bounds | None]:
            connection = tx.connection
            found: dict[str, Bounds | None] = {row[0]: None for row in run(connection, _ALL, {}).fetchall()}
            key = run(connection, _NEXT_AT_TASKS, {"key_": ""}).fetchall()[0][0]
            while key is not None:
                if key not in found:
                    for (text,) in run(connection, _ONE, {"key_": key}).fetchall():
                        found[key] = None if text is None else dict(decode_flow(text).gates).get(key)
                key = run(connection, _NEXT_AT_TASKS, {"key_": key}).fetchall()[0][0]
            return found

        return await self._read(body)

    async def of_queue(self, queue: str, held: bool) -> set[str]:
        def body(tx: SqlTransaction) -> set[str]:
            queries = (_HELD_OF, _HELD_BEYOND_OF) if held else (_AWAITED,)
            return {row[0] for query in queries for row in run(tx.connection, query, {"queue": queue}).fetchall()}

        return await self._read(body)

    async def find(self, keys: Sequence[str] | None = None, limit: int = 1_000, *, prefix: str = "") -> list[GateState]:
        def body(tx: SqlTransaction) -> list[GateState]:
            if keys is None:
                gates = {gate.key: gate for gate in tx.find_gates(limit, prefix)}
            else:
                gates = tx.stored_gates(sorted(keys)[:limit])
            counts = tx.counts(gates)
            known = [key for key in (sorted(gates) if keys is None else keys) if key in gates]
            return [GateState(gate=gates[key], held=counts[key][0], waiting=counts[key][1]) for key in known]

        return await self._read(body)

    async def tasks(self, key: str, limit: int) -> tuple[list[str], list[str]]:
        return await self._read(lambda tx: tx.tasks_at(key, limit))

    async def _read(self, body: Callable[[SqlTransaction], T]) -> T:
        return await self._database.read(lambda connection: body(SqlTransaction(connection, self._database.dialect)))


class SqlGroupReads(GroupReads):
    """The groups of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, limit: int, *, after: str | None = None, ended: bool | None = None) -> list[GroupState]:
        def body(connection: Connection) -> list[GroupState]:
            query = select(GROUPS).order_by(r.created_at.desc(), r.group_id.desc()).limit(limit)
            if ended is not None:
                query = query.where(r.ended_at.is_not(None) if ended else r.ended_at.is_(None))
            if after is not None:
                last = connection.execute(select(r.created_at).where(r.group_id == after)).scalar()
                if last is None:
                    return []
                query = query.where(or_(r.created_at < last, and_(r.created_at == last, r.group_id < after)))
            return [to_group(row) for row in connection.execute(query)]

        return await self._database.read(body)

    async def ids_with_prefix(self, prefix: str, limit: int) -> list[str]:
        begins = func.substr(r.group_id, 1, len(prefix)) == prefix
        query = select(r.group_id).where(begins).order_by(r.group_id).limit(limit)
        return list(await self._database.read(lambda connection: connection.execute(query).scalars().all()))

    async def members(self, group_id: str, limit: int, *, start: int = 0) -> list[Member]:
        query = select(MEMBERS).where(m.group_id == group_id, m.position >= start).order_by(m.position).limit(limit)
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return [
            Member(
                group_id=row.group_id,
                position=row.position,
                member_id=row.member_id,
                name=row.name,
                is_group=bool(row.is_group),
            )
            for row in rows
        ]

    async def cancelling(self, limit: int) -> list[str]:
        query = select(r.group_id).where(r.ended_at.is_(None), r.cancel_requested == true()).limit(limit)
        return list(await self._database.read(lambda connection: connection.execute(query).scalars().all()))

    async def over(self, before: int, limit: int) -> list[str]:
        where = (r.ended_at < before, r.needed_by == 0, r.parent_id.is_(None))
        query = select(r.group_id).where(*where).order_by(r.ended_at).limit(limit)
        return list(await self._database.read(lambda connection: connection.execute(query).scalars().all()))

    async def children(self, limit: int, after: str) -> tuple[list[str], str]:
        waiting = (self._database.dialect.pending[-1], c.live_gate.is_(None), c.waits > 0, c.task_id > after)
        query = select(c.task_id).where(*waiting).order_by(c.task_id).limit(limit)
        ids = list(await self._database.read(lambda connection: connection.execute(query).scalars().all()))
        return ids, ids[-1] if len(ids) == limit else ""
