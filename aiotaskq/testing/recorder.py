"""The recorded pushes, in order, and assertions on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Protocol

from aiotaskq.core.task import Task
from aiotaskq.log import printable

SHOWN = 20  # tasks listed in the message of a failed assertion
WIDTH = 200  # characters of their params


class Registered(Protocol):
    """A decorated function, of ``aiotaskq`` or of ``aiotaskq.sync``."""

    @property
    def name(self) -> str:
        """The task type."""


Named = str | Registered
"""A task type: its name, or the decorated function."""


class Pushes:
    """Records the tasks that a ``TaskQ`` pushes and that its schedules fire."""

    def __init__(self) -> None:
        self.pushed: list[Task] = []
        """Each task as it was pushed, the oldest first; a debounced one as its last call has made it.

        ``pushed.clear()`` empties it.
        """

    def assert_pushed(
        self,
        type: Named,
        params: Mapping[str, Any] | None = None,
        *,
        count: int | None = None,
        queue: str | None = None,
    ) -> list[Task]:
        """Fail unless a task of this type was pushed; return the tasks that match, the oldest first.

        Args:
            type: the name of the task type, or the decorated function.
            params: params that the task must have; it may have others, too.
            count: the exact number of tasks; default at least one.
            queue: the queue of the tasks; default any.

        Raises:
            AssertionError: names what was pushed, with params.
        """
        found = self._matching(type, params, queue)
        if len(found) != count if count is not None else not found:
            wanted = "at least one" if count is None else str(count)
            raise AssertionError(f"{_said(type, params, queue)}: {wanted} expected, {len(found)} pushed\n{self}")
        return found

    def assert_not_pushed(
        self, type: Named, params: Mapping[str, Any] | None = None, *, queue: str | None = None
    ) -> None:
        """Fail if such a task was pushed; arguments as of ``assert_pushed``. Raises AssertionError."""
        if found := self._matching(type, params, queue):
            raise AssertionError(f"{_said(type, params, queue)}: none expected, {len(found)} pushed\n{self}")

    def _matching(self, type: Named, params: Mapping[str, Any] | None, queue: str | None) -> list[Task]:
        name, wanted = _name(type), dict(params or {})
        return [
            task
            for task in self.pushed
            if task.type == name
            and queue in (None, task.queue)
            and all(key in task.params and task.params[key] == value for key, value in wanted.items())
        ]

    def __str__(self) -> str:
        if not self.pushed:
            return "nothing was pushed"
        counts = Counter(task.type for task in self.pushed)
        lines = [", ".join(f"{count} x {printable(name)}" for name, count in sorted(counts.items())) + ":"]
        for task in self.pushed[:SHOWN]:
            params = repr(task.params)
            place = "" if task.queue == "default" else f" in queue {printable(task.queue)}"
            lines.append(f"  {printable(task.type)} {params[:WIDTH]}{'…' if len(params) > WIDTH else ''}{place}")
        if len(self.pushed) > SHOWN:
            lines.append(f"  … and {len(self.pushed) - SHOWN} more")
        return "\n".join(lines)


def _name(type: Named) -> str:
    return type if isinstance(type, str) else type.name


def _said(type: Named, params: Mapping[str, Any] | None, queue: str | None) -> str:
    said = printable(_name(type)) + (f" with {dict(params)!r}" if params else "")
    return said + (f" in queue {printable(queue)}" if queue is not None else "")
