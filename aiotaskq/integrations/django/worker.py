"""The worker of a backend: runs the tasks of Django's code, as Django runs requests."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.db import close_old_connections, connections
from django.utils.module_loading import autodiscover_modules

from aiotaskq.app.taskq import TaskQ
from aiotaskq.integrations.django.backend import TasksBackend
from aiotaskq.integrations.django.framework import (
    TaskContext,
    normalize_json,
    task_finished,
    task_started,
)
from aiotaskq.integrations.django.results import raised, result_of, task_at
from aiotaskq.log import log, printable
from aiotaskq.runtime.context import current_task
from aiotaskq.runtime.events import Event
from aiotaskq.runtime.handler import Handler

__all__ = ["worker_of"]


def worker_of(backend: TasksBackend, **options: Any) -> TaskQ:
    """Return a task queue on the store of a backend, whose handlers are the tasks in Django's code.

    ``options`` are those of ``TaskQ``.
    The modules ``tasks`` of the applications, and those of the option ``modules``, are imported. Any other task is
    found when it is to be run.
    """
    autodiscover_modules("tasks")
    for name in backend.options.get("modules", ()):
        import_module(name)
    tq = TaskQ(backend.url, **options)
    tq.registered.handlers = _Handlers(_Registrar(tq, backend).register)

    async def ended(event: Event) -> None:
        if event.task is not None and task_at(event.task.type) is not None:
            notes = await tq.handle(event.task.task_id).notes() if event.task.attempts else []
            await sync_to_async(_send_finished)(backend, result_of(event.task, backend.alias, notes))

    tq.on("completed", ended)
    tq.on("failed", ended)
    return tq


class _Handlers(dict[str, Handler]):
    """Handlers by the paths of tasks; one that is not registered yet is looked for in the code."""

    def __init__(self, register: Callable[[str], None]) -> None:
        super().__init__()
        self._register = register
        self._sought: set[str] = set()

    def get(self, path: str, default: Any = None) -> Any:
        if path not in self and path not in self._sought:  # the registration asks for its path, too
            self._sought.add(path)
            try:
                self._register(path)
            finally:
                self._sought.discard(path)
        return super().get(path, default)


class _Registrar:
    def __init__(self, tq: TaskQ, backend: TasksBackend) -> None:
        self._tq = tq
        self._backend = backend

    def register(self, path: str) -> None:
        """Register the task of Django's with this path, if there is one."""
        try:
            task = task_at(path)
        except Exception as error:
            log.error("the module of {} cannot be imported; other workers may run it", printable(path), cause=error)
            return
        if task is not None:
            handler = _coroutine if inspect.iscoroutinefunction(task.func) else _plain
            self._tq.task(name=path)(handler(self._backend, task))


def _plain(backend: TasksBackend, task: Any) -> Callable[..., Any]:
    def run(args: Any = (), kwargs: Any = None) -> Any:
        close_old_connections()
        try:
            result = _started(backend)
            task_started.send(sender=type(backend), task_result=result)
            return normalize_json(task.func(*_first(task, result), *args, **(kwargs or {})))
        except Exception as error:
            _note(error)
            raise
        finally:
            close_old_connections()

    return run


def _coroutine(backend: TasksBackend, task: Any) -> Callable[..., Any]:
    async def run(args: Any = (), kwargs: Any = None) -> Any:
        # As for a request: what it calls by `sync_to_async` has a thread, and so database connections, of its own.
        async with ThreadSensitiveContext():
            try:
                result = _started(backend)
                await task_started.asend(sender=type(backend), task_result=result)
                return normalize_json(await task.func(*_first(task, result), *args, **(kwargs or {})))
            except Exception as error:
                _note(error)
                raise
            finally:
                await sync_to_async(connections.close_all)()

    return run


def _started(backend: TasksBackend) -> Any:
    return result_of(current_task().task, backend.alias)


def _first(task: Any, result: Any) -> tuple[Any, ...]:
    return (TaskContext(task_result=result),) if task.takes_context else ()


def _note(error: Exception) -> None:
    context = current_task()
    attempts = context.task.attempts
    context.log(raised(attempts[-1].number + 1 if attempts else 1, error))


def _send_finished(backend: TasksBackend, result: Any) -> None:
    close_old_connections()
    try:
        task_finished.send(sender=type(backend), task_result=result)
    finally:
        close_old_connections()
