"""Groups in SQL: the tables ``aiotaskq_group`` and ``aiotaskq_member``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection, and_, delete, func, or_, select, true

from aiotaskq.backends.change import Room
from aiotaskq.backends.coded import encoded_room
from aiotaskq.backends.flow.groups import (
    Ends,
    add_tasks,
    as_cancelled,
    fill,
    flag_cancelled,
    lost_parents,
    parents_of,
    replace_budget,
    to_children,
    to_groups,
)
from aiotaskq.backends.flow.max_waiting import check_max_waiting
from aiotaskq.backends.groups import Groups, encoded_plan, recoded_group
from aiotaskq.backends.listeners import ENDED, READY, Listeners
from aiotaskq.backends.sql.bounded_push import check_bound
from aiotaskq.backends.sql.database import Database
from aiotaskq.backends.sql.gates import SqlGates
from aiotaskq.backends.sql.group_rows import to_group, write_callbacks
from aiotaskq.backends.sql.rows import GATES, GROUPS, LIVE, MEMBERS, TASKS, read_flow
from aiotaskq.backends.sql.statement_size import chunks
from aiotaskq.backends.sql.tasks import update_tasks
from aiotaskq.backends.sql.transaction import SqlTransaction
from aiotaskq.core.coded import encoded
from aiotaskq.core.groups import GroupState, Member, Plan, Tally
from aiotaskq.core.task import Task
from aiotaskq.core.usage import Usage, budget_gate

c, g, m = TASKS.c, GROUPS.c, MEMBERS.c
MENDED = 500  # groups, or children, counted anew in one transaction


class SqlGroups(Groups):
    """Every group of a database."""

    def __init__(
        self, database: Database, gates: SqlGates, listeners: Listeners, enter: Callable[[Connection], None]
    ) -> None:
        """``enter`` prepares the database in a caller's transaction."""
        self._database, self._gates, self._listeners, self._enter = database, gates, listeners, enter

    async def push(
        self,
        plan: Plan,
        session: Any = None,
        committed: Callable[[], None] = lambda: None,
        room: Room | None = None,
    ) -> bool:
        self.used = True
        plan, room = encoded_plan(plan, self.codec), encoded_room(room, self.codec)
        dropped = [] if room is None else [change.after.task_id for change in room.instead]

        def body(tx: SqlTransaction) -> bool:
            if room is not None:  # before anything is written: the transaction may be the caller's
                tx.connection.execute(tx.dialect.lock_pushes)
                if tx.connection.execute(select(g.group_id).where(g.group_id == plan.groups[0].group_id)).first():
                    return False
                check_bound(tx, len(plan.entering), room)
            if not tx.add_groups(plan.groups, plan.members):
                return False
            if room is not None:
                update_tasks(tx, room.instead)
            fill(tx, plan)
            return True

        def inside(tx: SqlTransaction) -> bool:
            self._enter(tx.connection)
            check_max_waiting(tx, plan.tasks)
            return body(tx)

        def wake() -> None:
            if dropped:
                self._listeners.notify(ENDED, dropped)
            self._listeners.notify(READY)
            committed()

        if session is not None:
            return await self._gates.write_in(session, inside, wake)
        made, *_ = await self._gates.write(body)
        if made:
            wake()
        else:
            self._listeners.notify(READY)
        return made

    async def add(self, group_id: str, tasks: Sequence[Task], now: int) -> int | None:
        sent = tasks if (codec := self.codec) is None else [encoded(task, codec) for task in tasks]
        added, *_ = await self._gates.write(lambda tx: add_tasks(tx, group_id, sent))
        self._listeners.notify(READY)
        return added

    async def get(self, ids: Sequence[str]) -> list[GroupState | None]:
        def body(connection: Connection) -> dict[str, GroupState]:
            return {
                row.group_id: to_group(row)
                for part in chunks(ids)
                for row in connection.execute(select(GROUPS).where(g.group_id.in_(part)))
            }

        found = await self._database.read(body)
        return [found.get(group_id) for group_id in ids]

    async def find(self, limit: int, *, after: str | None = None, ended: bool | None = None) -> list[GroupState]:
        def body(connection: Connection) -> list[GroupState]:
            query = select(GROUPS).order_by(g.created_at.desc(), g.group_id.desc()).limit(limit)
            if ended is not None:
                query = query.where(g.ended_at.is_not(None) if ended else g.ended_at.is_(None))
            if after is not None:
                last = connection.execute(select(g.created_at).where(g.group_id == after)).scalar()
                if last is None:
                    return []
                query = query.where(or_(g.created_at < last, and_(g.created_at == last, g.group_id < after)))
            return [to_group(row) for row in connection.execute(query)]

        return await self._database.read(body)

    async def ids_with_prefix(self, prefix: str, limit: int) -> list[str]:
        begins = func.substr(g.group_id, 1, len(prefix)) == prefix
        query = select(g.group_id).where(begins).order_by(g.group_id).limit(limit)
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

    async def set_budget(self, group_id: str, budget: Usage, now: int) -> GroupState | None:
        group, *_ = await self._gates.write(lambda tx: replace_budget(tx, group_id, budget, now))
        self._listeners.notify(READY)
        return group

    async def request_cancel(self, group_id: str) -> bool:
        return await self._database.write(lambda c: flag_cancelled(self._gates.tx(c), group_id))

    async def cancelling(self, limit: int) -> list[str]:
        query = select(g.group_id).where(g.ended_at.is_(None), g.cancel_requested == true()).limit(limit)
        return list(await self._database.read(lambda connection: connection.execute(query).scalars().all()))

    async def purge(self, before: int, limit: int) -> int:
        def body(connection: Connection) -> int:
            over = (g.ended_at < before, g.needed_by == 0, g.parent_id.is_(None))
            old = connection.execute(select(g.group_id).where(*over).order_by(g.ended_at).limit(limit))
            count = 0
            for part in chunks(sorted(old.scalars().all())):
                # One that was brought back meanwhile stays.
                gone = select(g.group_id).where(g.group_id.in_(part), *over).order_by(g.group_id)
                ids = list(connection.execute(gone.with_for_update()).scalars().all())
                tx, level = self._gates.tx(connection), ids
                while level := tx.inner_groups(level):
                    ids += level
                for each in chunks(ids):
                    connection.execute(delete(MEMBERS).where(m.group_id.in_(each)))
                    connection.execute(delete(GATES).where(GATES.c.key.in_(list(map(budget_gate, each)))))
                    count += connection.execute(delete(GROUPS).where(g.group_id.in_(each))).rowcount
            return count

        return await self._database.write(body)

    async def recode(self, ids: Sequence[str]) -> tuple[int, list[str]]:
        if (codec := self.codec) is None:
            return await super().recode(ids)

        def body(connection: Connection) -> tuple[int, list[str]]:
            found = self._gates.tx(connection).groups(sorted(ids))
            groups = [group for group in found.values() if group.then is not None or group.on_failure is not None]
            anew = [(group, recoded_group(group, codec)) for group in groups]
            written = [group for _, group in anew if group is not None]
            write_callbacks(connection, written)
            return len(written), [group.group_id for group, new in anew if new is None]

        return await self._database.write(body)

    async def mend(self, now: int) -> int:
        wrong = 0
        while True:
            children, *_ = await self._gates.write(lambda tx: mend_children(tx, now))
            wrong += children
            if children < MENDED:
                break
        last = ""
        while True:
            query = select(g.group_id).where(g.ended_at.is_(None), g.group_id > last).order_by(g.group_id)
            ids = await self._database.read(lambda c, query=query: c.execute(query.limit(MENDED)).scalars().all())  # type: ignore[misc]
            if not ids:
                return wrong
            counted, *_ = await self._gates.write(lambda tx, ids=ids: _mend_groups(tx, ids, now))  # type: ignore[misc]
            wrong += counted
            last = ids[-1]


def _mend_groups(tx: SqlTransaction, ids: Sequence[str], now: int) -> int:
    # With the groups locked: an end that is not committed yet has not been subtracted, and counts as live.
    groups = tx.groups(ids)
    live = dict.fromkeys(groups, 0)
    tasks = select(m.group_id, func.count()).join(TASKS, c.task_id == m.member_id).where(c.status.in_(LIVE))
    inner = GROUPS.alias()
    nested = select(m.group_id, func.count()).join(inner, inner.c.group_id == m.member_id)
    for query in (tasks, nested.where(m.is_group == true(), inner.c.ended_at.is_(None))):
        for group_id, count in tx.connection.execute(query.where(m.group_id.in_(ids)).group_by(m.group_id)):
            if group_id in live:
                live[group_id] += count
    tallies = {
        group_id: Tally(ended=group.remaining - live[group_id], cancelled=max(0, group.remaining - live[group_id]))
        for group_id, group in groups.items()
        if group.ended_at is None and group.remaining != live[group_id]
    }
    to_groups(tx, Ends(tallies, []), now)
    return len(tallies)


def mend_children(tx: SqlTransaction, now: int) -> int:
    """End children that wait for parents which are gone; return how many: at least ``MENDED``, or all of them."""
    connection = tx.connection
    waiting = (tx.dialect.pending[-1], c.live_gate.is_(None), c.waits > 0)
    query = select(c.task_id, c.waits, c.flow).where(*waiting).order_by(c.task_id)
    lost: dict[str, str] = {}
    for part in chunks(connection.execute(query).fetchall()):
        children = [
            Task(task_id=each.task_id, type="", waits=each.waits, flow=read_flow(each.flow)[0]) for each in part
        ]
        if not (found := lost_parents(children, _parents(connection, children))):
            continue
        # Again with the rows locked: a parent may have ended, and been subtracted, between the two reads. From now on
        # one that has not been subtracted counts as live, since its end is not committed yet.
        locked = [task for task in tx.tasks(list(found)).values() if task.parked]
        lost |= lost_parents(locked, _parents(connection, locked))
        if len(lost) >= MENDED:
            break
    to_groups(tx, to_children(tx, as_cancelled(lost), now), now)
    return len(lost)


def _parents(connection: Connection, children: Sequence[Task]) -> dict[str, Task]:
    """Return the parents that are there, with their statuses and flows."""
    known: dict[str, Task] = {}
    for part in chunks(sorted({parent for child in children for parent in parents_of(child)})):
        for row in connection.execute(select(c.task_id, c.status, c.flow).where(c.task_id.in_(part))):
            known[row.task_id] = Task(task_id=row.task_id, type="", status=row.status, flow=read_flow(row.flow)[0])
    return known
