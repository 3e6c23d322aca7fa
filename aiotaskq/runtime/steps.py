"""Durable steps, from inside a handler: ``step``, ``sleep_for``, ``sleep_until`` and ``wait_event``."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime, timedelta
from typing import Any, ParamSpec, TypeVar, overload

from aiotaskq.core.errors import check_seconds, instant, shown
from aiotaskq.core.steps import step_label
from aiotaskq.errors import ValidationError
from aiotaskq.runtime.context import TaskContext, context_for
from aiotaskq.runtime.current import Scope, inside
from aiotaskq.runtime.run_steps import RunSteps, loaded, returned_by

P = ParamSpec("P")
T = TypeVar("T")


def run_steps(what: str) -> tuple[TaskContext, RunSteps]:
    """Return the context of the running task, and its steps. Raises NotFound and ValidationError."""
    context = context_for(what)
    scope = inside.get()
    if scope is not None and not scope.over and scope.task_id == context.task.task_id:
        raise ValidationError(f"{what}: step {scope.name!r} runs; end it first, since it is stored as a whole")
    return context, context.run_steps()


def check_step(name: object, function: object) -> None:
    """Raise ValidationError unless these are the name of a step and its function."""
    if inspect.iscoroutine(function):
        function.close()
        raise ValidationError(f"step: pass the function and its arguments, not a call: step({name!r}, function, …)")
    if not isinstance(name, str):
        kind = type(name).__name__
        raise ValidationError(f"name: the name of the step comes first, as in step('charge', charge, …) (got {kind})")
    if not callable(function):
        raise ValidationError(f"step: a function is needed behind the name {name!r:.40} (got {shown(function)})")


# A keyword-only parameter cannot stand beside a ParamSpec: with a session the arguments are not checked.
@overload
async def step(name: str, function: Callable[..., Awaitable[T]], /, *args: Any, session: Any, **kwargs: Any) -> T: ...
@overload
async def step(name: str, function: Callable[..., T], /, *args: Any, session: Any, **kwargs: Any) -> T: ...
@overload
async def step(name: str, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
@overload
async def step(name: str, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
async def step(name: str, function: Callable[..., Any], /, *args: Any, session: Any = None, **kwargs: Any) -> Any:
    """Call ``function(*args, **kwargs)`` once in the life of the running task, and return what it returned.

    The value is stored as JSON when the function has returned. A later run of the task, after a crash, a failure or a
    sleep, gets the stored value, and the function is not called. What it returns is converted by its return annotation,
    as a result of a task is; so the first run, too, gets what later ones get. A function that raises stores nothing,
    and is called again by the next run. One that was interrupted by a crash before its value was stored is called
    again, too: it must be able to run twice.

    A step in a loop may have the same name each time: they are counted in the order of the calls. A task pushed inside
    of a step has an id made from that of this task and the step, so that a repeated step pushes it once.

    ``session``, a SQLAlchemy session or connection of the tasks' database, is not passed on: the value is stored in its
    transaction, which the handler commits, with whatever the function has written there.

    Raises NotFound outside of a handler, ValidationError for a step inside of a step, another function under the same
    name, or a value that JSON cannot hold, LeaseLost if the task is no longer this worker's, and NotSupported where the
    store cannot join the session.
    """
    context, steps = run_steps("step")
    check_step(name, function)
    conversion = returned_by(function)
    number, found = await steps.begin(name, function)
    if found is None:
        try:
            with running(context, name, number):
                value = function(*args, **kwargs)
                if inspect.isawaitable(value):
                    value = await value
            found = await steps.end(name, number, value, conversion, session)
        finally:
            await steps.over()
    return loaded(found, conversion)


@contextlib.contextmanager
def running(context: TaskContext, name: str, number: int) -> Iterator[None]:
    """Run a step of a task in the calling coroutine or thread: what is pushed there has an id made from it."""
    task = context.task
    scope = Scope(task.task_id, task.seq, name, number)
    token = inside.set(scope)
    try:
        with contextlib.nullcontext() if context.spans is None else context.spans.step(step_label(name, number)):
            yield
    finally:
        scope.over = True
        inside.reset(token)


def _check_name(name: str, example: str) -> None:
    if not isinstance(name, str):
        raise ValidationError(f"name: the name of the sleep comes first, as in {example} (got {type(name).__name__})")


async def sleep_for(
    name: str,
    seconds: float | timedelta | None = None,
    *,
    minutes: float | None = None,
    hours: float | None = None,
    days: float | None = None,
) -> None:
    """Sleep, over crashes and deploys: the end of the sleep is stored, and the handler is left until then.

    The task is pending meanwhile, and holds no slot; that costs no retry. Then the handler runs again from its
    beginning, with its steps. A sleep of a minute or less keeps the slot, as ``asyncio.sleep``.

    It leaves the handler by an exception that is no ``Exception``. Raises ValidationError and NotFound.
    """
    _, steps = run_steps("sleep_for")
    _check_name(name, "sleep_for('pause', 5)")
    parts = [("seconds", seconds, 1), ("minutes", minutes, 60), ("hours", hours, 3_600), ("days", days, 86_400)]
    given = [factor * check_seconds(field, value) for field, value, factor in parts if value is not None]
    if not given:
        raise ValidationError(f"sleep_for({name!r:.40}): how long? Give seconds, or minutes=, hours= or days=")
    await steps.sleep_for(name, check_seconds("seconds", sum(given)))


async def sleep_until(name: str, when: datetime | float) -> None:
    """Sleep until an instant, an aware datetime or epoch seconds; as ``sleep_for``."""
    _, steps = run_steps("sleep_until")
    _check_name(name, "sleep_until('morning', when)")
    await steps.sleep_until(name, instant("when", when))


async def wait_event(key: str, timeout: float | timedelta | None = None) -> Any:
    """Wait for the event of this key, and return its value: JSON, as ``tq.emit(key, value)`` has stored it.

    If it is there, the handler continues. Else it is left until the event comes, as by ``sleep_for``. What came of it
    is stored: a later run gets the same. ``timeout`` in seconds, counted from the first run that waits; None waits for
    ever.

    Raises EventTimeout if it has not come by then, ValidationError and NotFound.
    """
    _, steps = run_steps("wait_event")
    return await steps.wait_event(key, timeout)
