"""The blocking facades of queues, public stores and schedulers, and those of the process-wide ones."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

import aiotaskq.app.legacy as awaited
from aiotaskq.runtime.queue.operations import Operations as AsyncOperations
from aiotaskq.runtime.queue.queue import Queue as AsyncQueue
from aiotaskq.runtime.scheduler.scheduler import Scheduler as AsyncScheduler
from aiotaskq.runtime.store import Store as AsyncStore
from aiotaskq.sync.bridge import (
    Facade,
    Home,
    Nothing,
    Reach,
    arguments_of,
    blocking,
    blocking_function,
    documented_as,
    facade_of,
    reading,
    run,
)

P = ParamSpec("P")
R = TypeVar("R")


async def _give_back(queue: Any, task: dict[str, Any] | None) -> None:
    if task is not None:
        await queue.give_back(task["task_id"])


class Operations(Facade[Any]):
    """The operator's verbs; see ``aiotaskq.runtime.queue.operations.Operations``."""

    get = blocking(AsyncOperations.get)
    find = blocking(AsyncOperations.find)
    cancel = blocking(AsyncOperations.cancel)
    cancel_many = blocking(AsyncOperations.cancel_many)
    retry_many = blocking(AsyncOperations.retry_many)
    purge = blocking(AsyncOperations.purge)
    count = blocking(AsyncOperations.count)
    pause = blocking(AsyncOperations.pause)
    resume = blocking(AsyncOperations.resume)
    paused = blocking(AsyncOperations.paused)
    stats = blocking(AsyncOperations.stats)


class Queue(Operations):
    """Tasks of one store; see ``aiotaskq.runtime.queue.queue.Queue``."""

    push_task = blocking(AsyncQueue.push_task, at_once=True, plain=AsyncQueue.push_now, lockless=True)
    pop_task = blocking(AsyncQueue.pop_task, at_once=True, unclaimed=_give_back)
    task_done = blocking(AsyncQueue.task_done, at_once=True)
    get_queue_size = blocking(AsyncQueue.get_queue_size, at_once=True)
    is_empty = blocking(AsyncQueue.is_empty, at_once=True)
    retry = blocking(AsyncQueue.retry)
    wait_for_end = blocking(AsyncQueue.wait_for_end)


class Store(Facade[Any]):
    """Public values of one store; see ``aiotaskq.runtime.store.Store``."""

    set_public = blocking(AsyncStore.set_public, plain=AsyncStore.set_now, lockless=True)
    get_public = blocking(AsyncStore.get_public, plain=AsyncStore.get_now, lockless=True)
    delete_public = blocking(AsyncStore.delete_public, at_once=True)
    get_store_size = blocking(AsyncStore.get_store_size, at_once=True)
    list_keys = blocking(AsyncStore.list_keys, at_once=True)
    clear_store = blocking(AsyncStore.clear_store)
    cleanup = blocking(AsyncStore.cleanup)
    start_cleanup = blocking(AsyncStore.start_cleanup)
    stop_cleanup = blocking(AsyncStore.stop_cleanup)


class StoredQueue(Queue, Store):
    reach: Home[Any]

    open = blocking(awaited.StoredQueue.open)
    close = blocking(awaited.StoredQueue.close, lambda self, _none: self.reach.left())


class MemoryQueue(StoredQueue):
    __doc__ = awaited.MemoryQueue.__doc__

    @arguments_of(awaited.MemoryQueue)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.reach = Home(functools.partial(awaited.MemoryQueue, *args, **kwargs))
        self.reach()  # so that wrong arguments raise here


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
        self.reach = _home_of(functools.partial(awaited.DatabaseQueue, *args, **kwargs))
        self.reach()


class RedisQueue(StoredQueue):
    __doc__ = awaited.RedisQueue.__doc__

    @arguments_of(awaited.RedisQueue)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.reach = _home_of(functools.partial(awaited.RedisQueue, *args, **kwargs))
        self.reach()


def _scheduler_home(make: Callable[[], awaited.Scheduler], needs: Reach[Any]) -> Home[Any]:
    async def anew(_before: awaited.Scheduler) -> awaited.Scheduler:
        return make()

    return Home(make, needs=needs, anew=anew, close=awaited.Scheduler.stop)


class SchedulerFacade(Facade[Any]):
    """Schedules of one store; see ``aiotaskq.runtime.scheduler.scheduler.Scheduler``."""

    start = blocking(AsyncScheduler.start)
    stop = blocking(AsyncScheduler.stop)
    add_scheduler_task = blocking(AsyncScheduler.add_scheduler_task)
    get = blocking(AsyncScheduler.get)
    list = blocking(AsyncScheduler.list)
    pause_task = blocking(AsyncScheduler.pause_task)
    resume_task = blocking(AsyncScheduler.resume_task)
    update_task = blocking(AsyncScheduler.update_task)
    delete_task = blocking(AsyncScheduler.delete_task)
    run_now = blocking(AsyncScheduler.run_now)
    running = reading(AsyncScheduler.running)
    failures = reading(AsyncScheduler.failures)


class Scheduler(SchedulerFacade):
    __doc__ = awaited.Scheduler.__doc__

    @documented_as(awaited.Scheduler.__init__)
    def __init__(self, check_interval: float = 10, *, url: str | None = None, queue: Queue | None = None) -> None:
        target: Reach[Any] = Nothing() if queue is None else queue.reach

        def make() -> awaited.Scheduler:
            return awaited.Scheduler(check_interval, url=url, queue=target())

        self.reach = _scheduler_home(make, target)
        self.reach()

    start = blocking(awaited.Scheduler.start)
    stop = blocking(awaited.Scheduler.stop)
    list_tasks = blocking(awaited.Scheduler.list_tasks)
    get_task = blocking(awaited.Scheduler.get_task)


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


def _on_queue(function: Callable[P, Coroutine[Any, Any, R]], *, unclaimed: Any = None) -> Callable[P, R]:
    """Return the blocking twin of a module function: that method of the process-wide queue, its cleanup running."""
    method = getattr(awaited.StoredQueue, function.__name__)

    async def act(queue: Any, *args: P.args, **kwargs: P.kwargs) -> R:
        await queue.start_cleanup()
        value: R = await method(queue, *args, **kwargs)
        return value

    return blocking_function(function, act, _queue_home, unclaimed=unclaimed)


_started_queue = blocking_function(awaited.get_queue, awaited.StoredQueue.start_cleanup, _queue_home)
push_task = _on_queue(awaited.push_task)
pop_task = _on_queue(awaited.pop_task, unclaimed=_give_back)
set_public = _on_queue(awaited.set_public)
get_public = _on_queue(awaited.get_public)
delete_public = _on_queue(awaited.delete_public)


@documented_as(awaited.get_queue)
def get_queue() -> AnyQueue:
    _started_queue()
    queue: AnyQueue = _process_queues[type(_queue_home())]
    return queue


@documented_as(awaited.get_scheduler)
def get_scheduler() -> Scheduler:
    run(_start_scheduler, "aiotaskq.get_scheduler")
    return _process_scheduler


async def _start_scheduler() -> None:
    await (await _process_scheduler.reach.enter()).start()
