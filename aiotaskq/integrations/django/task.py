"""Django's task with options of aiotaskq, and schedules of such tasks."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, ClassVar, Self, TypeVar, cast

from msgspec.structs import replace

from aiotaskq.app.handle import PushOptions, TaskCall
from aiotaskq.app.push import push_defaults
from aiotaskq.app.taskq import TaskQ
from aiotaskq.core.conversion import resolved
from aiotaskq.core.foreign_names import Hinted, unknown_options
from aiotaskq.core.limits import Fair, Limit, Of, Rate, Spec, specs_of
from aiotaskq.core.outcome import Backoff, make_backoff
from aiotaskq.core.parent import PARENT, declared_parent
from aiotaskq.errors import ValidationError
from aiotaskq.integrations.django import framework
from aiotaskq.integrations.django.framework import InvalidTask, normalize_json
from aiotaskq.integrations.django.results import aware, task_at
from aiotaskq.runtime.handler import INJECTED, make_handler

__all__ = ["Task", "call_of", "declared", "handler_of", "handler_options", "schedule"]

T = TypeVar("T")
READ_BY_WORKERS = ("backoff", "retry_on", "max_snoozes", "age")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Task(Hinted, framework.Task):  # type: ignore[misc]  # Django has no types
    """A task of Django's with options, as ``@task(max_retries=5, timeout=30)``; each may be left out.

    They are those of ``TaskQ.task`` and ``push``. A key or weight is the name of a parameter of the function, or a
    function of its bound arguments as they are stored.
    """

    _place: ClassVar[str] = "Django task"

    max_retries: int | None = None
    """Default the ``max_retries`` of ``OPTIONS``."""
    backoff: Backoff | float | timedelta | None = None
    retry_on: type[BaseException] | Collection[type[BaseException]] = Exception
    max_snoozes: int | None = None
    """How often it may snooze without a failure in between; default no limit."""
    timeout: float | timedelta | None = None
    """Seconds for one run."""
    expires: float | timedelta | None = None
    """Seconds after which a task that was not claimed expires."""
    age: float | timedelta | None = None
    """Seconds after which a task that is due and was not claimed counts as the highest priority; default never."""
    limit: Limit | Sequence[Limit] | None = None
    rate: Rate | Sequence[Rate] | None = None
    fair: Of | Fair | Sequence[Of | Fair] | None = None
    debounce: float | timedelta | None = None
    max_wait: float | timedelta | None = None
    throttle: float | timedelta | None = None
    key: Of | None = None
    """What tells calls of a debounced or throttled task apart; default all of its arguments."""
    unique_key: str | None = None
    """One pending or running task; while there is one, ``enqueue`` returns that one."""
    idempotency_key: str | None = None
    """One task while its row is kept."""

    def __new__(cls, *_args: Any, **options: Any) -> Self:
        """Make a task. Raises InvalidTask for an unknown option."""
        if unknown := options.keys() - (known := [field.name for field in dataclasses.fields(cls)]):
            raise InvalidTask(str(unknown_options("task", "option of a Django task", unknown, known)))
        made: Self = object.__new__(cls)
        return made

    def using(
        self,
        *,
        priority: int | None = None,
        queue_name: str | None = None,
        run_after: datetime | None = None,
        backend: str | None = None,
        **options: Any,
    ) -> Self:
        """Return the task with these instead: Django's own, and the fields of this class."""
        task: Self = framework.Task.using(
            self, priority=priority, queue_name=queue_name, run_after=run_after, backend=backend
        )
        return dataclasses.replace(task, **options) if options else task

    def check(self) -> None:
        """Raise ValidationError for a wrong option."""
        options = handler_options(self)
        make_handler(
            self.module_path,
            handler_of(self, lambda **_params: None),
            backoff=make_backoff(self.backoff),
            retry_on=self.retry_on,
            max_snoozes=self.max_snoozes,
            age=self.age,
            pushed=push_defaults(stored, {name: options.get(name) for name in ("debounce", "max_wait", "throttle")}),
            specs=specs_of(*(options.get(name) for name in ("limit", "rate", "fair"))),
            **{name: options[name] for name in ("max_retries", "timeout", "expires") if name in options},
        )

    def to_call(self, params: Any, options: PushOptions) -> TaskCall[Any]:
        """Return the call with the params ``args`` and ``kwargs``; ``options`` of the plain API replace its own."""
        if unknown := (params := params or {}).keys() - {"args", "kwargs"}:
            raise ValidationError(f"params: those of a task of Django's are args and kwargs (got {min(unknown)!r:.40})")
        return call_of(self.get_backend(), self, params.get("args", ()), params.get("kwargs", {}), options)


def stored(args: Any = (), kwargs: Any = None) -> dict[str, Any]:
    """Return the params of a task with these arguments. Raises TypeError for what has no JSON form."""
    return {"args": normalize_json(list(args)), "kwargs": normalize_json(kwargs or {})}


def fitting(task: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """Return the same if the function takes these arguments. Raises TypeError if it does not."""
    try:
        inspect.Signature(_parameters(task)).bind(*args, **(kwargs or {}))
    except TypeError as error:
        raise TypeError(f"{task.module_path}() {error}") from None
    return stored(args, kwargs)


def call_of(backend: Any, task: Any, args: Any, kwargs: Any, options: PushOptions) -> TaskCall[Any]:
    """Return a call of a task, with its options where ``options`` has no others.

    Raises TypeError for arguments that the function does not take, and InvalidTask.
    """
    defined = task_at(task.module_path)
    changed = [name for name in READ_BY_WORKERS if getattr(task, name, None) != getattr(defined, name, None)]
    if changed and isinstance(defined, Task):
        raise InvalidTask(f"{', '.join(changed)}: workers read it where the task is defined; give it to @task")
    own = _options(task, getattr(backend, "max_retries", 0))
    for name in ("unique_key", "idempotency_key"):
        if (key := getattr(task, name, None)) is not None:
            own[name] = key
    if task.run_after is not None:
        own["at"] = aware(task.run_after)
    return TaskCall(task.module_path, fitting(task, args, kwargs), cast(PushOptions, {**own, **options}))


def handler_of(task: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of stored params with the parameter of the task that gets earlier ones, where it has that.

    Raises ValidationError for another parameter with ``injected()``.
    """
    parameters = list(inspect.signature(stored).parameters.values())
    for each in inspect.signature(task.func).parameters.values():
        if each.default is not INJECTED:
            continue
        try:
            found = resolved(each.annotation, getattr(inspect.unwrap(task.func), "__globals__", {}), {})
        except NameError as error:
            raise ValidationError(f"parameter {each.name!r}: {error}, as its annotation says") from None
        if each.name != PARENT or declared_parent(found, needed=True) is None:
            raise ValidationError(
                f"parameter {each.name!r}: a task of Django's gets no resources by injected(), only earlier tasks: "
                "'parent: Parent[…] = injected()'; open what it needs in the function"
            )
        parameters.append(each.replace(kind=each.KEYWORD_ONLY, annotation=found))
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return function


def _parameters(task: Any) -> list[inspect.Parameter]:
    """Return the parameters that a call gives."""
    every = list(inspect.signature(task.func).parameters.values())[task.takes_context :]
    return [each for each in every if each.default is not INJECTED]


def handler_options(task: Any, max_retries: int = 0) -> dict[str, Any]:
    """Return the options of a task that ``TaskQ.task`` takes. Raises ValidationError for a wrong key."""
    return {name: getattr(task, name) for name in READ_BY_WORKERS if isinstance(task, Task)} | _options(
        task, max_retries
    )


def _options(task: Any, max_retries: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        "queue": task.queue_name,
        "priority": -task.priority,  # the smaller number is claimed first
        "max_retries": max_retries,
    }
    if not isinstance(task, Task):  # of another backend
        return found
    for name in ("max_retries", "timeout", "expires", "debounce", "max_wait", "throttle"):
        if (value := getattr(task, name)) is not None:
            found[name] = value
    if task.key is not None:
        found["key"] = _of(task, "key", task.key)
    for spec in specs_of(task.limit, task.rate, task.fair):
        found.setdefault(type(spec).__name__.lower(), []).append(_translated(task, spec))
    return found


def _translated(task: Task, spec: Spec) -> Spec:
    """Return the same with functions of the stored params. Its gate keeps its name, which task types may share."""
    kind = type(spec).__name__.lower()
    changes: dict[str, Any] = {}
    if spec.key is not None:
        changes["key"] = _of(task, f"{kind}: key", spec.key)
        if isinstance(spec.key, str):
            changes["name"] = spec.name or spec.key
    weight = getattr(spec, "weight", None)
    if isinstance(weight, str) or callable(weight):
        changes["weight"] = _of(task, f"{kind}: weight", weight)
    return replace(spec, **changes)


def _of(task: Task, field: str, of: Of) -> Callable[[dict[str, Any]], Any]:
    parameters = _parameters(task)
    if isinstance(of, str) and of not in (names := [each.name for each in parameters]):
        raise ValidationError(
            f"{field}: {task.func.__name__}() has no parameter {of!r:.40}; there is: {', '.join(names) or 'none'}"
        )
    signature = inspect.Signature(parameters)

    def value(params: Mapping[str, Any]) -> Any:
        bound = signature.bind(*params["args"], **params["kwargs"])
        bound.apply_defaults()
        return bound.arguments[of] if isinstance(of, str) else of(bound.arguments)

    return value


# ---- schedules ------------------------------------------------------------------------------------------------------


declared: list[tuple[Any, dict[str, Any], dict[str, Any]]] = []
"""Tasks, their params and the options of their schedules, in the order in which they were declared."""


def schedule(*, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Callable[[T], T]:
    """Declare a schedule of a task, in the line above ``@task``: ``@schedule(cron="0 2 * * *")``.

    ``args`` and ``kwargs`` are the arguments of the task; the other options are those of ``TaskQ.schedule``, with the
    ``TIME_ZONE`` of the settings as the default of ``timezone``. ``manage.py aiotaskq_worker`` creates or updates it.
    Raises TypeError, ValidationError and MissingExtra when it is declared.
    """

    def declare(task: T) -> T:
        if not isinstance(task, framework.Task):
            raise ValidationError("schedule: it is that of a task; write it in the line above @task")
        params = fitting(task, args, kwargs)
        TaskQ("memory://").schedule(params=params, **options)(stored)
        declared.append((task, params, options))
        return task

    return declare
