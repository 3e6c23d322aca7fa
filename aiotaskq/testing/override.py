"""Replaces the store and the clock of a TaskQ during a test."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from aiotaskq.app.settings import schedules_elsewhere
from aiotaskq.app.taskq import TaskQ
from aiotaskq.backends.memory.durable_fake import DurableFake
from aiotaskq.backends.url import DURABLE_FAKE, OBJECTS, kind_of
from aiotaskq.concurrency.clock import Clock
from aiotaskq.core.task import Task
from aiotaskq.errors import ValidationError
from aiotaskq.testing.recorder import Pushes


@contextlib.contextmanager
def override(tq: TaskQ, url: str | None = None, *, clock: Clock | None = None, **options: Any) -> Iterator[Pushes]:
    """Let an application's own ``TaskQ`` use another store during the block; no workers run.

    Handlers, schedules, middleware, listeners and resources stay; what is registered in the block is dropped after it.
    An application that starts in the block, as under ``TestClient(app)``, opens the task queue and runs no workers. One
    that runs already keeps its workers on the former store: no push made in the block reaches them.

    Args:
        tq: the object that the application's modules hold.
        url: the store; default one in memory, with the rules of a durable one if the real store is durable. There a
            push that joins a transaction (``session=…``) is stored when that commits, whatever its database.
        clock: default the real one.
        options: as of ``TaskQ``; default its own timezone and codec, and its queue's ``maxsize`` and ``when_full``.

    Raises:
        ValidationError: if ``tq`` is no ``TaskQ``.
    """
    if not isinstance(tq, TaskQ):
        raise ValidationError(f"override: an aiotaskq.TaskQ is needed (got {type(tq).__module__}.{type(tq).__name__})")
    capacity = tq.queue.capacity
    own = {"timezone": tq.timezone, "maxsize": capacity.maxsize, "when_full": capacity.when_full, "codec": tq.codec}
    url = stand_in(tq) if url is None else url
    if schedules_elsewhere(url):
        # By default they are in the process's database, which no test may open.
        own["schedules"] = url if kind_of(url) == "redis" else DURABLE_FAKE
    options = {**own, **options}
    other = TaskQ(url, clock=clock, **options)
    other.adopt(tq)
    other.stands_by = True
    pushes, seen = Pushes(), set[tuple[str, int]]()

    def record(task: Task) -> None:
        if (push := (task.task_id, task.seq)) not in seen:
            seen.add(push)
            pushes.pushed.append(task)

    other.on("pushed", lambda event: record(event.task))
    if isinstance(other.queue.backend, DurableFake):
        # The event comes after the commit of a session has returned, but a test asserts at once.
        other.queue.backend.on_commit = record
    with tq.replaced_by(other):
        yield pushes


def stand_in(tq: TaskQ) -> str:
    """Return the URL of the store in memory with the same rules."""
    backend = tq.queue.backend
    return DURABLE_FAKE if backend.durable else OBJECTS if backend.objects else "memory://"
