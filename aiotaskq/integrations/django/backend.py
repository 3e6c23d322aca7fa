"""The backend of Django's tasks framework: enqueues tasks, and reads their results."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any, cast

from django.apps import apps
from django.core import checks
from django.db.utils import ConnectionDoesNotExist
from django.utils import timezone
from django.utils.module_loading import autodiscover_modules

from aiotaskq.app.handle import PushOptions
from aiotaskq.backends.url import TABLE_NAMES, is_shared, with_table_names
from aiotaskq.core.errors import MAX_NAME
from aiotaskq.errors import AiotaskqError, NotFound, ValidationError
from aiotaskq.integrations.django.borrowed import (
    advising_migrate,
    alias_of,
    in_transaction,
    may_join,
    refuse_own_lock,
    session,
    url_of,
)
from aiotaskq.integrations.django.framework import (
    BaseTaskBackend,
    ImproperlyConfigured,
    InvalidTask,
    TaskResult,
    TaskResultDoesNotExist,
    TaskResultStatus,
    task_enqueued,
)
from aiotaskq.integrations.django.results import result_of
from aiotaskq.integrations.django.task import Task, call_of
from aiotaskq.sync import TaskQ
from aiotaskq.sync.bridge import reach_of

__all__ = ["TasksBackend"]

OPTIONS = ("url", "using", *TABLE_NAMES, "max_retries", "modules")


@functools.cache
def _taskq(url: str) -> TaskQ:
    # Django makes a backend for each thread; the process has one task queue for each store.
    made = TaskQ(url)
    reach_of(made).admit = lambda *call: refuse_own_lock(reach_of(made)().url, *call)  # tests put another store there
    return made


class TasksBackend(BaseTaskBackend):  # type: ignore[misc]  # Django has no types
    """``TASKS = {"default": {"BACKEND": "aiotaskq.integrations.django.TasksBackend", "OPTIONS": {…}}}``.

    Options, all of them optional:

    - ``url``: the store of the tasks; default the database ``using``.
    - ``using``: the alias in ``DATABASES`` of the database whose transactions a task joins; default ``default``, if
      that is the store.
    - ``schema``, ``table_prefix``: where its tables are, as for ``TaskQ``.
    - ``max_retries``: how often a task is retried after an exception; default 0, as Django's own backends.
    - ``modules``: names of modules with tasks, which workers import beside the module ``tasks`` of each application.
    """

    task_class = Task
    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True

    @property
    def url(self) -> str:
        """The URL of the store.

        Raises ImproperlyConfigured where none is given and none follows from the database, and as ``TaskQ``.
        """
        url = self.options.get("url")
        url = url_of(self.options.get("using", "default")) if url is None else url
        return with_table_names(url, **{name: self.options.get(name) for name in TABLE_NAMES})

    @property
    def using(self) -> str | None:
        """The alias of the database whose transactions a task joins; None where it joins none."""
        if "using" in self.options or self.options.get("url") is None:
            return str(self.options.get("using", "default"))
        return alias_of(self.options["url"])

    @property
    def max_retries(self) -> int:
        """How often a task that says nothing else is retried."""
        return int(self.options.get("max_retries", 0))

    @property
    def taskq(self) -> TaskQ:
        """The blocking task queue of the store: ``taskq.handle(result.id).cancel()``, ``taskq.stats()``."""
        return _taskq(self.url)

    def validate_task(self, task: Any) -> None:
        """Raise InvalidTask for a task that cannot be run, as one whose path is longer than 100 characters."""
        super().validate_task(task)
        for what, name in (("path", task.module_path), ("queue_name", task.queue_name)):
            if not 0 < len(name) <= MAX_NAME:
                raise InvalidTask(f"{what}: at most {MAX_NAME} characters are possible (got {name[:200]!r})")
        if isinstance(task, Task):
            if task.max_retries is None and not self.options.get("max_retries"):
                for name, default in (("backoff", None), ("retry_on", Exception)):
                    if getattr(task, name) is not default:
                        raise InvalidTask(f"{name}: the task is not retried; give max_retries, too")
            try:
                task.check()
            except ValidationError as error:
                raise InvalidTask(str(error)) from error

    def enqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        """Push a task. In a transaction of Django's on the same database it exists exactly if that is committed."""
        self.validate_task(task)
        alias, options = self.using, {}
        if alias is not None and in_transaction(alias):
            options["session"] = session(alias)
        call = call_of(self, task, args, kwargs, cast(PushOptions, options))
        with advising_migrate():
            handle = self.taskq.push_call(call)
        result = TaskResult(
            task=task,
            id=handle.task_id,
            status=TaskResultStatus.READY,
            enqueued_at=timezone.now().replace(microsecond=0),
            started_at=None,
            last_attempted_at=None,
            finished_at=None,
            **call.params,
            backend=self.alias,
            errors=[],
            worker_ids=[],
        )
        if handle.created:
            task_enqueued.send(type(self), task_result=result)
        return result

    def get_result(self, result_id: str) -> Any:
        """Return the result of a task as it is now. Raises TaskResultDoesNotExist.

        A task of a transaction that is not committed yet is not found.
        """
        handle = self.taskq.handle(result_id)
        try:
            with advising_migrate():
                row = handle.task()
            notes = handle.log() if row.attempts else []
        except (NotFound, ValidationError):
            raise TaskResultDoesNotExist(result_id) from None
        found = result_of(row, self.alias, notes)
        if found is None:  # of another program, or of code that is gone
            raise TaskResultDoesNotExist(result_id)
        return found

    def import_modules(self) -> list[ModuleType]:
        """Import the modules with tasks; return those that the applications do not name."""
        autodiscover_modules("tasks")
        return [import_module(name) for name in self.options.get("modules", ())]

    def check(self, **_kwargs: Any) -> Iterable[checks.CheckMessage]:
        """Return what is wrong with the options."""
        if not isinstance(self.options, Mapping):
            return [self._error("OPTIONS is no dict", "E001")]
        found = []
        if unknown := sorted(self.options.keys() - set(OPTIONS)):
            found.append(self._error(f"unknown options {', '.join(unknown)}; use {', '.join(OPTIONS)}", "E001"))
        retries = self.options.get("max_retries", 0)
        if type(retries) is not int or retries < 0:
            found.append(self._error("max_retries: a whole number of at least 0 is needed", "E002"))
        modules = self.options.get("modules", ())
        if isinstance(modules, str) or not all(isinstance(name, str) for name in modules):
            found.append(self._error("modules: a list of names is needed", "E003"))
        elif not found:
            try:
                self.import_modules()
            except Exception as error:
                found.append(self._error(f"its modules with tasks: {type(error).__name__}: {error}", "E006"))
        if not apps.is_installed("aiotaskq.integrations.django"):
            found.append(self._error("INSTALLED_APPS lacks 'aiotaskq.integrations.django'", "E007"))
        try:
            url = self.url
            if not is_shared(url):
                found.append(self._error("url: memory:// is in one process; workers are in others", "E004"))
            _taskq(url)  # for a driver that is missing, or an option of the URL that is wrong
            if "using" in self.options and not may_join(url, self.options["using"]):
                found.append(self._error("using: it is another database than that of url", "E005"))
        except (AiotaskqError, ImproperlyConfigured, ConnectionDoesNotExist) as error:
            found.append(self._error(str(error), "E004"))
        return found

    def _error(self, text: str, number: str) -> checks.CheckMessage:
        return checks.Error(f"TASKS[{self.alias!r}]: {text}", id=f"aiotaskq.{number}")
