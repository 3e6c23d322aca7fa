"""The keys of tasks in memory, and the ended tasks, of which the latest dead letters and the latest others stay."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from itertools import chain
from typing import Any

from aiotaskq.core.groups import GroupState, stays
from aiotaskq.core.status import FAILED
from aiotaskq.core.task import Task
from aiotaskq.log import log, named


class Keys(dict[tuple[str, str], str]):
    """An index from keys to task ids."""

    def add(self, task: Task) -> None:
        """Index the keys of a task; a unique key only until the task has ended."""
        for key in _keys_of(task):
            self[key] = task.task_id

    def remove(self, task: Task) -> None:
        """Remove the keys of a task."""
        for key in _keys_of(task):
            self.pop(key, None)

    def holder(self, task: Task) -> str | None:
        """Return the id of another task that has one of the keys of this one, or None."""
        for key in _keys_of(task):
            if self.get(key, task.task_id) != task.task_id:
                return self[key]
        return None


def _keys_of(task: Task) -> list[tuple[str, str]]:
    if task.unique_key is task.idempotency_key is None:
        return []
    keys = [] if task.idempotency_key is None else [("idempotency", task.idempotency_key)]
    return keys if task.unique_key is None or task.final else [*keys, ("unique", task.unique_key)]


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
        # The ids of each kind in the order of their ends. A dict would take long to find its first key once many were
        # removed before it.
        self._dead_letters, self._others = OrderedDict[str, None](), OrderedDict[str, None]()
        self._members: dict[str, None] = {}  # the ids of the members of groups that stay
        self.groups: Mapping[str, GroupState] = {}
        """Every group, by id."""
        self.lost: list[Task] = []
        """Dead letters that were dropped, and that a group still counts."""
        self.unlogged: list[Task] = []
        """The first task of each kind that was dropped, until ``log_dropped``."""
        self._dropped: set[bool] = set()  # whether those that were dropped are dead letters

    def tasks(self) -> list[Task]:
        """Return the ended tasks."""
        return [self._rows[task_id] for task_id in chain(self._dead_letters, self._others, self._members)]

    def add(self, task: Task) -> None:
        """Add a row that has ended; drop the oldest of its kind if there are too many."""
        if self.groups and self._stays(task):
            self._members[task.task_id] = None
            return
        kind = self._dead_letters if task.status is FAILED else self._others
        kind[task.task_id] = None
        if len(kind) > self.keep:
            oldest = self._rows.pop(kind.popitem(False)[0])
            if oldest.idempotency_key is not None:
                self._keys.remove(oldest)
            if oldest.status is FAILED and oldest.flow is not None:
                self.lost.append(oldest)
            self.drop_of(oldest.task_id)
            if (lost := oldest.status is FAILED) not in self._dropped:
                self._dropped.add(lost)
                self.unlogged.append(oldest)

    def remove(self, task: Task) -> None:
        """Take note that a task is about to run again, or is deleted."""
        for ids in (self._members, self._dead_letters, self._others):
            ids.pop(task.task_id, None)

    def _stays(self, task: Task) -> bool:
        group = None if task.flow is None else self.groups.get(task.flow.group or "")
        while group is not None and (around := self.groups.get(group.parent_id or "")) is not None:
            group = around
        return stays(task, group)

    def keep_members(self, members: Iterable[str]) -> None:
        """Keep these members of groups, or let the bounds hold for them, as the outermost group around is by now."""
        rows = [row for task_id in members if (row := self._rows.get(task_id)) is not None and row.final]
        moved = [row for row in rows if self._stays(row) != (row.task_id in self._members)]
        for row in moved:
            self.remove(row)
        for row in sorted(moved, key=lambda row: row.ended_at or 0):
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
