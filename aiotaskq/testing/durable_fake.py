"""The durable fake: a store in memory that behaves as a durable, shared one, for the tests of an application.

It refuses what a database refuses, its leases run out, and it shares no object with its callers. But nothing survives
the process, and nothing waits for a disk. It has schedules, too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Self, TypeVar

import msgspec

from aiotaskq.backends.base import Change, Claim, Room
from aiotaskq.backends.flow.groups import parents_first
from aiotaskq.backends.flow.transaction import Transaction
from aiotaskq.backends.memory.backend import MemoryBackend
from aiotaskq.backends.memory.side_rows import MemorySideRows
from aiotaskq.backends.memory.transaction import MemoryTransaction
from aiotaskq.backends.side_rows import WORKER
from aiotaskq.core.codec import Codec
from aiotaskq.core.coded import decoded, encoded
from aiotaskq.core.outcome import owner_of
from aiotaskq.core.task import Task

T = TypeVar("T")
KEEP = 1_000_000  # ended tasks: more than a test makes


class DurableFake(MemoryBackend):
    """The store of one test."""

    durable: ClassVar[bool] = True
    shared = True

    def __init__(self) -> None:
        super().__init__(keep=KEEP)
        self._tx.check = self.check
        self.inserted: list[Task] | None = None
        """The new rows of a transaction whose session has committed."""
        self.on_commit: Callable[[Task], object] = lambda task: None
        """Called with each task of a push in a session when it is stored, in the thread that commits."""

    async def push(self, tasks: Sequence[Task], room: Room | None = None) -> list[Task]:
        self.check(tasks)
        return await super().push(tasks, room)

    async def keeps_ended(self) -> bool:
        return True  # a test that lets a month pass still reads what came of its tasks

    async def update_with(
        self, session: Any, changes: Sequence[Change], committed: Callable[[], None] = lambda: None
    ) -> list[bool]:
        """Write the changes when the session commits; one whose task is changed by others until then is not written."""
        self.check([task for change in changes for task in change.then])
        held = self.rehearse(session, lambda at: parents_first(changes, at.update))
        written = [change for change, ok in zip(changes, held, strict=True) if ok]
        await self.at_commit(session, lambda at: parents_first(written, at.update), committed)
        return held

    async def transact_with(
        self, session: Any, body: Callable[[Transaction], T], committed: Callable[[], None] = lambda: None
    ) -> T:
        """Run a transaction on a copy of the store, and when the session commits on the store; return the first answer.

        On the copy, what the session has written before is written before it.
        """
        answer = self.rehearse(session, body)
        await self.at_commit(session, body, committed)
        return answer

    def rehearse(self, session: Any, body: Callable[[Transaction], T]) -> T:
        """Return what a transaction returns after those that wait for the commit of a session."""
        from aiotaskq.backends.sql.caller_session import waiting_for_commit

        copy = self.copy()
        for each in waiting_for_commit(session):
            if isinstance(each, functools.partial) and each.func == self.commit:
                copy.run(each.args[0])
        return copy.run(body)

    async def at_commit(
        self, session: Any, body: Callable[[Transaction], object], committed: Callable[[], None]
    ) -> None:
        """Run a transaction when the session commits."""
        from aiotaskq.backends.sql.caller_session import at_commit

        await at_commit(session, functools.partial(self.commit, body, committed))

    def commit(self, body: Callable[[Transaction], object], committed: Callable[[], None]) -> None:
        """Run a transaction whose session has committed."""
        with self._lock:
            inserted: list[Task] = []
            self.inserted = inserted
            try:
                self.run(body)
            finally:
                self.inserted = None
        for task in inserted:
            self.on_commit(task)
        committed()

    def copy(self) -> DurableFake:
        """Return a store with the same tasks, groups, gates and side rows."""
        with self._lock:
            empty = DurableFake().coded_by(self.codec)
            return empty.taking(self._tasks.values(), self.queues.paused, self._tx, self._side)

    def taking(self, rows: Iterable[Task], paused: Iterable[str], tx: MemoryTransaction, side: MemorySideRows) -> Self:
        """Take over what another store has; this one is empty."""
        self.queues.paused.update(paused)
        for row in rows:
            self._enter(row)
        self._tx.take(tx)
        self._side.owned.take(side.owned)
        return self

    def _insert(self, task: Task) -> Task:
        row = self._copy(task)
        stored = super()._insert(row)
        if stored is row and self.inserted is not None:
            self.inserted.append(task)
        return task if stored is row else stored

    async def _claim(self, wanted: Claim) -> list[Task]:
        # A handler that changes its params must not change the row.
        return [self._copy(task) for task in await super()._claim(wanted)]

    async def overdue(self, now: int, limit: int) -> list[Task]:
        with self._lock:
            workers = {row.name for row in self._side.owned.of(WORKER, [""])}
            running = [self._tasks[task_id] for task_id in self._running]
            held = [row for row in running if row.lease_until is None and row.lease_owner]
            orphans = [row for row in held if owner_of(row) not in workers]
            return (orphans + await super().overdue(now, limit))[:limit]

    async def update(self, changes: Sequence[Change]) -> list[bool]:
        self.check([task for change in changes for task in change.then])
        return await super().update(changes)

    def _update(self, changes: Iterable[Change]) -> list[bool]:
        # One at a time: a change depends on what the one before has written.
        return super()._update(self._without_params(change) for change in changes)

    def _copy(self, task: Task) -> Task:
        """Return the task with params of its own, as a database returns them. Raises TypeError for what is not JSON.

        Rows are kept as plain values. A codec is used here, so that one that loses a value is found by a test.
        """
        if not task.params:
            return task
        if self.codec is not None:
            return decoded(encoded(task, self.codec), self.codec)
        return task.replace(params=msgspec.json.decode(msgspec.json.encode(task.params)))

    def check(self, tasks: Sequence[Task]) -> None:
        """Raise TypeError for params that are not JSON, before anything is stored."""
        for task in tasks:
            self._copy(task)

    def coded_by(self, codec: Codec | None) -> Self:
        super().coded_by(codec)
        self.groups.codec = self.schedules.codec = None  # as for tasks: a codec is for what leaves the process
        return self

    def _without_params(self, change: Change) -> Change:
        row = self._tasks.get(change.before.task_id)
        if row is None or change.after.params is not change.before.params:
            return change
        return msgspec.structs.replace(change, after=change.after.replace(params=row.params))
