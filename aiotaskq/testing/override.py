"""Swaps the store and the clock of a TaskQ for a test, and puts back what was there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from aiotaskq.app.taskq import TaskQ
from aiotaskq.backends.memory.durable_fake import RehearsalBackend
from aiotaskq.backends.url import REHEARSAL
from aiotaskq.concurrency.clock import Clock
from aiotaskq.core.task import Task
from aiotaskq.errors import ValidationError
from aiotaskq.testing.recorder import Pushes


@contextlib.contextmanager
def override(tq: TaskQ, url: str | None = None, *, clock: Clock | None = None, **options: Any) -> Iterator[Pushes]:
    """Let an application's own ``TaskQ`` use another store for a while; nothing of it runs by itself.

    Its handlers, schedules, middleware, listeners and resources stay, and whatever is registered meanwhile goes. An
    application that starts meanwhile, as under ``TestClient(app)``, opens the task queue and runs no workers. One that
    runs already keeps its workers on the store that it had: no push made meanwhile reaches them.

    Args:
        tq: the one that the application's modules hold.
        url: the store; default one in memory, which goes by the rules of a durable one if the real store is durable.
            There a push that joins a transaction (``session=…``) is stored when that commits, whatever its database.
        clock: default the real one.
        options: as of ``TaskQ``; its timezone and the bound of its queue are kept unless they are given.

    Raises:
        ValidationError: for something that is no ``TaskQ``.
    """
    if not isinstance(tq, TaskQ):
        raise ValidationError(f"override: an aiotaskq.TaskQ is needed (got {type(tq).__module__}.{type(tq).__name__})")
    bound = tq.queue._bound
    options = {"timezone": tq.timezone, "maxsize": bound.maxsize, "when_full": bound.when_full, **options}
    other = TaskQ(stand_in(tq) if url is None else url, clock=clock, **options)
    other.adopt(tq)
    other.stands_by = True
    pushes, seen = Pushes(), set[tuple[str, int]]()

    def take_down(task: Task) -> None:
        if (push := (task.task_id, task.seq)) not in seen:
            seen.add(push)
            pushes.pushed.append(task)

    other.on("pushed", lambda event: take_down(event.task))
    if isinstance(other.queue.backend, RehearsalBackend):
        # The event comes a little after the commit of a session; a test asserts as soon as the commit has returned.
        other.queue.backend.on_commit = take_down
    with tq.replaced_by(other):
        yield pushes


def stand_in(tq: TaskQ) -> str:
    """Return the URL of the store in memory that goes by the same rules."""
    return REHEARSAL if tq.queue.backend.durable else "memory://"
