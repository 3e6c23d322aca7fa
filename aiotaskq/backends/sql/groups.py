"""Groups in SQL: the tables ``aiotaskq_group`` and ``aiotaskq_member``."""

from __future__ import annotations

from asyncio import get_running_loop
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection, and_, delete, func, or_, select, true

from aiotaskq.backends.base import Room
from aiotaskq.backends.coded import encoded_room
from aiotaskq.backends.flow.groups import (
    Ends,
    add_tasks,
    as_cancelled,
    flag_cancelled,
    lost_parents,
    parents_of,
    replace_budget,
    to_children,
    to_groups,
)
from aiotaskq.backends.groups import Groups, encoded_plan, recoded_group
from aiotaskq.backends.listeners import ENDED, READY, Listeners
from aiotaskq.backends.max_waiting import check_max_waiting
from aiotaskq.backends.sql.admission import Touched
from aiotaskq.backends.sql.bounded_push import check_bound
from aiotaskq.backends.sql.caller_session import run_in
from aiotaskq.backends.sql.database import Database
from aiotaskq.backends.sql.dialects import dialect_of
from aiotaskq.backends.sql.gate_counts import SqlCounts
from aiotaskq.backends.sql.gates import SqlGates
from aiotaskq.backends.sql.group_rows import GroupRows, add_group, add_members, to_group, write_callbacks
from aiotaskq.backends.sql.rows import GATES, GROUPS, LIVE, MEMBERS, TASKS, read_flow
from aiotaskq.backends.sql.statement_size import chunks
from aiotaskq.backends.sql.tasks import push, update_tasks
from aiotaskq.backends.sql.usage import add_closed
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

        def body(connection: Connection, touched: Touched) -> bool:
            first, *others = plan.groups
            if room is not None:  # before anything is written: the transaction may be the caller's
                connection.execute(dialect_of(connection).lock_pushes)
                if connection.execute(select(g.group_id).where(g.group_id == first.group_id)).first():
                    return False
                check_bound(connection, len(plan.entering), room)
            if not add_group(connection, first):
                return False
            if room is not None:
                update_tasks(connection, room.instead, touched)
            for group in others:
                add_group(connection, group)
            add_members(connection, plan.members)
            if used_up := plan.used_up:  # before the tasks, so that none passes
                add_closed(connection, used_up)
            if plan.tasks:
                push(connection, plan.tasks, touched=touched)
            return True

        if session is None:
            made, *_ = await self._gates.write(body)
            if made and dropped:
                self._listeners.notify(ENDED, dropped)
            self._listeners.notify(READY)
            return made
        touched, loop = Touched(self.messages), get_running_loop()

        def inside(connection: Connection) -> bool:
            self._enter(connection)
            check_max_waiting(SqlCounts(connection), plan.tasks)
            return body(connection, touched)

        def wake() -> None:
            if touched:
                self._gates.after_commit(touched, loop)
            if touched.grouped:
                self._gates.followed(touched)
            if dropped:
                self._listeners.notify(ENDED, dropped)
            self._listeners.notify(READY)
            committed()

        return await run_in(session, self._database.url, inside, wake)

    async def add(self, group_id: str, tasks: Sequence[Task], now: int) -> int | None:
        sent = tasks if (codec := self.codec) is None else [encoded(task, codec) for task in tasks]

        added, *_ = await self._gates.write(lambda c, touched: add_tasks(GroupRows(c, touched, push), group_id, sent))
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
        def body(connection: Connection, touched: Touched) -> tuple[GroupState | None, GroupRows]:
            rows = GroupRows(connection, touched, push)
            return replace_budget(rows, group_id, budget, now), rows

        (group, rows), *_ = await self._gates.write(body)
        await self._gates.follow_up(rows.admitted, rows.freed)
        self._listeners.notify(READY)
        return group

    async def request_cancel(self, group_id: str) -> bool:
        return await self._database.write(lambda c: flag_cancelled(GroupRows(c, Touched(), push), group_id))

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
                rows, level = GroupRows(connection, Touched(), push), ids
                while level := rows.inner_groups(level):
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
            found = GroupRows(connection, Touched(), push).groups(sorted(ids))
            groups = [group for group in found.values() if group.then is not None or group.on_failure is not None]
            anew = [(group, recoded_group(group, codec)) for group in groups]
            written = [group for _, group in anew if group is not None]
            write_callbacks(connection, written)
            return len(written), [group.group_id for group, new in anew if new is None]

        return await self._database.write(body)

    async def mend(self, now: int) -> int:
        wrong = 0
        while True:
            children, *_ = await self._gates.write(lambda c, touched: mend_children(c, touched, now))
            wrong += children
            if children < MENDED:
                break
        last = ""
        while True:
            query = select(g.group_id).where(g.ended_at.is_(None), g.group_id > last).order_by(g.group_id)
            ids = await self._database.read(lambda c, query=query: c.execute(query.limit(MENDED)).scalars().all())  # type: ignore[misc]
            if not ids:
                return wrong
            counted, *_ = await self._gates.write(lambda c, touched, ids=ids: _mend_groups(c, touched, ids, now))  # type: ignore[misc]
            wrong += counted
            last = ids[-1]


def _mend_groups(connection: Connection, touched: Touched, ids: Sequence[str], now: int) -> int:
    rows = GroupRows(connection, touched, push)
    # With the groups locked: an end that is not committed yet has not been subtracted, and counts as live.
    groups = rows.groups(ids)
    live = dict.fromkeys(groups, 0)
    tasks = select(m.group_id, func.count()).join(TASKS, c.task_id == m.member_id).where(c.status.in_(LIVE))
    inner = GROUPS.alias()
    nested = select(m.group_id, func.count()).join(inner, inner.c.group_id == m.member_id)
    for query in (tasks, nested.where(m.is_group == true(), inner.c.ended_at.is_(None))):
        for group_id, count in connection.execute(query.where(m.group_id.in_(ids)).group_by(m.group_id)):
            if group_id in live:
                live[group_id] += count
    tallies = {
        group_id: Tally(ended=group.remaining - live[group_id], cancelled=max(0, group.remaining - live[group_id]))
        for group_id, group in groups.items()
        if group.ended_at is None and group.remaining != live[group_id]
    }
    rows.followed(to_groups(rows, Ends(tallies, []), now))
    return len(tallies)


def mend_children(connection: Connection, touched: Touched, now: int) -> int:
    """End children that wait for parents which are gone; return how many: at least ``MENDED``, or all of them."""
    rows = GroupRows(connection, touched, push)
    waiting = (dialect_of(connection).pending[-1], c.live_gate.is_(None), c.waits > 0)
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
        locked = [task for task in rows.tasks(list(found)).values() if task.parked]
        lost |= lost_parents(locked, _parents(connection, locked))
        if len(lost) >= MENDED:
            break
    rows.followed(to_groups(rows, to_children(rows, as_cancelled(lost), now), now))
    return len(lost)


def _parents(connection: Connection, children: Sequence[Task]) -> dict[str, Task]:
    """Return the parents that are there, with their statuses and flows."""
    known: dict[str, Task] = {}
    for part in chunks(sorted({parent for child in children for parent in parents_of(child)})):
        for row in connection.execute(select(c.task_id, c.status, c.flow).where(c.task_id.in_(part))):
            known[row.task_id] = Task(task_id=row.task_id, type="", status=row.status, flow=read_flow(row.flow)[0])
    return known
