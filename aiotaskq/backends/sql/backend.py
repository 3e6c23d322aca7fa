"""The SQL backend: each verb is one transaction, whose body is a function of ``tasks``, ``claim`` or a sibling."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Any, ClassVar, Final, TypeVar

from sqlalchemy import Connection, make_url

from aiotaskq.backends.base import Backend, Change, Claim, Room, ScheduleChange
from aiotaskq.backends.flow.transaction import push
from aiotaskq.backends.listeners import CANCEL, READY
from aiotaskq.backends.schedules import changing
from aiotaskq.backends.sql import claim as claim_sql
from aiotaskq.backends.sql import pushes
from aiotaskq.backends.sql import tasks as tasks_sql
from aiotaskq.backends.sql.changes import in_one
from aiotaskq.backends.sql.database import Database
from aiotaskq.backends.sql.group_rows import SqlGroupReads
from aiotaskq.backends.sql.migrations import is_adopted, up_to_date, upgrade
from aiotaskq.backends.sql.rows import value_of
from aiotaskq.backends.sql.schedules import SqlSchedules
from aiotaskq.backends.sql.side_rows import SqlSideRows
from aiotaskq.backends.sql.statement_size import small_enough
from aiotaskq.backends.sql.transaction import SqlGateReads, SqlTransaction, SqlTransactions, reads
from aiotaskq.backends.steps import set_back_sleeps
from aiotaskq.core.gate import set_back
from aiotaskq.core.parking import any_flow
from aiotaskq.core.task import Task, TaskFilter, any_tags
from aiotaskq.errors import DatabaseUnavailable

T = TypeVar("T")
EVERY: Final = 2**31
"""As a limit: more gates than there are."""


class SqlBackend(Backend):
    """Tasks, public values and schedules in one SQL database. Belongs to the loop in which it is opened."""

    durable: ClassVar[bool] = True

    def __init__(self, url: str, patience: float | None = None) -> None:
        super().__init__()
        self._url = url
        self.database = Database(url, self._upgrade, self._is_upgraded, patience)
        dialect = self._dialect = self.database.dialect
        self.shared = "host" if dialect.single_writer else True
        self._notifier = dialect.notifier(self.database, self.listeners, make_url(url))
        self.transactions = SqlTransactions(self.database, self, self._notifier.bind, self._enter)
        self._read = self.transactions.look
        self.schedules: SqlSchedules = SqlSchedules(self.database, self.listeners, self.transactions)
        groups = SqlGroupReads(self.database, dialect)
        self.keep(self.transactions, SqlSideRows(self.database), SqlGateReads(self._read), groups)

    def _is_upgraded(self, connection: Connection) -> bool:
        self._dialect.check_server(connection)
        return up_to_date(connection)

    def _upgrade(self, connection: Connection) -> None:
        self.invalid_rows = upgrade(connection)

    def _enter(self, connection: Connection) -> None:
        """Create the tables in the caller's transaction if it may hold the lock that ``open`` would wait for.

        Raises DatabaseUnavailable if the open file of SQLite was deleted or replaced.
        """
        if self._dialect.single_writer and not self.database.is_open:
            self._upgrade(connection)
        self.database.check_file()

    async def _write(self, body: Callable[[SqlTransaction], T], autocommit: bool = False) -> T:
        return await self.database.write(lambda connection: body(self.transactions.tx(connection)), autocommit)

    async def open(self) -> None:
        await self.database.open()

    async def close(self) -> None:
        await self._notifier.stop()
        await self.transactions.close()
        await self.database.close()

    async def tidy(self) -> None:
        await self.database.read(self._dialect.tidy)

    async def clock_set(self, anchor: int, back: int, now: int) -> None:
        def body(tx: SqlTransaction) -> bool:
            moved = self._dialect.clock_set(tx.connection, anchor, back, now)
            if moved:
                gates = [(gate, set_back(gate, back, now)) for gate in tx.find_gates(EVERY)]
                tx.write_gates([after for before, after in gates if after != before])
                set_back_sleeps(tx, back, now, self.steps.codec)
            return moved

        if self._dialect.single_writer and await self._write(body):
            self.listeners.notify(READY)

    def another(self, patience: float | None = None) -> SqlBackend:
        return type(self)(self._url, patience)

    async def watch(self) -> None:
        self._notifier.listen()

    def pending(self) -> Iterable[Future[Any]]:
        return self.database.pending | self.transactions.pending

    async def push(self, tasks: Sequence[Task], room: Room | None = None) -> list[Task]:
        if room is not None:
            return await self.transactions.transact(lambda tx: pushes.push_bounded(tx, tasks, room))
        if any_flow(tasks) or any_tags(tasks):
            stored, _, ready, _ = await self.transactions.write(lambda tx: push(tx, tasks))
            if ready is None or ready or not all(task.parked for task in tasks):
                self.listeners.notify(READY)
            return stored
        # A push that is repeated is the same push, whether or not the first one was committed.
        autocommit = self._dialect.autocommit and small_enough(len(tasks), (value_of(task, "params") for task in tasks))
        notify = self._notifier.along(READY, len(tasks)) if autocommit and tasks else None
        stored = await self._write(lambda tx: pushes.insert(tx, tasks, notify), autocommit) if tasks else []
        if notify is not None:
            self.listeners.receive(READY)
            return stored
        if len(tasks) > 1:
            self._notifier.weigh(READY, len(tasks) - 1)
        self.listeners.notify(READY)
        return stored

    async def _claim(self, wanted: Claim) -> list[Task]:
        if not self._dialect.autocommit:
            return await self._write(lambda tx: claim_sql.claim(tx, wanted))
        if not wanted.limit:
            return []
        tasks, more = await self._write(lambda tx: claim_sql.claim_first(tx, wanted), autocommit=True)
        if more:
            rest = wanted._replace(limit=wanted.limit - len(tasks))
            try:
                # Read without a lock: tasks pushed before these heads meanwhile come with the next claim.
                if heads := await self._read(lambda tx: list(claim_sql.due_heads(tx, wanted.now))):
                    alone = len(heads) == 1
                    tasks += await self._write(lambda tx: claim_sql.claim(tx, rest, heads), autocommit=alone)
            except DatabaseUnavailable:
                if not tasks:
                    raise  # else return the claimed tasks, which must not be lost; the next claim raises
        return tasks

    async def update(self, changes: Sequence[Change]) -> list[bool]:
        return (await self._update(changes))[0] if changes else []

    async def exchange(self, changes: Sequence[Change], wanted: Claim) -> tuple[list[bool], list[Task]]:
        if not changes or not wanted.limit:
            return await super().exchange(changes, wanted)
        return await self._update(changes, wanted)

    async def _update(self, changes: Sequence[Change], claim: Claim | None = None) -> tuple[list[bool], list[Task]]:
        """Write the changes, and claim in the same transaction."""
        autocommit = claim is None and self._dialect.autocommit and in_one(changes)
        write = partial(self.database.write, autocommit=autocommit)
        held, tasks, ready, _ = await self.transactions.write(
            lambda tx: tasks_sql.update_tasks(tx, changes), claim, write
        )
        self._hint_written(changes, held, tasks, ready)
        return held, tasks

    def _hint_written(
        self, changes: Sequence[Change], held: Sequence[bool], tasks: Sequence[Task], ready: Collection[str] | None
    ) -> None:
        """Send the hints of changes, after which these ``tasks`` were claimed; ``ready`` as from ``transactions``."""
        hints = self.hints_of_update(changes, held)
        # Where all have ended, what gates have let pass is known: it may have been claimed here.
        known = ready is not None and all(change.after.final and not change.then for change in changes)
        if known and not set(ready or ()).difference([task.task_id for task in tasks]):
            hints.pop(READY, None)
        for kind, names in hints.items():
            self.listeners.notify(kind, names)

    async def push_and_claim(
        self, tasks: Sequence[Task], wanted: Claim, ended: Sequence[Change] = ()
    ) -> tuple[list[Task], list[bool], list[Task]]:
        if not (self._dialect.single_writer and tasks):
            return await super().push_and_claim(tasks, wanted, ended)
        (stored, held), claimed, ready, _ = await self.transactions.write(
            lambda tx: (push(tx, tasks), tasks_sql.update_tasks(tx, ended)), wanted
        )
        self._hint_left(tasks, claimed)
        self._hint_written(ended, held, claimed, ready)
        return stored, held, claimed

    async def fire_and_claim(
        self, changes: Sequence[ScheduleChange], wanted: Claim, ended: Sequence[Change] = ()
    ) -> tuple[list[bool], list[bool], list[Task]]:
        if not self._dialect.single_writer:
            return await super().fire_and_claim(changes, wanted, ended)
        fired, tasks, held, claimed, ready = await self.schedules.write_and_claim(*changing(changes), wanted, ended)
        self._hint_left(tasks, claimed)
        self._hint_written(ended, held, claimed, ready)
        return fired, held, claimed

    def _hint_left(self, pushed: Sequence[Task], claimed: Sequence[Task]) -> None:
        if not {task.task_id for task in pushed} <= {task.task_id for task in claimed}:
            self.listeners.notify(READY)

    async def report(self, progress: Sequence[tuple[str, int, dict[str, Any]]]) -> list[bool]:
        return await self._write(lambda tx: tasks_sql.report(tx, progress))

    async def request_cancel(self, ids: Sequence[str]) -> list[bool]:
        flagged = await self._write(lambda tx: tasks_sql.request_cancel(tx, ids))
        self.listeners.notify(CANCEL, ids)
        return flagged

    async def cancelling(self, ids: Sequence[str]) -> list[str]:
        return await self._read(lambda tx: tasks_sql.cancelling(tx, ids)) if ids else []

    async def recode(self, ids: Sequence[str]) -> list[bool | None]:
        codec = self.codec
        if codec is None:
            return await super().recode(ids)
        return await self._write(lambda tx: tasks_sql.recode_tasks(tx, ids, codec))

    ping = reads(tasks_sql.clock)
    get = reads(tasks_sql.get)
    find = reads(tasks_sql.find)
    last_ended = reads(tasks_sql.last_ended)
    ids_with_prefix = reads(tasks_sql.ids_with_prefix)
    active = reads(tasks_sql.active)
    paused = reads(tasks_sql.paused)
    overdue = reads(tasks_sql.overdue)
    held = reads(tasks_sql.held)
    least_ready = reads(pushes.least_ready)
    pending_types = reads(claim_sql.pending_types)
    next_run_at = reads(claim_sql.next_run_at)
    stats = reads(claim_sql.stats)

    async def count_ready(self, now: int, queues: Sequence[str] | None = None) -> int:
        return (await self._read(lambda tx: claim_sql.ready(tx, now, queues)))[0]

    async def purge(self, where: TaskFilter, limit: int) -> int:
        deleted, passed = await self._write(lambda tx: tasks_sql.purge(tx, where, limit))
        while passed is not None and deleted < limit:
            left, behind = limit - deleted, passed
            more, passed = await self._write(partial(tasks_sql.purge, where=where, limit=left, passed=behind))
            deleted += more
        return deleted

    async def delete(self, ids: Sequence[str], *, ended: bool = False) -> int:
        deleted, *_ = await self.transactions.write(lambda tx: tasks_sql.delete_tasks(tx, ids, ended))
        return deleted

    async def set_paused(self, queue: str, paused: bool) -> None:
        if await self._write(lambda tx: tasks_sql.set_paused(tx, queue, paused)):
            await self.gates.pause(queue, paused)
        self.listeners.notify(READY)

    async def keeps_ended(self) -> bool:
        return await self.database.read(is_adopted)
