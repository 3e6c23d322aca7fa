"""The worker of a backend: runs the tasks of Django's code, as Django runs requests."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.apps import apps
from django.conf import settings
from django.db import close_old_connections, connections

from aiotaskq.app.handle import TaskFunction
from aiotaskq.app.internal import internal
from aiotaskq.app.taskq import TaskQ
from aiotaskq.core.notes import LogEntry
from aiotaskq.core.status import Status
from aiotaskq.core.task import Task
from aiotaskq.errors import TaskFailed, ValidationError
from aiotaskq.integrations.django import framework
from aiotaskq.integrations.django.framework import TaskContext, normalize_json, task_finished, task_started
from aiotaskq.integrations.django.results import raised, result_of, task_at
from aiotaskq.integrations.django.task import declared, handler_of, handler_options
from aiotaskq.log import log, printable
from aiotaskq.runtime.context import current_task
from aiotaskq.runtime.handler import Handler
from aiotaskq.runtime.hooks import HookCall

if TYPE_CHECKING:
    from aiotaskq.integrations.django.backend import TasksBackend

__all__ = ["closing_connections", "worker_of"]

F = TypeVar("F", bound=Callable[..., Any])


def closing_connections(handler: F) -> F:
    """Close the database connections that a handler leaves, as Django does after a request; for ``@tq.task``.

    Before and after a ``def`` handler those that are broken, or older than ``CONN_MAX_AGE``, are closed. What an
    ``async def`` handler calls by ``sync_to_async`` has a thread, and so connections, of its own; all of them are
    closed. The tasks of Django's framework have this already.
    """

    @functools.wraps(handler)
    def in_thread(*args: Any, **kwargs: Any) -> Any:
        close_old_connections()
        try:
            return handler(*args, **kwargs)
        finally:
            close_old_connections()

    @functools.wraps(handler)
    async def in_loop(*args: Any, **kwargs: Any) -> Any:
        async with ThreadSensitiveContext():
            try:
                return await handler(*args, **kwargs)
            finally:
                await sync_to_async(connections.close_all)()

    return cast(F, in_loop if inspect.iscoroutinefunction(handler) else in_thread)


def worker_of(backend: TasksBackend, **options: Any) -> TaskQ:
    """Return a task queue on the store of a backend, whose handlers are the tasks in Django's code.

    ``options`` are those of ``TaskQ``.
    The modules ``tasks`` of the applications, and those of the option ``modules``, are imported. Any other task is
    found when it is to be run.
    """
    modules = backend.import_modules()
    modules += [sys.modules[name] for each in apps.get_app_configs() if (name := f"{each.name}.tasks") in sys.modules]
    tq = TaskQ(backend.url, **{"timezone": settings.TIME_ZONE, **options})
    internal(tq).registered.handlers = tq.queue.handlers = handlers = _Handlers(tq, backend)
    for module in modules:
        for task in list(vars(module).values()):
            if isinstance(task, framework.Task) and task.backend == backend.alias:
                handlers.get(task.module_path)  # which registers it: the registry of workers has the types
    for task, params, of_schedule in declared:
        path = task.module_path
        if task.backend != backend.alias:
            continue
        if handlers.get(path) is None:
            raise ValidationError(f"schedule: {path} is no task; write @schedule in the line above @task")
        tq.schedule(params=params, **of_schedule)(handlers.functions[path])

    async def ended(event: HookCall) -> None:
        if event.task is not None and task_at(event.task.type) is not None:
            notes = await tq.handle(event.task.task_id).log() if event.task.attempts else []
            await sync_to_async(_send_finished)(backend, event.task, notes)

    tq.on("completed", ended)
    tq.on("failed", ended)
    return tq


class _Handlers(dict[str, Handler]):
    """Handlers by the paths of tasks; one that is not registered yet is looked for in the code."""

    def __init__(self, tq: TaskQ, backend: TasksBackend) -> None:
        super().__init__()
        self._tq = tq
        self._backend = backend
        self._sought: set[str] = set()
        self.functions: dict[str, TaskFunction[..., Any, Any]] = {}
        """By the paths of their tasks."""

    def get(self, path: str, default: Any = None) -> Any:
        if path not in self and path not in self._sought:  # the registration asks for its path, too
            self._sought.add(path)
            try:
                self._register(path)
            finally:
                self._sought.discard(path)
        return super().get(path, default)

    def _register(self, path: str) -> None:
        """Register the task of Django's with this path, if there is one."""
        try:
            task = task_at(path)
        except Exception as error:
            log.error("the module of {} cannot be imported; other workers may run it", printable(path), cause=error)
            return
        if task is None:
            return
        options = handler_options(task, self._backend.max_retries)
        handler = closing_connections(handler_of(task, _run_of(self._backend, task)))
        self.functions[path] = self._tq.task(name=path, **options)(handler)


def _run_of(backend: TasksBackend, task: Any) -> Callable[..., Any]:
    """Return the function of a task with the signals around it."""

    @contextlib.contextmanager
    def started() -> Iterator[tuple[Any, tuple[Any, ...]]]:
        context = current_task()
        try:
            result = result_of(context.task, backend.alias)
            yield result, (TaskContext(task_result=result),) if task.takes_context else ()
        except Exception as error:
            attempts = context.task.attempts
            context.log(raised(attempts[-1].number + 1 if attempts else 1, error))
            raise

    def in_thread(args: Any = (), kwargs: Any = None, **parent: Any) -> Any:
        with started() as (result, first):
            task_started.send(sender=type(backend), task_result=result)
            return normalize_json(task.func(*first, *args, **(kwargs or {}), **parent))

    async def in_loop(args: Any = (), kwargs: Any = None, **parent: Any) -> Any:
        with started() as (result, first):
            await task_started.asend(sender=type(backend), task_result=result)
            return normalize_json(await task.func(*first, *args, **(kwargs or {}), **parent))

    return in_loop if inspect.iscoroutinefunction(task.func) else in_thread


@closing_connections
def _send_finished(backend: TasksBackend, task: Task, notes: Sequence[LogEntry]) -> None:
    send = functools.partial(task_finished.send, type(backend), task_result=result_of(task, backend.alias, notes))
    try:
        if task.status is not Status.COMPLETED:
            raise TaskFailed(task)
    except TaskFailed:  # receivers, Django's log among them, look for an exception that is being handled
        send()
    else:
        send()
