"""Pushes with an id of the caller's: an id that has ended runs again or is refused, and is never ignored.

A key of the caller's that an expired task holds is free.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aiotaskq.backends.change import Change
from aiotaskq.concurrency.clock import Clock
from aiotaskq.core.outcome import Rerun, settle
from aiotaskq.core.task import Status, Task
from aiotaskq.errors import TaskConflict
from aiotaskq.log import printable
from aiotaskq.runtime.queue.push_hooks import PushedHooks

if TYPE_CHECKING:
    from aiotaskq.backends.base import Backend


def expired_conflicts(tasks: Sequence[Task], stored: Sequence[Task], now: int) -> dict[int, Task]:
    """Return the expired rows that conflict with ``tasks``, by the positions of the tasks.

    ``stored`` is the answer of the store to the push of ``tasks``.
    """
    return {
        position: row
        for position, (task, row) in enumerate(zip(tasks, stored, strict=True))
        if row is not task and _is_expired(row, task, now)
    }


def _is_expired(row: Task, task: Task, now: int) -> bool:
    """Whether the row conflicts with the task by its unique key only, and has expired."""
    return (
        row.status is Status.PENDING
        and row.task_id != task.task_id
        and task.unique_key is not None
        and row.unique_key == task.unique_key
        and row.expires_at is not None
        and row.expires_at <= now
    )


class KnownIds:
    """Decides what a push does if the task of its id has ended. ``add`` pushes as the queue does."""

    def __init__(
        self,
        backend: Backend,
        clock: Clock,
        add: Callable[[Sequence[Task], Any], Awaitable[list[Task]]],
        pushed: PushedHooks,
    ) -> None:
        self._backend = backend
        self._clock = clock
        self._add = add
        self._pushed = pushed

    async def push(self, tasks: Sequence[Task], own_ids: Mapping[str, bool], session: Any = None) -> list[Task]:
        """Push, and return for each task the row that is there now, as ``Queue.add`` does.

        ``own_ids`` has the ids that the caller chose, and whether each may run again. Tasks that do are written after
        the others, in a transaction of their own unless a session is given. Raises TaskConflict for an id that has
        ended and may not run again, or not with these keys; then nothing was written.
        """
        if len(tasks) > 1:
            known = await self._backend.get(list(own_ids))
            rows = {row.task_id: row for row in known if row is not None}
            for task in tasks:
                if task.task_id in own_ids and task.task_id in rows:
                    _check(task, rows[task.task_id], own_ids[task.task_id])
        stored = await self._add(tasks, session)
        for number, (task, row) in enumerate(zip(tasks, stored, strict=True)):
            if row is not task and row.task_id == task.task_id and row.final:
                if len(tasks) == 1:
                    _check(task, row, own_ids.get(task.task_id, False))
                if own_ids.get(task.task_id):
                    stored[number] = await self._until_live(row, task, session)
        return stored

    async def _until_live(self, row: Task, task: Task, session: Any) -> Task:
        while row is not task and row.final:
            if await self.run_again(row, task, session):
                return task
            (row,) = await self._add([task], session)
        return row

    async def run_again(self, ended: Task, new: Task, session: Any = None) -> bool:
        """Make the row of an ended task pending again, as ``new`` says; return False if it has changed meanwhile.

        Raises TaskConflict if ``new`` has other keys, or a newer task holds the unique key; with a session also if the
        row has changed, since its transaction may not see that.
        """
        _check(new, ended, retry=True)
        changes = [Change(ended, settle(ended, Rerun(new), self._clock.now()))]
        if session is None:
            (held,) = await self._backend.update(changes)
        else:
            (held,) = await self._backend.update_with(session, changes, self._pushed.at_commit([new], [new]))
        if held:
            if session is None:
                self._pushed.call([new], [new])
            return True
        (row,) = await self._backend.get([new.task_id])
        if row is not None and (row.status, row.fence, row.seq) == (ended.status, ended.fence, ended.seq):
            raise TaskConflict(f"task_id: a newer task holds the unique key of {printable(new.task_id)}")
        if session is not None:
            raise TaskConflict(f"task_id: {printable(new.task_id)} was changed by another transaction; begin a new one")
        return False


def _check(task: Task, row: Task, retry: bool) -> None:
    """Raise TaskConflict if the row has ended, and the push neither repeats an earlier one nor may run it again."""
    if not row.final:
        return
    if not retry:
        if task.idempotency_key is None or task.idempotency_key != row.idempotency_key:
            raise TaskConflict(
                f"task_id: {printable(row.task_id)} is {row.status}; use another id, or if_ended='retry'"
            )
        return
    for field, mine, theirs in (
        ("unique_key", task.unique_key, row.unique_key),
        ("idempotency_key", task.idempotency_key, row.idempotency_key),
    ):
        if mine not in (None, theirs):
            raise TaskConflict(f"{field}: {printable(row.task_id)} was pushed with another one; use another id")
