"""The keys of tasks in memory, and the ended tasks, of which the latest dead letters and the latest others stay."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from heapq import nlargest
from itertools import chain
from typing import Any

from aiotaskq.core.groups import GroupState, stays
from aiotaskq.core.status import FAILED, Status
from aiotaskq.core.task import Task
from aiotaskq.log import log, named


class Keys:
    """An index from keys to task ids."""

    def __init__(self) -> None:
        self._ids: dict[tuple[str, str], str] = {}

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, task: Task) -> None:
        """Index the keys of a task; a unique key only until the task has ended."""
        for key in _keys_of(task):
            self._ids[key] = task.task_id

    def remove(self, task: Task) -> None:
        """Remove the keys of a task."""
        for key in _keys_of(task):
            self._ids.pop(key, None)

    def holder(self, task: Task) -> str | None:
        """Return the id of another task that has one of the keys of this one, or None."""
        for key in _keys_of(task):
            if self._ids.get(key, task.task_id) != task.task_id:
                return self._ids[key]
        return None


def _keys_of(task: Task) -> list[tuple[str, str]]:
    if task.unique_key is task.idempotency_key is None:
        return []
    keys = [] if task.idempotency_key is None else [("idempotency", task.idempotency_key)]
    return keys if task.unique_key is None or task.final else [*keys, ("unique", task.unique_key)]


class _Kind(deque[Task]):
    """The rows of one kind, and others that were removed and are not sorted out yet."""

    __slots__ = ("drops", "removed")

    def __init__(self) -> None:
        super().__init__()
        self.removed = 0
        self.drops = False
        """Whether a task was dropped."""


class Ended:
    """The ended tasks, in the order in which they ended; used under the backend's lock, except ``log_dropped``.

    Dead letters and other tasks have a bound each, so that completed tasks never drop a dead letter. The members of a
    group that stay are kept beyond these bounds, and count from its end on.
    """

    def __init__(
        self,
        keep: int,
        rows: dict[str, Task],
        keys: Keys,
        drop_of: Callable[[str], None],
        lock: AbstractContextManager[Any],
    ) -> None:
        """Make an empty index of the ended tasks among these rows, which are by id; ``keep`` bounds each kind.

        What is beside a row that is dropped goes with it: ``drop_of`` is called with its id.
        """
        self.keep = keep
        self._rows = rows
        self._keys, self.drop_of = keys, drop_of
        self._lock = lock
        self._dead_letters, self._others = _Kind(), _Kind()
        self._outermost: dict[str, GroupState] = {}  # around each group whose ended members may stay
        self._members: dict[str, Task] = {}  # these members, by id
        self.lost: list[Task] = []
        """Dead letters that were dropped, and that a group still counts."""
        self.unlogged: list[Task] = []
        """The first task of each kind that was dropped, until ``log_dropped``."""

    def tasks(self) -> list[Task]:
        """Return the ended tasks."""
        return self._present(chain(self._dead_letters, self._others, self._members.values()))

    def _present(self, tasks: Iterable[Task]) -> list[Task]:
        rows = self._rows
        return [task for task in tasks if rows.get(task.task_id) is task]

    def latest(self, status: Status, limit: int) -> list[str]:
        """Return the ids of the tasks of a status that ended last, the latest first."""
        with self._lock:
            ended = ((row.completed_at, row.seq, row.task_id) for row in self.tasks() if row.status is status)
            return [found[2] for found in nlargest(limit, (each for each in ended if each[0] is not None))]

    def add(self, task: Task) -> None:
        """Add a row that has ended; drop the oldest of its kind if there are too many."""
        if self._stays(task):
            self._members[task.task_id] = task
            return
        kind = self._dead_letters if task.status is FAILED else self._others
        kind.append(task)
        while len(kind) - kind.removed > self.keep:
            oldest = kind.popleft()
            if self._rows.get(oldest.task_id) is not oldest:
                kind.removed -= 1
                continue
            del self._rows[oldest.task_id]
            if oldest.idempotency_key is not None:
                self._keys.remove(oldest)
            if oldest.status is FAILED and oldest.flow is not None:
                self.lost.append(oldest)
            self.drop_of(oldest.task_id)
            if not kind.drops:
                kind.drops = True
                self.unlogged.append(oldest)

    def remove(self, task: Task) -> None:
        """Take note that a task is about to run again, or is deleted."""
        if self._members.pop(task.task_id, None) is not None:
            return
        kind = self._dead_letters if task.status is FAILED else self._others
        kind.removed += 1
        if kind.removed > 1000 + len(kind) // 2:
            left = [each for each in self._present(kind) if each is not task]
            kind.clear()
            kind.extend(left)
            kind.removed = 0

    def _stays(self, task: Task) -> bool:
        flow = task.flow
        return flow is not None and flow.group is not None and stays(task, self._outermost.get(flow.group))

    def keep_members(self, groups: Iterable[str], members: Iterable[str], outermost: GroupState) -> None:
        """Keep ended members of these groups, or let the bounds hold for them, as the outermost group is by now."""
        last = outermost.ended_at is not None and not outermost.needed_by
        for group_id in groups:
            if last:
                self._outermost.pop(group_id, None)
            else:
                self._outermost[group_id] = outermost
        released = []
        for row in [row for task_id in members if (row := self._rows.get(task_id)) is not None and row.final]:
            here = row.task_id in self._members
            if self._stays(row) and not here:
                self.remove(row)
                self._rows[row.task_id] = self._members[row.task_id] = row.replace()  # another object than in its kind
            elif here and not self._stays(row):
                released.append(self._members.pop(row.task_id))
        for row in sorted(released, key=lambda row: row.ended_at or 0):
            self.add(row)

    def log_dropped(self) -> None:
        """Log the first task of a kind that was dropped; called without the lock, since writing a log can block."""
        if not self.unlogged:
            return
        with self._lock:
            unlogged, self.unlogged = self.unlogged, []
        for task in unlogged:
            if task.status is FAILED:
                log.warning(
                    "memory:// dropped its first dead letter, {}: it keeps the latest {} of them, and drops older ones "
                    "from now on; retry or purge dead letters, or raise keep_ended",
                    named(task),
                    self.keep,
                )
            else:
                log.info(
                    "memory:// keeps the latest {} ended tasks (keep_ended), and drops older ones from now on; "
                    "dead letters are kept apart",
                    self.keep,
                )
