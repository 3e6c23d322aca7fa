"""The blocking facades of queues, public values and schedulers, those of the process-wide ones, and durable steps."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Mapping
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar, cast, overload

import aiotaskq.app.legacy as awaited
import aiotaskq.runtime.steps
from aiotaskq.concurrency.loop_bound import NEEDS_LOOP, running_loop_or_none
from aiotaskq.concurrency.loop_thread import refuse_running_loop
from aiotaskq.core.errors import kind_name
from aiotaskq.errors import ValidationError
from aiotaskq.runtime.context import current_task
from aiotaskq.runtime.fleet import Workers as AsyncWorkers
from aiotaskq.runtime.limits import Limits as AsyncLimits
from aiotaskq.runtime.public_values import PublicValues as AsyncPublicValues
from aiotaskq.runtime.queue.operations import Operations as AsyncOperations
from aiotaskq.runtime.queue.queue import Queue as AsyncQueue
from aiotaskq.runtime.run_steps import loaded, returned_by
from aiotaskq.runtime.steps import check_step, run_steps, running
from aiotaskq.sync.bridge import (
    Facade,
    Home,
    Part,
    Reach,
    arguments_of,
    blocking,
    documented_as,
    facade_of,
    in_worker_loop,
    like,
    may_lock,
    reach_of,
    reading,
    run,
)


async def _give_back(queue: Any, task: dict[str, Any] | None) -> None:
    if task is not None:
        await queue.give_back(task["task_id"])


class Limits(Facade[Any]):
    """Limits of one store; see ``aiotaskq.runtime.limits.Limits``."""

    list = blocking(AsyncLimits.list)
    get = blocking(AsyncLimits.get)
    tasks = blocking(AsyncLimits.tasks)
    set = blocking(AsyncLimits.set)
    reset = blocking(AsyncLimits.reset)
    pause = blocking(AsyncLimits.pause)
    pause_for = blocking(AsyncLimits.pause_for)
    resume = blocking(AsyncLimits.resume)
    charge = blocking(AsyncLimits.charge)


class Workers(Facade[Any]):
    """The workers of one store; see ``aiotaskq.runtime.fleet.Workers``."""

    list = blocking(AsyncWorkers.list)
    get = blocking(AsyncWorkers.get)
    tasks = blocking(AsyncWorkers.tasks)
    quiet = blocking(AsyncWorkers.quiet)
    wake = blocking(AsyncWorkers.wake)
    resize = blocking(AsyncWorkers.resize)
    stack = blocking(AsyncWorkers.stack)


class Operations(Facade[Any]):
    """The operator's verbs; see ``aiotaskq.runtime.queue.operations.Operations``."""

    get = blocking(AsyncOperations.get)
    find = blocking(AsyncOperations.find)
    cancel = blocking(AsyncOperations.cancel)
    cancel_many = blocking(AsyncOperations.cancel_many)
    delete = blocking(AsyncOperations.delete)
    retry_many = blocking(AsyncOperations.retry_many)
    purge = blocking(AsyncOperations.purge)
    count = blocking(AsyncOperations.count)
    pause = blocking(AsyncOperations.pause)
    resume = blocking(AsyncOperations.resume)
    paused = blocking(AsyncOperations.paused)
    emit = blocking(AsyncOperations.emit)
    get_event = blocking(AsyncOperations.get_event)
    list_events = blocking(AsyncOperations.list_events)
    steps = blocking(AsyncOperations.steps)
    history = blocking(AsyncOperations.history)
    stats = blocking(AsyncOperations.stats)

    @property
    def limits(self) -> Limits:
        """Limits, rates and fair shares: listed, changed, paused and resumed."""
        return cast(Limits, facade_of(Limits, Part(self._reach, lambda made: made.limits)))

    @property
    def workers(self) -> Workers:
        """The workers of the store: listed, quieted, woken and resized."""
        return cast(Workers, facade_of(Workers, Part(self._reach, lambda made: made.workers)))


class Queue(Operations):
    """Tasks of one store; see ``aiotaskq.runtime.queue.queue.Queue``."""

    _push_task = blocking(AsyncQueue.push_task)
    _pop_task = blocking(AsyncQueue.pop_task, unclaimed=_give_back)
    _task_done = blocking(AsyncQueue.task_done)

    @documented_as(AsyncQueue.push_task)
    def push_task(self, task: Mapping[str, Any], priority: int = 0) -> str:
        task_id = self._reach().push_now(task, priority) if running_loop_or_none() is None else NEEDS_LOOP
        return self._push_task(task, priority) if task_id is NEEDS_LOOP else task_id

    @documented_as(AsyncQueue.pop_task)
    def pop_task(
        self, timeout: float | timedelta | None = None, *, visibility: float | timedelta | None = None
    ) -> dict[str, Any] | None:
        task = self._reach().pop_now(timeout, visibility=visibility) if may_lock() else NEEDS_LOOP
        return self._pop_task(timeout, visibility=visibility) if task is NEEDS_LOOP else task

    @documented_as(AsyncQueue.task_done)
    def task_done(self, task_id: str | None = None) -> None:
        done = self._reach().done_now(task_id) if may_lock() else NEEDS_LOOP
        return self._task_done(task_id) if done is NEEDS_LOOP else None

    get_queue_size = blocking(AsyncQueue.get_queue_size)
    is_empty = blocking(AsyncQueue.is_empty)
    retry = blocking(AsyncQueue.retry)
    edit = blocking(AsyncQueue.edit)
    wait_for_end = blocking(AsyncQueue.wait_for_end)


class PublicValues(Facade[Any]):
    """Public values of one store; see ``aiotaskq.runtime.public_values.PublicValues``."""

    _set_public = blocking(AsyncPublicValues.set_public)
    _get_public = blocking(AsyncPublicValues.get_public)

    @documented_as(AsyncPublicValues.set_public)
    def set_public(self, key: str, value: Any, ttl: float | timedelta | None = None) -> None:
        done = self._reach().set_now(key, value, ttl) if running_loop_or_none() is None else NEEDS_LOOP
        return self._set_public(key, value, ttl) if done is NEEDS_LOOP else None

    @documented_as(AsyncPublicValues.get_public)
    def get_public(self, key: str) -> Any:
        value = self._reach().get_now(key) if running_loop_or_none() is None else NEEDS_LOOP
        return self._get_public(key) if value is NEEDS_LOOP else value

    edit_public = blocking(AsyncPublicValues.edit_public)
    get_ttl = blocking(AsyncPublicValues.get_ttl)
    delete_public = blocking(AsyncPublicValues.delete_public)
    get_store_size = blocking(AsyncPublicValues.get_store_size)
    list_keys = blocking(AsyncPublicValues.list_keys)
    find_keys = blocking(AsyncPublicValues.find_keys)
    clear_store = blocking(AsyncPublicValues.clear_store)
    cleanup = blocking(AsyncPublicValues.cleanup)
    start_cleanup = blocking(AsyncPublicValues.start_cleanup)
    stop_cleanup = blocking(AsyncPublicValues.stop_cleanup)


class StoredQueue(Queue, PublicValues):
    _reach: Home[Any]

    open = blocking(awaited.StoredQueue.open)
    close = blocking(awaited.StoredQueue.close, lambda self, _none: self._reach.left())


class MemoryQueue(StoredQueue):
    __doc__ = awaited.MemoryQueue.__doc__

    @arguments_of(awaited.MemoryQueue)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._reach = Home(functools.partial(awaited.MemoryQueue, *args, **kwargs))
        self._reach()  # so that wrong arguments raise here


def _home_of(make: Callable[[], Any]) -> Home[Any]:
    """Return the home of a queue: after a crash of the loop a durable one is made anew, one in memory stays."""

    async def anew(before: Any) -> Any:
        made = make()
        if made is not before:
            made.adopt(before)
        return made

    return Home(make, anew=anew, close=awaited.StoredQueue.close)


class DatabaseQueue(StoredQueue):
    __doc__ = awaited.DatabaseQueue.__doc__

    @arguments_of(awaited.DatabaseQueue)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._reach = _home_of(functools.partial(awaited.DatabaseQueue, *args, **kwargs))
        self._reach()


class RedisQueue(StoredQueue):
    __doc__ = awaited.RedisQueue.__doc__

    @arguments_of(awaited.RedisQueue)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._reach = _home_of(functools.partial(awaited.RedisQueue, *args, **kwargs))
        self._reach()


def _scheduler_home(make: Callable[[], awaited.Scheduler], needs: Reach[Any] | None) -> Home[Any]:
    async def anew(_before: awaited.Scheduler) -> awaited.Scheduler:
        return make()

    return Home(make, needs=needs, anew=anew, close=awaited.Scheduler.stop)


class Scheduler(Facade[Any]):
    __doc__ = awaited.Scheduler.__doc__

    @documented_as(awaited.Scheduler.__init__)
    def __init__(
        self, check_interval: float | timedelta = 10, *, url: str | None = None, queue: Queue | None = None
    ) -> None:
        if queue is not None and not isinstance(queue, Queue):
            raise ValidationError(f"queue: a queue of aiotaskq.sync is needed (got {kind_name(queue)})")
        target: Reach[Any] | None = None if queue is None else reach_of(queue)

        def make() -> awaited.Scheduler:
            return awaited.Scheduler(check_interval, url=url, queue=None if target is None else target())

        self._reach = _scheduler_home(make, target)
        self._reach()

    start = blocking(awaited.Scheduler.start)
    stop = blocking(awaited.Scheduler.stop)
    running = reading(awaited.Scheduler.running)
    failures = reading(awaited.Scheduler.failures)
    add_scheduler_task = blocking(awaited.Scheduler.add_scheduler_task)
    list_tasks = blocking(awaited.Scheduler.list_tasks)
    get_task = blocking(awaited.Scheduler.get_task)
    pause_task = blocking(awaited.Scheduler.pause_task)
    resume_task = blocking(awaited.Scheduler.resume_task)
    update_task = blocking(awaited.Scheduler.update_task)
    delete_task = blocking(awaited.Scheduler.delete_task)
    run_now = blocking(awaited.Scheduler.run_now)


# ---- one of each per process -----------------------------------------------------------------------------------------

AnyQueue = MemoryQueue | DatabaseQueue | RedisQueue

_queue_home = _home_of(awaited.make_queue)
_process_queues: dict[type, Any] = {
    awaited.MemoryQueue: facade_of(MemoryQueue, _queue_home),
    awaited.DatabaseQueue: facade_of(DatabaseQueue, _queue_home),
    awaited.RedisQueue: facade_of(RedisQueue, _queue_home),
}
_process_scheduler: Scheduler = facade_of(
    Scheduler, _scheduler_home(lambda: awaited.Scheduler(queue=_queue_home()), _queue_home)
)


def _started(twin: str) -> Any:
    """Return the facade of the process-wide queue, its cleanup running."""
    refuse_running_loop(f"aiotaskq.{twin}")
    made = _queue_home()
    queue = _process_queues[type(made)]
    if not made.cleaning:
        queue.start_cleanup()
    return queue


# With the parameters of each: a value that comes out of a call with `*args` is lost if a signal handler raises then.


@documented_as(awaited.push_task)
def push_task(task: Mapping[str, Any], priority: int = 0) -> str:
    return _started("push_task").push_task(task, priority)  # type: ignore[no-any-return]


@documented_as(awaited.pop_task)
def pop_task(timeout: float | timedelta | None = None) -> dict[str, Any] | None:
    return _started("pop_task").pop_task(timeout)  # type: ignore[no-any-return]


@documented_as(awaited.set_public)
def set_public(key: str, value: Any, ttl: float | timedelta | None = None) -> None:
    _started("set_public").set_public(key, value, ttl)


@documented_as(awaited.get_public)
def get_public(key: str) -> Any:
    return _started("get_public").get_public(key)


@documented_as(awaited.delete_public)
def delete_public(key: str) -> bool:
    return _started("delete_public").delete_public(key)  # type: ignore[no-any-return]


@documented_as(awaited.get_queue)
def get_queue() -> AnyQueue:
    return _started("get_queue")  # type: ignore[no-any-return]


@documented_as(awaited.get_scheduler)
def get_scheduler() -> Scheduler:
    run(_start_scheduler, "aiotaskq.get_scheduler")
    return _process_scheduler


async def _start_scheduler() -> None:
    await (await reach_of(_process_scheduler).enter()).start()


P = ParamSpec("P")
T = TypeVar("T")


@overload
def step(name: str, function: Callable[..., T], /, *args: Any, session: Any, **kwargs: Any) -> T: ...
@overload
def step(name: str, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
@documented_as(aiotaskq.runtime.steps.step)
def step(name: str, function: Callable[..., Any], /, *args: Any, session: Any = None, **kwargs: Any) -> Any:
    refuse_running_loop("aiotaskq.step")
    context, steps = run_steps("step")
    check_step(name, function)
    conversion = returned_by(function)
    number, found = in_worker_loop(context.loop, steps.begin(name, function))
    if found is None:
        try:
            with running(context, name, number):
                value = function(*args, **kwargs)
            if inspect.iscoroutine(value):
                value.close()
                raise ValidationError(f"step: {name!r:.40} is an 'async def' function; write the handler so, too")
            found = in_worker_loop(context.loop, steps.end(name, number, value, conversion, session))
        finally:
            in_worker_loop(context.loop, steps.over())
    return loaded(found, conversion)


def _in_worker(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Return the blocking twin of a function for handlers: it runs in the loop of the worker."""

    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        refuse_running_loop(f"aiotaskq.{function.__name__}")
        return in_worker_loop(current_task().loop, function(*args, **kwargs))

    return cast("Callable[P, T]", like(function)(call))


sleep_for = _in_worker(aiotaskq.runtime.steps.sleep_for)
sleep_until = _in_worker(aiotaskq.runtime.steps.sleep_until)
wait_event = _in_worker(aiotaskq.runtime.steps.wait_event)
