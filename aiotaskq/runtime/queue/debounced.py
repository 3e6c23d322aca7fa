"""Debounced pushes: a call that finds the task of its key waiting changes it; if that one runs, it makes the next."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aiotaskq.backends.change import Change
from aiotaskq.concurrency.clock import Clock
from aiotaskq.core.debounce import Debounce, after_call
from aiotaskq.core.task import PENDING, Task
from aiotaskq.errors import TaskConflict
from aiotaskq.log import log, named

if TYPE_CHECKING:
    from aiotaskq.backends.base import Backend

Push = Callable[[list[Task]], Awaitable[list[Task]]]


class Debounced:
    """Pushes debounced tasks. ``update`` writes changes as the backend does."""

    def __init__(
        self, backend: Backend, clock: Clock, update: Callable[[Sequence[Change]], Awaitable[list[bool]]]
    ) -> None:
        self._backend = backend
        self._clock = clock
        self._update = update

    async def push(
        self, tasks: list[Task], push: Push, rules: Mapping[str, Debounce], session: Any = None
    ) -> list[Task]:
        """Push, and return for each task the row that is there now, as ``push`` does.

        ``rules`` are those of the debounced tasks, by id. What their calls change is written after the others, in a
        transaction of its own unless a session is given. Raises TaskConflict if a key is held by a task of another
        type; with a session also if another transaction has changed the row.
        """
        stored = await push(tasks)
        conflicts = _conflicts(tasks, stored, range(len(tasks)), rules)
        while conflicts:
            now = self._clock.now()
            begun = await self._begun([stored[at] for at in conflicts])
            before: dict[str, Task] = {}
            after: dict[str, Task] = {}
            for at in conflicts:
                row = stored[at]
                before.setdefault(row.task_id, row)
                rule, latest = rules[tasks[at].task_id], after.get(row.task_id, row)
                after[row.task_id] = after_call(latest, tasks[at], rule, now, row.task_id in begun)
            changes = [Change(row, after[task_id]) for task_id, row in before.items()]
            if session is None:
                held = await self._update(changes)
            else:
                held = await self._backend.update_with(session, changes)
                if not all(held):
                    raise TaskConflict("key: its task was changed by another transaction; begin a new one")
            written = {change.after.task_id for change, ok in zip(changes, held, strict=True) if ok}
            again = []
            for at in conflicts:
                row = after[stored[at].task_id]
                if row.task_id in written and row.status is PENDING and row.unique_key is not None:
                    log.debug("push {}: it waits already, and is changed", named(row))
                    stored[at] = row
                else:  # the key is free now, or the row has changed since it was read
                    again.append(at)
            if again:
                for at, row in zip(again, await push([tasks[at] for at in again]), strict=True):
                    stored[at] = row
            conflicts = _conflicts(tasks, stored, again, rules)
        return stored

    async def _begun(self, rows: Sequence[Task]) -> set[str]:
        """Return the ids of those of these tasks that have steps."""
        ran = [row for row in rows if row.status is PENDING and row.attempts]
        if not ran:
            return set()
        found = await self._backend.steps.read_many(ran)
        return {row.task_id for row, steps in zip(ran, found, strict=True) if steps}


def _conflicts(
    tasks: Sequence[Task], stored: Sequence[Task], places: Sequence[int], rules: Mapping[str, Debounce]
) -> list[int]:
    """Return the places of the debounced tasks whose key another row has: that row is to be changed."""
    return [at for at in places if stored[at] is not tasks[at] and tasks[at].task_id in rules]
