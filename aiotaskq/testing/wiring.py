"""Swaps the store and the clock of a TaskQ for a test, and puts back what was there."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

from aiotaskq.backends import REHEARSAL
from aiotaskq.clock import Clock
from aiotaskq.errors import ValidationError
from aiotaskq.taskq import TaskQ
from aiotaskq.testing.pushes import Pushes


@contextlib.contextmanager
def override(tq: TaskQ, url: str | None = None, *, clock: Clock | None = None, **options: Any) -> Iterator[Pushes]:
    """Let an application's own ``TaskQ`` use another store for a while; nothing of it runs by itself.

    Its handlers, schedules, middleware, listeners and resources stay, and whatever is registered meanwhile goes.

    Args:
        tq: the one that the application's modules hold.
        url: the store; default one in memory, which goes by the rules of a durable one if the real store is durable.
            A push that joins a transaction (``session=…``) needs the database of that session here.
        clock: default the real one.
        options: as of ``TaskQ``; its timezone and the bound of its queue are kept unless they are given.

    Raises:
        ValidationError: for something that is no ``TaskQ``, or one whose workers run.
    """
    if not isinstance(tq, TaskQ):
        raise ValidationError(f"override: an aiotaskq.TaskQ is needed (got {type(tq).__module__}.{type(tq).__name__})")
    if tq._worker is not None:
        raise ValidationError("override: the workers of this TaskQ run; override it before they start")
    before, original = dict(vars(tq)), copy.copy(tq)
    bound = tq.queue._bound
    options = {"timezone": tq._timezone, "maxsize": bound.maxsize, "when_full": bound.when_full, **options}
    vars(tq).clear()
    try:
        TaskQ.__init__(tq, stand_in(original) if url is None else url, clock=clock, **options)
        tq.adopt(original)
        pushes = Pushes()
        tq.on("pushed", lambda event: pushes.pushed.append(event.task))
        yield pushes
    finally:
        vars(tq).clear()
        vars(tq).update(before)


def stand_in(tq: TaskQ) -> str:
    """Return the URL of the store in memory that goes by the same rules."""
    return REHEARSAL if tq._backend.durable else "memory://"
