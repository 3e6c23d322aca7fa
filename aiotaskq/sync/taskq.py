"""The blocking TaskQ, its task functions and handles, and the context of the running task."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
from collections.abc import Callable, Coroutine, Iterator, Sequence
from datetime import timedelta
from typing import Any, Concatenate, Generic, Protocol, TypeVar, Unpack, cast, overload

import aiotaskq.app.groups
import aiotaskq.app.handle
import aiotaskq.app.taskq
import aiotaskq.runtime.context
from aiotaskq.app.handle import One, P, PushOptions, R, T, T_co, TaskCall
from aiotaskq.app.internal import RunOptions, internal
from aiotaskq.app.registry import Coro, TaskOptions
from aiotaskq.app.schedules import Schedules as AsyncSchedules
from aiotaskq.concurrency.loop_thread import refuse_running_loop
from aiotaskq.core.foreign_names import Hinted
from aiotaskq.core.notes import LogEntry
from aiotaskq.core.task import Task
from aiotaskq.operations import operate
from aiotaskq.runtime.hooks import HookName
from aiotaskq.sync.bridge import (
    Facade,
    Home,
    Part,
    arguments_of,
    blocking,
    blocking_context,
    direct,
    documented_as,
    facade_of,
    in_worker_loop,
    like,
    loop_thread,
    reach_of,
    reading,
)
from aiotaskq.sync.facades import Operations, PublicValues, Queue

AsyncBoundTask = aiotaskq.app.handle.BoundTask
AsyncHandle = aiotaskq.app.handle.TaskHandle
AsyncFunction = aiotaskq.app.handle.TaskFunction
AsyncGroupHandle = aiotaskq.app.groups.GroupHandle
AsyncTaskQ = aiotaskq.app.taskq.TaskQ
AsyncContext = aiotaskq.runtime.context.TaskContext
F = TypeVar("F", bound=Callable[..., Any])
R_co = TypeVar("R_co", covariant=True)


class TaskHandle(Hinted, Facade[Any], Generic[T_co]):
    __doc__ = AsyncHandle.__doc__
    _place = "handle"

    def __init__(self, tq: TaskQ, task_id: str, created: bool = True) -> None:
        self._reach = Part(reach_of(tq), lambda reached: AsyncHandle(reached.queue, task_id, created))
        self.task_id = task_id
        self.created = created

    def __repr__(self) -> str:
        return f"<TaskHandle {self.task_id}>"

    @documented_as(AsyncHandle.result)
    def result(self, timeout: float | timedelta | None = None) -> T_co:
        return self._result(timeout)  # type: ignore[no-any-return]

    _result = blocking(AsyncHandle.result)
    task = blocking(AsyncHandle.task)
    status = blocking(AsyncHandle.status)
    progress = blocking(AsyncHandle.progress)
    attempts = blocking(AsyncHandle.attempts)
    log = blocking(AsyncHandle.log)
    next_log = blocking(AsyncHandle.next_log)

    @documented_as(AsyncHandle.stream)
    def stream(self, after: int = 0) -> Iterator[LogEntry]:
        return _stream(self.next_log, after)

    cancel = blocking(AsyncHandle.cancel)


class BoundTask(Hinted, Generic[P, T]):
    __doc__ = AsyncBoundTask.__doc__
    _place = "function"

    def __init__(self, pusher: TaskQ, awaited: AsyncBoundTask[P, T]) -> None:
        self.handler = awaited.handler
        self.name = awaited.name
        self._pusher = pusher
        self.awaited = awaited
        """The task function that it pushes."""

    @documented_as(AsyncBoundTask.push)
    def push(self, *args: P.args, **kwargs: P.kwargs) -> TaskHandle[T]:
        refuse_running_loop("aiotaskq.TaskFunction.push")
        return self._pusher.push_call(self.call(*args, **kwargs))

    @documented_as(AsyncBoundTask.call)
    def call(self, *args: P.args, **kwargs: P.kwargs) -> TaskCall[T]:
        return self.awaited.call(*args, **kwargs)


class TaskFunction(BoundTask[P, T], Generic[P, R, T]):
    __doc__ = AsyncFunction.__doc__

    awaited: AsyncFunction[P, R, T]

    def __init__(self, pusher: TaskQ, awaited: AsyncFunction[P, R, T]) -> None:
        functools.update_wrapper(self, awaited.handler.function)
        super().__init__(pusher, awaited)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.awaited(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<TaskFunction {self.name}>"

    @documented_as(AsyncFunction.options)
    def options(self, **options: Unpack[PushOptions]) -> BoundTask[P, T]:
        return BoundTask(self._pusher, self.awaited.options(**options))


class BatchFunction(TaskFunction[[T], R, One], Generic[T, R, One]):
    __doc__ = aiotaskq.app.handle.BatchFunction.__doc__

    def __call__(self, items: list[T], **resources: Any) -> R:  # type: ignore[override]
        return self.awaited.handler.function(items, **resources)  # type: ignore[no-any-return]


class BatchDecorator(Protocol):
    """What ``@tq.task(batch=…)`` returns; see ``aiotaskq.app.registry.BatchDecorator``."""

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


class GroupHandle(Facade[Any], Generic[R_co]):
    __doc__ = AsyncGroupHandle.__doc__

    def __init__(self, tq: TaskQ, group_id: str, created: bool = True) -> None:
        self._reach = Part(reach_of(tq), lambda reached: AsyncGroupHandle(reached.queue, group_id, created))
        self._tq = tq
        self.group_id = group_id
        self.created = created

    def __repr__(self) -> str:
        return f"<GroupHandle {self.group_id}>"

    @documented_as(AsyncGroupHandle.result)
    def result(self, timeout: float | timedelta | None = None) -> R_co:
        return self._result(timeout)  # type: ignore[no-any-return]

    _result = blocking(AsyncGroupHandle.result)
    results = blocking(AsyncGroupHandle.results)

    @documented_as(AsyncGroupHandle.callback)
    def callback(self) -> TaskHandle[R_co] | None:
        return self._callback()

    _callback = blocking(
        AsyncGroupHandle.callback, lambda self, made: None if made is None else _handle(self._tq, made)
    )
    progress = blocking(AsyncGroupHandle.progress)
    tasks = blocking(AsyncGroupHandle.tasks, lambda self, made: _handles(self._tq, made))
    task = blocking(AsyncGroupHandle.task, lambda self, made: _handle(self._tq, made))
    cancel = blocking(AsyncGroupHandle.cancel)
    usage = blocking(AsyncGroupHandle.usage)
    set_budget = blocking(AsyncGroupHandle.set_budget)
    retry_failed = blocking(AsyncGroupHandle.retry_failed)


class Schedules(Facade[AsyncSchedules]):
    __doc__ = AsyncSchedules.__doc__

    @documented_as(AsyncSchedules.__init__)
    def __init__(self, tq: TaskQ) -> None:
        self._reach = Part(reach_of(tq), lambda reached: reached.schedules)
        self._tq = tq

    add = blocking(AsyncSchedules.add)
    update = blocking(AsyncSchedules.update)
    list = blocking(AsyncSchedules.list)
    get = blocking(AsyncSchedules.get)
    pause = blocking(AsyncSchedules.pause)
    resume = blocking(AsyncSchedules.resume)
    delete = blocking(AsyncSchedules.delete)
    run_now = blocking(AsyncSchedules.run_now, lambda self, made: _handle(self._tq, made))
    backfill = blocking(AsyncSchedules.backfill)
    history = blocking(AsyncSchedules.history)
    preview = blocking(AsyncSchedules.preview)


class TaskDecorator(Protocol):
    """What ``@tq.task(...)`` returns; see ``aiotaskq.app.registry.TaskDecorator``."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, T]], /) -> TaskFunction[P, Coro[T], T]: ...
    @overload
    def __call__(self, function: Callable[P, T], /) -> TaskFunction[P, T, T]: ...


TF = TypeVar("TF", bound=TaskFunction[..., Any, Any])


class ScheduleDecorator(Protocol):
    """What ``@tq.schedule(...)`` returns: it takes a task function, or a function that it registers as a task."""

    @overload
    def __call__(self, function: TF, /) -> TF: ...
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, T]], /) -> TaskFunction[P, Coro[T], T]: ...
    @overload
    def __call__(self, function: Callable[P, T], /) -> TaskFunction[P, T, T]: ...


def _stream(next_log: Callable[[int], list[LogEntry]], after: int) -> Iterator[LogEntry]:
    while True:
        for note in next_log(after):
            yield note
            if note.kind == "end":
                return
            after = note.n


def _handle(tq: TaskQ, made: AsyncHandle[Any]) -> TaskHandle[Any]:
    return TaskHandle(tq, made.task_id, made.created)


def _handles(tq: TaskQ, made: Sequence[AsyncHandle[Any]]) -> list[TaskHandle[Any]]:
    return [_handle(tq, each) for each in made]


def _group_handle(tq: TaskQ, made: AsyncGroupHandle[Any]) -> GroupHandle[Any]:
    return GroupHandle(tq, made.group_id, made.created)


def _decorator(tq: TaskQ, declare: Callable[[Any], Any]) -> ScheduleDecorator:
    def decorate(function: Any) -> Any:
        if isinstance(function, TaskFunction):
            declare(function.awaited)
            return function
        return TaskFunction(tq, declare(function))

    return decorate


def _same(_tq: TaskQ, value: R) -> R:
    return value


async def _run_until(tq: AsyncTaskQ, stop: asyncio.Event, options: RunOptions) -> int:
    return await internal(tq).run_until(stop, options)


def _until_a_signal(run: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]) -> Callable[Concatenate[Any, P], R]:
    """Return the blocking twin of ``run``: signals are handled in the main thread, while the loop is in another one."""

    def call(self: TaskQ, *args: P.args, **kwargs: P.kwargs) -> R:
        refuse_running_loop("aiotaskq.TaskQ.run")
        options = cast(Any, RunOptions)(*args, **kwargs)  # its fields are the arguments of `run`
        stop = asyncio.Event()
        with _signals(lambda: loop_thread.call_soon(internal(self._reach()).on_signal, stop)):
            return cast(R, self._run_until(stop, options))

    return cast("Callable[Concatenate[Any, P], R]", like(run)(call))


@contextlib.contextmanager
def _signals(then: Callable[[], object]) -> Iterator[None]:
    """Call ``then`` for SIGINT and SIGTERM, and restore the former handlers; in the main thread only."""
    before = {number: signal.signal(number, lambda *_: then()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


class TaskQ(Hinted, Operations):
    """A task queue: ``TaskQ("sqlite:///app.db")`` inside the application, no server.

    Open it with ``with tq`` (connect only), ``with tq.running()`` (workers and scheduler embedded in the application)
    or ``tq.run()`` (the same until a signal, in the main thread). Of blocks within each other the last one to end
    closes it; ``open()`` before the first one leaves that to ``close()``.
    """

    _reach: Home[AsyncTaskQ]
    _place = "queue"

    @arguments_of(AsyncTaskQ)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        before: list[AsyncTaskQ] = []

        def make() -> AsyncTaskQ:
            made = AsyncTaskQ(*args, **kwargs)
            for last in before[-1:]:
                internal(made).adopt(internal(last).registered)
            before[:] = [made]
            return made

        async def anew(last: AsyncTaskQ) -> AsyncTaskQ:
            if last.queue.backend.durable:
                make().queue.adopt(last.queue)
            else:
                await last.open()  # the same object, because its tasks are in memory only
            return before[-1]

        self._reach = Home(make, anew=anew, close=_close_fast)
        self.url = self._reach().url
        self.queue: Queue = facade_of(Queue, Part(self._reach, lambda tq: tq.queue))
        self.values: PublicValues = facade_of(PublicValues, Part(self._reach, lambda tq: tq.values))

    def __repr__(self) -> str:
        return repr(self._reach())

    # ---- registering: nothing here waits ----

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

    @documented_as(AsyncTaskQ.task)
    def task(self, function: Any = None, **options: Any) -> Any:
        def register(function: Callable[..., Any]) -> TaskFunction[Any, Any, Any]:
            made = BatchFunction if options.get("batch") is not None else TaskFunction
            return made(self, self._reach().task(**options)(function))

        return register if function is None else register(function)

    schedule = direct(AsyncTaskQ.schedule, _decorator)
    elsewhere = direct(AsyncTaskQ.elsewhere, _same)
    middleware = direct(AsyncTaskQ.middleware, _same)
    webhook = direct(AsyncTaskQ.webhook, _same)
    alerts = direct(AsyncTaskQ.alerts, _same)

    @overload
    def on(self, name: HookName, /) -> Callable[[F], F]: ...
    @overload
    def on(self, name: HookName, hook: F, /) -> F: ...

    @documented_as(AsyncTaskQ.on)
    def on(self, *name_and_hook: Any) -> Any:
        return self._reach().on(*name_and_hook)

    @documented_as(AsyncTaskQ.resource)
    def resource(self, factory: F) -> F:
        return self._reach().resource(factory)

    # ---- pushing and operating ----

    push = blocking(AsyncTaskQ.push, _handle)
    call = direct(AsyncTaskQ.call, _same)
    push_many = blocking(AsyncTaskQ.push_many, _handles)
    _push_call = blocking(AsyncTaskQ.push_call, _handle)
    group = blocking(AsyncTaskQ.group, _group_handle)
    start = blocking(AsyncTaskQ.start, _group_handle)
    group_handle = direct(AsyncTaskQ.group_handle, _group_handle)
    groups = blocking(AsyncTaskQ.groups)
    handle = direct(AsyncTaskQ.handle, _handle)
    retry = blocking(AsyncTaskQ.retry, _handle)
    edit = blocking(AsyncTaskQ.edit, _handle)
    fork = blocking(AsyncTaskQ.fork, _handle)
    rerun = blocking(AsyncTaskQ.rerun, _handle)
    health = blocking(AsyncTaskQ.health)
    resize = blocking(AsyncTaskQ.resize)
    operate = blocking(operate)
    invalid_rows = reading(AsyncTaskQ.invalid_rows)

    @documented_as(AsyncTaskQ.push_call)
    def push_call(self, call: TaskCall[T]) -> TaskHandle[T]:
        return self._push_call(call)

    @property
    def schedules(self) -> Schedules:
        """The schedules: added, changed, paused, fired and listed."""
        return Schedules(self)

    # ---- living ----

    open = blocking(AsyncTaskQ.open)
    close = blocking(AsyncTaskQ.close, lambda self, _none: self._reach.left())
    running = blocking_context(AsyncTaskQ.running)
    run = _until_a_signal(AsyncTaskQ.run)
    _run_until = blocking(_run_until)
    _enter = blocking(AsyncTaskQ.__aenter__)
    _leave = blocking(AsyncTaskQ.__aexit__, lambda self, _none: self._reach.left())

    def __enter__(self) -> TaskQ:
        refuse_running_loop("aiotaskq.TaskQ.open")
        self._enter()
        return self

    def __exit__(self, *error: object) -> None:
        self._leave(*error)


async def _close_fast(tq: AsyncTaskQ) -> None:
    # At the end of the process there is no time to drain: running tasks are released.
    await tq.close(drain=0.0, grace=0.1)


# ---- in a handler ---------------------------------------------------------------------------------------------------


def _in_worker(method: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]) -> Callable[Concatenate[Any, P], R]:
    """Return the blocking twin of a method of the running task: it runs in the loop of its worker."""

    def call(self: TaskContext, *args: P.args, **kwargs: P.kwargs) -> R:
        refuse_running_loop(f"aiotaskq.current_task().{method.__name__}")
        context = self._reach()
        return in_worker_loop(context.loop, method(context, *args, **kwargs))

    return cast("Callable[Concatenate[Any, P], R]", like(method)(call))


class TaskContext(Hinted):
    """The running task, from inside its ``def`` handler, which runs in a thread."""

    _place = "context"

    def __init__(self, context: AsyncContext) -> None:
        self._reach: Callable[[], AsyncContext] = lambda: context

    @property
    def task(self) -> Task:
        """The frozen task as it was claimed; ``task.fence`` tells this delivery from others."""
        return self._reach().task

    @property
    def cancel_requested(self) -> bool:
        """Whether the task was asked to stop. A thread cannot be cancelled, so a long handler should check it."""
        return self._reach().cancel_requested

    scheduled_for = reading(AsyncContext.scheduled_for)
    group_id = reading(AsyncContext.group_id)
    progress = _in_worker(AsyncContext.progress)
    log = direct(AsyncContext.log, _same)
    stream = direct(AsyncContext.stream, _same)
    snooze = direct(AsyncContext.snooze, _same)
    pause_limit = _in_worker(AsyncContext.pause_limit)
    charge = _in_worker(AsyncContext.charge)
    complete = _in_worker(AsyncContext.complete)
    results = _in_worker(AsyncContext.results)
    add_to_group = _in_worker(AsyncContext.add_to_group)

    @documented_as(AsyncContext.usage)
    def usage(self, **amounts: float) -> None:
        self._reach().usage(**amounts)


@documented_as(aiotaskq.runtime.context.current_batch)
def current_batch() -> tuple[TaskContext, ...]:
    return tuple(map(TaskContext, aiotaskq.runtime.context.current_batch()))


@documented_as(aiotaskq.runtime.context.current_task)
def current_task() -> TaskContext:
    return TaskContext(aiotaskq.runtime.context.current_task())
