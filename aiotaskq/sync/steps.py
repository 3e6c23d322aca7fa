"""Durable steps, from inside a ``def`` handler, which runs in a thread; see ``aiotaskq.runtime.steps``."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from typing import Any, TypeVar

import aiotaskq.runtime.steps
from aiotaskq.concurrency.loop_thread import refuse_running_loop
from aiotaskq.runtime.context import current_task
from aiotaskq.runtime.run_steps import loaded, returned_by
from aiotaskq.runtime.steps import run_steps, running
from aiotaskq.sync.bridge import documented_as, in_worker_loop

T = TypeVar("T")


@documented_as(aiotaskq.runtime.steps.step)
def step(name: str, function: Callable[..., T], /, *args: Any, session: Any = None, **kwargs: Any) -> T:
    refuse_running_loop("aiotaskq.step")
    context, steps = run_steps("step")
    conversion = returned_by(function)
    number, found = in_worker_loop(context.loop, steps.begin(name, function))
    if found is None:
        try:
            with running(context, name, number):
                value = function(*args, **kwargs)
            found = in_worker_loop(context.loop, steps.end(name, number, value, conversion, session))
        finally:
            in_worker_loop(context.loop, steps.over())
    return loaded(found, conversion)  # type: ignore[no-any-return]


@documented_as(aiotaskq.runtime.steps.sleep_for)
def sleep_for(
    name: str, seconds: float | timedelta = 0, *, minutes: float = 0, hours: float = 0, days: float = 0
) -> None:
    _run("sleep_for", aiotaskq.runtime.steps.sleep_for(name, seconds, minutes=minutes, hours=hours, days=days))


@documented_as(aiotaskq.runtime.steps.sleep_until)
def sleep_until(name: str, when: datetime | float) -> None:
    _run("sleep_until", aiotaskq.runtime.steps.sleep_until(name, when))


@documented_as(aiotaskq.runtime.steps.wait_event)
def wait_event(key: str, timeout: float | timedelta | None = None) -> Any:
    return _run("wait_event", aiotaskq.runtime.steps.wait_event(key, timeout))


def _run(verb: str, coro: Coroutine[Any, Any, T]) -> T:
    refuse_running_loop(f"aiotaskq.{verb}")
    return in_worker_loop(current_task().loop, coro)
