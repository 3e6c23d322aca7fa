"""The decorators of a TaskQ: handlers, schedules, middleware, hooks and resources are registered here."""

from __future__ import annotations

import functools
import inspect
import uuid
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol, TypeAlias, TypedDict, TypeVar, Unpack, cast, overload

from msgspec.structs import replace

from aiotaskq.app.handle import BatchFunction, Key, One, P, Pusher, T, TaskFunction
from aiotaskq.app.push import push_defaults, unique_defaults
from aiotaskq.app.registrations import PushMiddleware, Registrations, kind_of
from aiotaskq.app.schedules import schedule_of
from aiotaskq.concurrency.clock import Clock
from aiotaskq.core.edit import Merge
from aiotaskq.core.firing import NAMESPACE
from aiotaskq.core.foreign_names import Hinted, checks_options
from aiotaskq.core.limits import Fair, Limit, Of, Rate, check_shared, specs_of
from aiotaskq.core.outcome import Backoff, make_backoff
from aiotaskq.core.schedule import Schedule, ScheduleOptions, timing_of
from aiotaskq.core.tags import check_tags, with_tags
from aiotaskq.core.task import SECOND, Task, TaskOfObjects
from aiotaskq.errors import ValidationError
from aiotaskq.runtime.context import current_task
from aiotaskq.runtime.handler import INJECTED, Executor, make_handler, with_versions
from aiotaskq.runtime.hooks import HookCall, HookName, takes
from aiotaskq.runtime.params import subscription_of

F = TypeVar("F", bound=Callable[..., Any])
# What a coroutine function returns. It holds no Any, which would make every later overload ambiguous to mypy.
Coro: TypeAlias = Coroutine[object, None, T]
TF = TypeVar("TF", bound=TaskFunction[..., Any, Any])


UniqueWhile: TypeAlias = Literal["running", "pending", "day"]
"""For how long a task is unique: while it is pending or running, while it is pending, or on its day."""
UNKNOWN_FOR = 86_400
"""Seconds after its push for which a message of a webhook that is not known here is left to other processes."""
UNKNOWN_PAUSE = 60.0


def injected() -> Any:
    """Return the default for a handler's parameter that gets a resource: ``client: Client = injected()``."""
    return INJECTED


def _is_depends(default: object) -> bool:
    """Whether a default is FastAPI's ``Depends(…)`` or ``Security(…)``, which a handler would get as it is."""
    kind = type(default)
    return kind.__module__ == "fastapi.params" and kind.__name__ in ("Depends", "Security")


class TaskOptions(TypedDict, total=False):
    """How the tasks of a handler are pushed and run; see ``Registry.task``. Durations in seconds."""

    name: str | None
    queue: str
    priority: int
    max_retries: int
    backoff: Backoff | float | timedelta | None
    retry_on: type[BaseException] | Collection[type[BaseException]]
    max_snoozes: int | None
    timeout: float | timedelta | None
    expires: float | timedelta | None
    age: float | timedelta | None
    executor: Executor | None
    tags: Mapping[str, str] | None
    debounce: float | timedelta | None
    max_wait: float | timedelta | None
    merge: Merge | None
    throttle: float | timedelta | None
    key: Key | None
    unique: Literal[True] | str | Sequence[str] | None
    unique_while: UniqueWhile | None
    limit: Limit | Sequence[Limit] | None
    rate: Rate | Sequence[Rate] | None
    fair: Of | Fair | Sequence[Of | Fair] | None
    version: int
    on: str | Sequence[str] | None


class TaskDecorator(Protocol):
    """What ``@tq.task(...)`` returns. Overloads are tried in order, so that of coroutine functions comes first."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, T]], /) -> TaskFunction[P, Coro[T], T]: ...
    @overload
    def __call__(self, function: Callable[P, T], /) -> TaskFunction[P, T, T]: ...


class BatchDecorator(Protocol):
    """What ``@tq.task(batch=…)`` returns: it takes a function of a list of items."""

    @overload
    def __call__(
        self, function: Callable[[list[T]], Coroutine[Any, Any, None]], /
    ) -> BatchFunction[T, Coro[None], None]: ...
    @overload
    def __call__(
        self, function: Callable[[list[T]], Coroutine[Any, Any, list[One]]], /
    ) -> BatchFunction[T, Coro[list[One]], One]: ...
    @overload
    def __call__(self, function: Callable[[list[T]], None], /) -> BatchFunction[T, None, None]: ...
    @overload
    def __call__(self, function: Callable[[list[T]], list[One]], /) -> BatchFunction[T, list[One], One]: ...


class ScheduleDecorator(Protocol):
    """What ``@tq.schedule(...)`` returns: it takes a task function, or a function that it registers as a task."""

    @overload
    def __call__(self, function: TF, /) -> TF: ...
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, T]], /) -> TaskFunction[P, Coro[T], T]: ...
    @overload
    def __call__(self, function: Callable[P, T], /) -> TaskFunction[P, T, T]: ...


class Registry(Hinted):
    """The decorators of a TaskQ, and their registrations."""

    _place = "queue"
    timezone: str | None
    """IANA name of the time zone of schedules that name none; None is the system's."""

    def __init__(self, clock: Clock, timezone: str | None, *, objects: bool = False) -> None:
        self._clock = clock
        self._objects = objects
        self._functions: dict[str, list[TaskFunction[Any, Any, Any]]] = {}  # by name: that of each version
        self.timezone: str | None = None
        if timezone is not None:
            from aiotaskq.core.cron import check_timezone

            self.timezone = check_timezone(timezone).key
        self._registered = Registrations(kind=TaskOfObjects if objects else Task)
        """What was registered with the decorators."""

    def _adopt(self, registered: Registrations) -> None:
        """Add the registrations of another task queue: handlers, schedules, middleware, hooks and resources."""
        self._registered.update(registered)
        if self._registered.webhooks:
            self._handle_messages()

    def _wrapped(self, push: Callable[[list[Task]], Awaitable[list[Task]]]) -> Callable[..., Awaitable[list[Task]]]:
        """Return ``push`` wrapped in the middleware of pushes, the first registered outermost."""
        for wrapper in reversed(self._registered.push_middleware):
            push = functools.partial(_wrapped_push, wrapper, push)
        return push

    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, T]], /) -> TaskFunction[P, Coro[T], T]: ...
    @overload
    def task(self, function: Callable[P, T], /) -> TaskFunction[P, T, T]: ...
    @overload
    def task(
        self, *, batch: int, within: float | timedelta = ..., **options: Unpack[TaskOptions]
    ) -> BatchDecorator: ...
    @overload
    def task(self, **options: Unpack[TaskOptions]) -> TaskDecorator: ...

    @checks_options("task", "task option", (*TaskOptions.__annotations__, "batch", "within"))
    def task(
        self,
        function: Any = None,  # positional; mypy does not take a '/' here for the third overload
        **options: Any,
    ) -> Any:
        """Register a handler, ``async def`` or ``def``.

        A ``def`` one runs in a thread; with ``executor="process"`` in a process, with ``executor="interpreter"`` in an
        interpreter of its own, from Python 3.14 on.

        The function keeps its signature, is called as ``f(**params)``, and gains ``.push(…)`` and ``.options(…)``.

        Args:
            name: the task type; default the function's name.
            queue, priority, max_retries: of its tasks; smaller priorities go first. Default ``default``, 0 and 3.
            backoff: a Backoff, or seconds; default 1 s doubling up to an hour, with full jitter.
            retry_on: exceptions after which it is retried, default all; others fail it at once.
            max_snoozes: how often it may ``snooze`` without a failure in between; one more fails it. Default no limit.
            timeout: seconds that one run may take; default no limit.
            expires: seconds after which a task that was not claimed expires; default never.
            age: seconds after which a task that is due and was not claimed counts as the highest priority; default
                never.
            tags: names and values by which its tasks are found; those of a push are added, and replace these by name.
            debounce: seconds without another call of the key after which the task is due; a call while it waits
                changes that task.
            max_wait: the most seconds that later calls put it off; default no limit.
            merge: ``last`` (default) takes the params of the newest call, ``list`` joins those that are lists,
                ``first`` keeps the first call as it is.
            throttle: seconds of a period of which only the first call of the key makes a task.
            batch: the most tasks that one call of the function runs: it takes the list of their items, and returns the
                list of their results.
            within: seconds for which tasks are gathered for such a call; default 0.1.
            key: the name of the parameter whose value is the key, or a function of the stored params; default all
                params, with ``merge="list"`` the type alone.
            unique: names of parameters, or True for all: of the calls with the same values only the first makes a task;
                the others return its handle. A push with its own ``unique_key`` goes by that.
            unique_while: for how long: while the first one is pending or running (``running``, default), while it has
                not started (``pending``), or until the day of its push is over, in UTC (``day``).
            limit, rate, fair: how many of its tasks run at a time, how many start in a time, and by which key they take
                turns; each one or a list. Default no bound.
            version: raise it with a change of a handler with steps. A task that has steps is run by the version that
                made them, which is registered beside the new one under the same name; every other task by the highest.
            on: the name of an event, or several: ``tq.emit`` of the key ``order.placed``, or ``order.placed:17``,
                pushes one task of each handler with ``on="order.placed"``. Its first parameter gets the value of the
                event, and one that is named ``key`` its key.
            options: of ``TaskOptions``, which gives their types; ``batch`` is an int, ``within`` as ``timeout``.

        Raises:
            ValidationError: naming what is wrong, also when the name and version are taken, and when a limit that is
                shared with another task type is declared differently there.
        """
        batch, within, name, on = (options.pop(option, None) for option in ("batch", "within", "name", "on"))
        limits = {option: options.pop(option, None) for option in ("debounce", "max_wait", "merge", "throttle", "key")}
        tags = check_tags(options.pop("tags", None))
        unique, unique_while = options.pop("unique", None), options.pop("unique_while", None)
        specs = specs_of(*(options.pop(option, None) for option in ("limit", "rate", "fair")))
        options["backoff"] = make_backoff(options.get("backoff"))
        if isinstance(function, str):
            raise ValidationError("task: options are given by name, as in task(name=…)")
        if within is not None and batch is None:
            raise ValidationError("within: it is about batch; give that, too")

        def register(function: Callable[..., Any]) -> TaskFunction[Any, Any, Any]:
            bound = isinstance(function, staticmethod | classmethod)
            taken = {} if bound or not callable(function) else inspect.signature(function).parameters
            if bound or next(iter(taken), "") == "self":
                raise ValidationError(
                    f"handler {function.__qualname__}: a method has no object to be called on; register a function, or "
                    "the method of an object: tq.task(mailer.send)"
                )
            if plain := [each for each, parameter in taken.items() if parameter.default is injected]:
                raise ValidationError(f"parameter {plain[0]!r}: write injected(), with parentheses")
            if of_requests := [each for each, parameter in taken.items() if _is_depends(parameter.default)]:
                raise ValidationError(
                    f"parameter {of_requests[0]!r}: Depends works in requests only; a handler takes a resource, by "
                    "injected() ('aiotaskq docs tasks')"
                )
            handler = make_handler(
                name,
                function,
                batch=batch,
                within=0.1 if within is None else within,
                pushed=push_defaults(function, unique_defaults(function, unique, unique_while, limits)),
                specs=specs,
                objects=self._objects,
                **options,
            )
            if tags:
                handler = replace(handler, template=handler.template.replace(extra=with_tags({}, tags)))
            if on is not None:
                handler = replace(handler, subscription=subscription_of(handler, on))
            former = self._registered.handlers.get(handler.name)
            if former is not None and (former.version == handler.version or handler.version in former.older):
                if isinstance(function, TaskFunction):
                    raise ValidationError(
                        f"task: {handler.name!r} is a handler already; write @tq.task once, below @tq.schedule"
                    )
                raise ValidationError(
                    f"name: a handler {handler.name!r} is registered already; give this one another name, or version"
                )
            if handler.gating is not None:
                known = [each for each in self._registered.handlers.values() if each is not former]
                check_shared(handler.name, handler.gating, [(h.name, h.gating) for h in known if h.gating is not None])
            newest = handler if former is None else with_versions(former, handler)
            self._registered.handlers[handler.name] = newest
            pusher = cast(Pusher, self)  # a TaskQ
            made: TaskFunction[Any, Any, Any]
            made = TaskFunction(pusher, handler) if batch is None else BatchFunction(pusher, handler)
            same = self._functions.setdefault(handler.name, [])
            same.append(made)
            for each in same if former is not None else ():
                if each.handler.version < newest.version:
                    each.retire(newest.version)
            return made

        return register if function is None else register(function)

    def elsewhere(self, *names: str) -> None:
        """Declare task types that other processes handle, so that they can be pushed by name here."""
        self._registered.elsewhere.update(names)

    @checks_options("schedule", "schedule option", ScheduleOptions.__annotations__)
    def schedule(
        self,
        *,
        cron: str | None = None,
        interval: int | timedelta | None = None,
        at: float | datetime | None = None,
        params: dict[str, Any] | None = None,
        name: str | None = None,
        max_runs: int = 0,
        **options: Unpack[ScheduleOptions],
    ) -> ScheduleDecorator:
        """Declare a schedule of the decorated task: it is created or updated when the scheduler starts, never doubled.

        ``name`` identifies it across restarts; default the task's name. ``Schedules.add`` describes the other options.
        Raises as that, when it is declared and not when it runs.
        """
        timing = timing_of(cron, interval, at)

        def declare(function: Any) -> Any:
            task: TaskFunction[Any, Any, Any] = function if isinstance(function, TaskFunction) else self.task(function)
            label = name or task.name
            if label in self._registered.schedules:
                raise ValidationError(
                    f"name: a schedule {label!r} is declared already; give this one a name of its own"
                )
            schedule_id = str(uuid.uuid5(NAMESPACE, f"declared:{label}"))
            given = {"max_runs": max_runs, "task_id": schedule_id, "declared": True, **options}

            def make() -> Schedule:
                return schedule_of(
                    self._registered, self.timezone, self._clock.now(), label, task.name, timing, params, given
                )

            make()
            self._registered.schedules[label] = make
            return task

        return declare

    def webhook(
        self,
        url: str,
        *,
        secret: str | bytes | Sequence[str | bytes],
        on: str | Sequence[str] = ("failed",),
        types: str | Sequence[str] | None = None,
        queues: str | Sequence[str] | None = None,
        name: str | None = None,
        queue: str | None = None,
        max_retries: int = 12,
        timeout: float | timedelta = 15.0,
        private: bool = False,
    ) -> None:
        """Tell an address of ended tasks, by POST requests signed by the Standard Webhooks specification.

        The transaction that ends a task pushes the message, a task of the type ``aiotaskq.webhook``, so none is lost;
        it is retried until the receiver answers 2xx. A message has the first line of the error, and no params and no
        result. To one host, one message is sent at a time.

        Args:
            secret: 24 to 64 bytes, or their base64 behind ``whsec_``; of several, each signs.
            on: ``failed`` (dead letters), ``completed``, ``cancelled``, ``expired``, ``alert`` (see ``alerts``), or
                several of them.
            types, queues: only of tasks of these types, or in these queues; None for all.
            name: what the messages call it; default the host of the address. Keep it while messages wait.
            queue: the queue of the messages; None for that of the task.
            timeout: seconds for one attempt.
            private: whether the address may be one of this host or of a private network.

        Raises:
            ValidationError: naming the argument, also for a name that is taken.
        """
        from aiotaskq.core.webhooks import make_webhook

        webhook = make_webhook(
            url,
            secret,
            on=on,
            types=types,
            queues=queues,
            name=name,
            queue=queue,
            max_retries=max_retries,
            timeout=timeout,
            private=private,
        )
        if webhook.name in self._registered.webhooks:
            raise ValidationError(f"name: a webhook {webhook.name!r} is registered already; give this one another name")
        self._registered.webhooks[webhook.name] = webhook
        self._handle_messages()

    def _handle_messages(self) -> None:
        from aiotaskq.core.webhooks import WEBHOOK
        from aiotaskq.runtime.webhook_sender import WebhookFailed

        # That of an adopted TaskQ does not know the webhooks of this one.
        self._registered.handlers.pop(WEBHOOK, None)
        self.task(name=WEBHOOK, retry_on=WebhookFailed)(self._send_message)

    async def _send_message(self, webhook: str, body: dict[str, Any]) -> int:
        from aiotaskq.runtime.webhook_sender import WebhookRefused, deliver

        known = self._registered.webhooks.get(webhook)
        running, now = current_task(), self._clock.now()
        if known is None:
            if now - running.task.created_at * SECOND > UNKNOWN_FOR * SECOND:
                raise WebhookRefused(f"webhook {webhook}: it is not registered (any more)")
            running.snooze(UNKNOWN_PAUSE)  # another process, or the next deploy, may know it
            return 0
        return await deliver(known, running.task.task_id, body, now)

    def middleware(self, wrapper: Any) -> Any:
        """Register middleware around pushes and runs; usable as a decorator; the first registered is the outermost.

        A coroutine function ``(task, call_next)`` wraps runs. An object may have ``run(task, call_next)`` and
        ``push(tasks, call_next)``, each a coroutine function that awaits ``call_next`` and returns what it returns.
        """
        if inspect.isclass(wrapper):
            raise ValidationError(
                f"middleware: this is a class; register an object: tq.middleware({wrapper.__name__}())"
            )
        run = getattr(wrapper, "run", wrapper if callable(wrapper) and not hasattr(wrapper, "push") else None)
        push = getattr(wrapper, "push", None)
        if run is None and push is None:
            raise ValidationError("middleware: a coroutine function, or an object with run() or push(), is needed")
        for each in (run, push):
            if each is not None and not takes(each, None, None):
                raise ValidationError(
                    f"middleware: {getattr(each, '__qualname__', each)}() is called with two arguments: what is run or "
                    "pushed, and call_next"
                )
        if run is not None:
            self._registered.run_middleware.append(run)
        if push is not None:
            self._registered.push_middleware.append(push)
        return wrapper

    @overload
    def on(self, name: HookName, /) -> Callable[[F], F]: ...
    @overload
    def on(self, name: HookName, hook: F, /) -> F: ...

    def on(self, name: HookName, hook: Any = None, /) -> Any:
        """Register a hook: it is called with a HookCall each time, after the commit; usable as a decorator.

        Names: pushed, started, completed, retried, failed, cancelled, expired, released, lost, timeout, used (what a
        running task has used up is written; the detail ``usage`` has what is new), unknown, fired, skipped,
        disabled, stalled (a task blocked the event loop; listen before the workers start), exhausted (all slots are
        held by handlers that run on after their timeout), quieted, woken, resized (the worker here), operated (an
        operator has changed something through this process: ``action``, ``actor`` and ``targets``), group_progress
        and group_ended (its ``group``: each time that members of a group have ended), alert (one begins or ends).
        Raises ValidationError for another name.
        """
        if not isinstance(name, str):
            raise ValidationError("on: the name of the hook comes first, as in @tq.on('failed')")
        if hook is None:
            return lambda function: self.on(name, function)
        checked: Callable[[HookCall], Any] = hook
        self._registered.hooks.on(name, checked)
        return hook

    def resource(self, factory: F) -> F:
        """Register a per-worker resource: a function or generator, async or not, whose return annotation is its type.

        A handler gets it as the parameter of that type whose default is ``injected()``. Raises ValidationError without
        a return annotation, and for a second resource of a type.
        """
        kind = kind_of(factory)
        if not takes(factory):
            raise ValidationError(f"resource {factory.__name__}: it is called without arguments; give each a default")
        if kind in self._registered.resources:
            raise ValidationError(f"resource: there is one for {kind!r} already")
        self._registered.resources[kind] = factory
        return factory


async def _wrapped_push(
    wrapper: PushMiddleware, call_next: Callable[[list[Task]], Awaitable[list[Task]]], tasks: list[Task]
) -> list[Task]:
    stored = await wrapper(tasks, call_next)
    if not isinstance(stored, list) or len(stored) != len(tasks):
        raise ValidationError("middleware: push() has not returned what call_next(tasks) returns, a task for each task")
    return stored
