"""Replaces the store and the clock of a TaskQ during a test, and records the pushes, with assertions on them."""

from __future__ import annotations

import contextlib
import copy
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

from aiotaskq.app.internal import internal
from aiotaskq.app.schedules import TaskLike
from aiotaskq.app.settings import schedules_elsewhere
from aiotaskq.app.taskq import TaskQ
from aiotaskq.backends.base import holds_objects
from aiotaskq.backends.url import DURABLE_FAKE, OBJECTS, is_shared
from aiotaskq.concurrency.clock import Clock
from aiotaskq.core.errors import check_int, kind_name
from aiotaskq.core.status import Status
from aiotaskq.core.tags import check_tags
from aiotaskq.core.task import Task
from aiotaskq.errors import ValidationError
from aiotaskq.log import printable
from aiotaskq.runtime.params import check_names, unknown

if TYPE_CHECKING:
    from aiotaskq.app.registrations import Registrations
    from aiotaskq.sync.taskq import TaskQ as BlockingTaskQ
    from aiotaskq.testing.durable_fake import DurableFake


SHOWN = 20  # tasks listed in the message of a failed assertion
WIDTH = 200  # characters of their params


Named = str | TaskLike
"""A task type: its name, or the decorated function."""


class Pushes:
    """Records the tasks that a ``TaskQ`` pushes and that its schedules fire."""

    def __init__(self, registered: Registrations) -> None:
        """For ``override``, and for what stands on it."""
        self._registered = registered
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
        tags: Mapping[str, str] | None = None,
    ) -> list[Task]:
        """Fail unless a task of this type was pushed; return the tasks that match, the oldest first.

        Args:
            type: the name of the task type, or the decorated function.
            params: params that the task must have, as a push takes them; it may have others, too.
            count: the exact number of tasks; default at least one.
            queue: the queue of the tasks; default any.
            tags: tags that the task must have; it may have others, too.

        Raises:
            AssertionError: names what was pushed, with params.
            ValidationError: for a type or a param that no push can have, so that a misspelt one is found.
        """
        if count is not None:
            check_int("count", count, 0)
        found = self._matching(type, params, queue, tags)
        if len(found) != count if count is not None else not found:
            wanted = "at least one" if count is None else str(count)
            raise AssertionError(f"{_said(type, params, queue, tags)}: {wanted} expected, {len(found)} pushed\n{self}")
        return found

    def assert_not_pushed(
        self,
        type: Named,
        params: Mapping[str, Any] | None = None,
        *,
        queue: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Fail if such a task was pushed; arguments and errors as of ``assert_pushed``."""
        if found := self._matching(type, params, queue, tags):
            raise AssertionError(f"{_said(type, params, queue, tags)}: none expected, {len(found)} pushed\n{self}")

    def _matching(
        self, type: Named, params: Mapping[str, Any] | None, queue: str | None, tags: Mapping[str, str] | None
    ) -> list[Task]:
        name = _name(type)
        if not isinstance(params, Mapping | None):
            raise ValidationError(f"params: a dict is needed (got {kind_name(params)})")
        wanted, named = self._stored(name, dict(params or {})), check_tags(tags)
        return [
            task
            for task in self.pushed
            if task.type == name
            and queue in (None, task.queue)
            and named.items() <= task.tags.items()
            and all(key in task.params and task.params[key] == value for key, value in wanted.items())
        ]

    def _stored(self, type: str, params: dict[str, Any]) -> dict[str, Any]:
        """Return params as the store has them. Raises ValidationError for names that are not known."""
        handler = self._registered.handlers.get(type)
        if handler is None:
            if self._registered.handlers and not self._registered.knows(type):
                raise unknown(type, [*self._registered.handlers, *self._registered.elsewhere])
            return params
        check_names(handler, params)
        for name, value in params.items():
            try:
                params.update(handler.stored({name: value}))
            except ValidationError:
                if isinstance(value, str | int | float | None):
                    raise
                # Another value may be equal to anything, as unittest.mock.ANY.
        return params

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
    name = type if isinstance(type, str) else getattr(type, "name", None)
    if not isinstance(name, str):
        raise ValidationError(f"type: a task function, or the name of a type, is needed (got {kind_name(type)})")
    return name


def _said(type: Named, params: Mapping[str, Any] | None, queue: str | None, tags: Mapping[str, str] | None) -> str:
    said = printable(_name(type)) + (f" with {dict(params)!r}" if params else "")
    said += f" tagged {dict(tags)!r}" if tags else ""
    return said + (f" in queue {printable(queue)}" if queue is not None else "")


@contextlib.contextmanager
def override(
    tq: TaskQ | BlockingTaskQ, url: str | None = None, *, clock: Clock | None = None, **options: Any
) -> Iterator[Pushes]:
    """Let an application's own ``TaskQ`` use another store during the block; no workers run.

    Handlers, schedules, middleware, hooks and resources stay; those that are registered in the block are dropped after
    it. An application that starts in the block, as under ``TestClient(app)``, opens the task queue and runs no workers.
    One that runs already keeps its workers on the former store: no push made in the block reaches them.

    Args:
        tq: the object that the application's modules hold, of ``aiotaskq`` or ``aiotaskq.sync``.
        url: the store; default one in memory, with the rules of a durable one if the real store is durable. There a
            push that joins a transaction (``session=…``) is stored when that commits, whatever its database.
        clock: default the real one.
        options: as of ``TaskQ``; default its own timezone, codec and history tags, and its queue's ``maxsize`` and
            ``when_full``.

    Raises:
        ValidationError: if ``tq`` is no ``TaskQ``.
    """
    facade = sys.modules.get("aiotaskq.sync.taskq")  # its import turns on log lines
    if facade is not None and isinstance(tq, facade.TaskQ):
        tq = facade.reach_of(tq)()
    if not isinstance(tq, TaskQ):
        raise ValidationError(f"override: an aiotaskq.TaskQ is needed (got {kind_name(tq)})")
    capacity = tq.queue.capacity
    own: dict[str, Any] = {"timezone": tq.timezone, "maxsize": capacity.maxsize, "when_full": capacity.when_full}
    own |= {"codec": internal(tq).codec, "history_tags": internal(tq).history_tags}
    if url is None:  # the store in memory with the same rules
        backend = tq.queue.backend
        url = DURABLE_FAKE if backend.durable else OBJECTS if holds_objects(backend) else "memory://"
    if schedules_elsewhere(url):
        # By default they are in the process's database, which no test may open.
        own["schedules"] = url if is_shared(url) else DURABLE_FAKE
    options = {**own, **options}
    other = TaskQ(url, clock=clock, **options)
    internal(other).adopt(internal(tq).registered)
    internal(other).stands_by = True
    pushes, seen = Pushes(internal(other).registered), set[tuple[str, int]]()
    changes = other.middleware(_Changes(pushes.pushed))

    def record(task: Task) -> None:
        if (push := (task.task_id, task.seq)) not in seen:
            seen.add(push)
            pushes.pushed.append(changes.uncommitted.pop(task.task_id, task))

    other.on("pushed", lambda event: record(event.task))
    if url.partition("?")[0] == DURABLE_FAKE:
        # The event comes after the commit of a session has returned, but a test asserts at once.
        cast("DurableFake", other.queue.backend).on_commit = record
    before, internal(other).bound = vars(tq), copy.copy(internal(tq).bound)
    tq.__dict__ = vars(other)  # one assignment, since another thread may be using this object
    try:
        yield pushes
    finally:
        tq.__dict__ = before


class _Changes:
    """A middleware that replaces recorded tasks by what later calls of a debounce have made of them."""

    def __init__(self, recorded: list[Task]) -> None:
        self._recorded = recorded
        self.uncommitted: dict[str, Task] = {}
        """By id those that are recorded when their transaction is committed."""

    async def push(self, tasks: list[Task], call_next: Callable[[list[Task]], Awaitable[list[Task]]]) -> list[Task]:
        rows = await call_next(tasks)
        for row in [row for task, row in zip(tasks, rows, strict=True) if row is not task]:
            at = next((at for at, known in enumerate(self._recorded) if known.task_id == row.task_id), None)
            if at is None:
                self.uncommitted[row.task_id] = row
            elif row.status is Status.PENDING and row.fence > self._recorded[at].fence:
                self._recorded[at] = row
        return rows
