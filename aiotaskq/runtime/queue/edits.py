"""Edits of pending tasks by an operator: the values are checked, and written if the task has not changed meanwhile."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, TypedDict

from aiotaskq.backends.change import Change
from aiotaskq.concurrency.clock import Clock
from aiotaskq.core.edit import check_editable, edited
from aiotaskq.core.instants import instant
from aiotaskq.core.task import RUN_OPTIONS, SECOND, Task
from aiotaskq.core.validation import check_params, check_seconds
from aiotaskq.errors import TaskConflict, ValidationError
from aiotaskq.log import log, printable


class TaskChanges(TypedDict, total=False):
    """Changes of a pending task; what is left out stays."""

    params: dict[str, Any]
    priority: int
    queue: str
    at: float | datetime
    delay: float | timedelta
    max_retries: int
    timeout: float | timedelta | None


class Edits:
    """Edits the tasks of one queue."""

    def __init__(
        self,
        clock: Clock,
        update: Callable[[Sequence[Change]], Awaitable[list[bool]]],
        *,
        prepare: Callable[[Any, Any], Any] | None,
        gated: Callable[[Task], Task],
        check: Callable[[Sequence[Task]], None],
    ) -> None:
        """``prepare``, ``gated`` and ``check`` are what a push of the queue does with params, gates and values."""
        self._clock = clock
        self._update = update
        self._prepare = prepare
        self._gated = gated
        self._check = check

    async def edit(self, task: Task, changes: TaskChanges) -> Task:
        """Write the changes of a task that was just read; return what it is now. Raises as ``Operations.edit``."""
        wanted = self._checked(task, changes)
        check_editable(task)
        after = edited(task, wanted, self._gated)
        self._check([after])
        (held,) = await self._update([Change(task, after)])
        if not held:
            raise TaskConflict(f"task {printable(task.task_id)} changed meanwhile; read it again, and repeat the edit")
        log.task("edit", after)
        return after

    def _checked(self, task: Task, changes: TaskChanges) -> dict[str, Any]:
        if not changes or (wrong := changes.keys() - TaskChanges.__annotations__.keys()):
            known = ", ".join(TaskChanges.__annotations__)
            raise ValidationError(
                f"edit: unknown {', '.join(sorted(wrong))}; use {known}" if changes else f"edit: give one of {known}"
            )
        found = {name: check(changes[name]) for name, check in RUN_OPTIONS.items() if name in changes}  # type: ignore[literal-required]
        if "params" in changes:
            params = check_params(changes["params"])
            found["params"] = params if self._prepare is None else check_params(self._prepare(task.type, params))
        if "at" in changes and "delay" in changes:
            raise ValidationError("delay, at: give one of the two")
        now = self._clock.now()
        if "at" in changes:
            found["due"] = max(instant("at", changes["at"]), now)
        if "delay" in changes:
            delay = changes["delay"]
            found["due"] = now + int(check_seconds("delay", delay) * SECOND)
        return found
