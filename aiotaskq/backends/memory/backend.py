"""The memory backend: rows in a dict, and an asyncio.Queue for each named queue. Nothing survives the process.

Every verb runs under one lock and never suspends, so that an event loop and threads can share one queue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, TypeVar

from aiotaskq.backends.base import Change, Claim, Room, matching
from aiotaskq.backends.change import has_moved, holds
from aiotaskq.backends.flow.groups import again, follow_deletes, parents_first, staying, waits_again
from aiotaskq.backends.flow.transaction import Store, Transaction, push
from aiotaskq.backends.listeners import CANCEL, ENDED, READY
from aiotaskq.backends.memory.ended import Ended
from aiotaskq.backends.memory.gate_rows import MemoryGateReads
from aiotaskq.backends.memory.group_rows import MemoryGroupReads
from aiotaskq.backends.memory.reads import MemoryReads
from aiotaskq.backends.memory.ready_queue import Arrivals
from aiotaskq.backends.memory.schedules import MemorySchedules
from aiotaskq.backends.memory.side_rows import MemorySideRows
from aiotaskq.backends.memory.transaction import MemoryTransaction
from aiotaskq.backends.memory.values import MemoryValues
from aiotaskq.backends.url import KEEP_ENDED
from aiotaskq.core.parking import any_flow
from aiotaskq.core.status import COMPLETED, FINAL, PENDING, RUNNING
from aiotaskq.core.task import Task, TaskFilter, same_push
from aiotaskq.errors import LeaseLost

T = TypeVar("T")


class MemoryBackend(MemoryReads, Store):
    """Tasks and public values of this process. The latest ``keep`` dead letters and as many other ended tasks stay."""

    wakes_later = False
    durable: ClassVar[bool] = False
    shared: bool = False

    def __init__(self, keep: int = KEEP_ENDED, objects: bool = False) -> None:
        super().__init__()
        self.objects = objects
        """Whether params and results may be any Python objects, and not only JSON values."""
        self._side = MemorySideRows(self._lock)
        self._lock.enter = self._insert
        self.enqueue = self.queues.enqueue
        """Pushes a task with a new id and no other key; in the main thread without a lock."""
        self._ended = Ended(keep, self._tasks, self._keys, self._side.drop_of, self._lock)
        verbs = self._insert, self._move, self._update
        self._tx = MemoryTransaction(self._tasks, self._ended, *verbs, self._side.owned, self)
        gates, groups = MemoryGateReads(self._tx, self._lock), MemoryGroupReads(self._tx, self._lock)
        self.keep(self, self._side, gates, groups)
        self.values, self.schedules = MemoryValues(), MemorySchedules(self)
        self._tx.messages, self._tx.heard = self.groups.messages, self.groups.note

    async def transact(self, body: Callable[[Transaction], T], *, repeatable: bool = False) -> T:
        return self.run(body)

    def run(self, body: Callable[[MemoryTransaction], T]) -> T:
        """Do as ``transact``, without a coroutine."""
        with self._lock:
            written = self._tx.written = []
            answer = body(self._tx)
            wakes = self._tx.end()
        for changes, held in written:
            self.notify_updated(changes, held)
        if wakes:
            self.listeners.notify(READY)
        return answer

    def arrivals(self, queues: Sequence[str] | None = None) -> Arrivals:
        return Arrivals(self.queues, queues)

    async def push(self, tasks: Sequence[Task], room: Room | None = None) -> list[Task]:
        with self._lock:
            if room is not None:
                self.check_room(tasks, room)
                if room.instead:
                    self._tx.check_push(tasks)  # nothing is written yet
                self._update(room.instead)
            stored = push(self._tx, tasks) if any_flow(tasks) else [self._insert(task) for task in tasks]
            self._tx.end()
        if room is not None:
            self.notify_updated(room.instead, [True] * len(room.instead))
        self.listeners.notify(READY)
        return stored

    def insert(self, task: Task) -> Task:
        """Do as ``push`` with one pending task, without a coroutine."""
        with self._lock:
            if task.flow is None:
                stored = self._insert(task)
            else:
                (stored,) = push(self._tx, [task])
                self._tx.end()
        if READY in self.listeners.by_kind:
            self.listeners.notify(READY)
        return stored

    def _insert(self, task: Task) -> Task:
        # Most tasks have no keys. To ask the index for each, here and below, would slow a push by a fifth.
        keyed = task.unique_key is not None or task.idempotency_key is not None
        if not keyed and task.flow is None and task.status is PENDING and task.task_id not in self._tasks:
            self._tasks[task.task_id] = task
            if task.expires_at is None and task.run_at <= task.seq:
                self.queues[task.queue].put_nowait(task)
            else:
                self.queues[task.queue].add(task)
            return task
        if (row := self.conflicting(task) if keyed else self._tasks.get(task.task_id)) is None:
            self._enter(task)
        return task if row is None or same_push(row, task) else row

    def _enter(self, task: Task) -> None:
        """Make ``task`` the row under its id, in the rows and in every index."""
        if task.unique_key is not None or task.idempotency_key is not None:
            self._keys.add(task)
        self._tasks[task.task_id] = task
        if task.status is PENDING:
            self.queues[task.queue].add(task)
        elif task.status is RUNNING:
            self._running[task.task_id] = None
            self.queues[task.queue].count_unfinished()
        else:
            self._ended.add(task)
            return
        if task.flow is not None:
            self._tx.enter(task)

    def _leave(self, task: Task) -> None:
        """Remove a row from every index."""
        if task.unique_key is not None or task.idempotency_key is not None:
            self._keys.remove(task)
        if task.flow is not None:
            self._tx.leave(task)
        if task.status is PENDING:
            self.queues[task.queue].discard(task)
        elif task.status is RUNNING:
            del self._running[task.task_id]
        else:
            self._ended.remove(task)

    async def _claim(self, wanted: Claim) -> list[Task]:
        owner, now, limit, queues, lease_until = wanted
        with self._lock:
            return [self._start(task, owner, now, lease_until) for task in self.queues.take(now, limit, queues)]

    def step(
        self,
        owner: str,
        now: int,
        queues: Sequence[str] | None = None,
        before: Task | None = None,
        after: Task | None = None,
    ) -> Task | None:
        """Do as ``exchange`` with one change, or none, and a limit of one; return the claimed task, or None.

        Empty ``queues`` claim nothing. The claimed task has no lease. Raises LeaseLost, and does nothing, if the guard
        of the change does not hold.
        """
        change = None  # other than the commonest one
        with self._lock:
            if before is not None and after is not None:
                completes_without_gates = before.status is RUNNING and after.status is COMPLETED and before.flow is None
                keyless = before.unique_key is before.idempotency_key is None
                if completes_without_gates and keyless and self._tasks.get(before.task_id) is before:
                    del self._running[before.task_id]
                    self._tasks[before.task_id] = after
                    self._ended.add(after)
                    self.queues[before.queue].task_done()
                else:
                    change = Change(before, after)
                    if not self._update([change])[0]:
                        raise LeaseLost(f"task {before.task_id} has changed since it was read")
            task = None if queues == () else self.queues.take_one(now, queues)
            if task is not None:
                task = self._start(task, owner, now, None)
        if change is not None:
            self.notify_updated([change], [True])
        elif after is not None and ENDED in self.listeners.by_kind:
            self.listeners.notify(ENDED, [after.task_id])
        if self._ended.unlogged:
            self._ended.log_dropped()
        return task

    async def update(self, changes: Sequence[Change]) -> list[bool]:
        with self._lock:
            held = parents_first(changes, self._update)
        self.notify_updated(changes, held)
        self._ended.log_dropped()
        return held

    def _update(self, changes: Iterable[Change]) -> list[bool]:
        held = []
        for change in changes:
            after, row = change.after, self._tasks.get(change.before.task_id)
            if row is not None and row.unique_key is None and after.unique_key is not None:
                after = after.replace(unique_key=None)  # it was given up meanwhile
            guard = row is not None and (row is change.before or (holds(row, change) and not has_moved(row, change)))
            # An ended task that is brought back must not have the unique key of a newer task.
            held.append(guard and (after.unique_key is None or self._keys.holder(after) is None))
            if row is not None and held[-1]:
                brought_back = row.status in FINAL and after.status not in FINAL
                if brought_back:
                    self._tx.settle()  # it reads what follows from the changes before it
                    after = again(self._tx, after) if waits_again(row, after) else after
                self._leave(row)
                if row.progress is not after.progress or row.usage is not after.usage:  # written meanwhile
                    after = after.replace(progress=row.progress, usage=row.usage)
                self._enter(after)
                if change.then:
                    push(self._tx, change.then, refused=False)
                self.queues.done(row)
                if row.flow is not None or after.flow is not None:
                    self._tx.changes.append((row, after))
                if brought_back:
                    self._tx.settle()
        self._tx.end()
        return held

    def _move(self, row: Task, after: Task) -> None:
        self._leave(row)
        self._enter(after)
        self.queues.done(row)

    async def report(self, progress: Sequence[tuple[str, int, dict[str, Any]]]) -> list[bool]:
        with self._lock:
            return [self._edit(i, fence, progress=value) for i, fence, value in progress]

    async def request_cancel(self, ids: Sequence[str]) -> list[bool]:
        with self._lock:
            flagged = [self._edit(task_id, None, cancel_requested=True) for task_id in ids]
        self.listeners.notify(CANCEL, ids)
        return flagged

    async def purge(self, where: TaskFilter, limit: int) -> int:
        with self._lock:
            found = list(filter(matching(where), self._ended.tasks()))
            stay = staying(self._tx, found, where.completed_before)
            return await self.delete([task.task_id for task in found if task.task_id not in stay][:limit])

    async def delete(self, ids: Sequence[str], *, ended: bool = False) -> int:
        deleted = 0
        with self._lock:
            for task_id in ids:
                if (row := self._tasks.get(task_id)) is not None and (row.final or not ended):
                    del self._tasks[task_id]
                    self._leave(row)
                    self._ended.drop_of(task_id)
                    self.queues.done(row)
                    if row.flow is not None:
                        follow_deletes(self._tx, [row])
                    deleted += 1
            self._tx.end()
        return deleted

    async def set_paused(self, queue: str, paused: bool) -> None:
        self.queues.pause(queue, paused)
        await self.gates.pause(queue, paused)
        self.listeners.notify(READY)
