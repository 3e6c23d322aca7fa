"""What the tests do with the project: its database, its tasks, and a worker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from aiotaskq import TaskFailed
from tests.support.machine import watchdog


@contextmanager
def default(place: dict[str, Any], *, migrated: bool = True) -> Iterator[None]:
    """This database under the alias ``default``."""
    from django.core.management import call_command
    from django.db import connections

    from aiotaskq.integrations.django.framework import task_backends

    before = connections.settings["default"]
    connections.settings["default"] = connections.configure_settings({"default": place})["default"]
    connections["default"] = connections.create_connection("default")
    try:
        if migrated:
            call_command("migrate", run_syncdb=True, verbosity=0)
        yield
    finally:
        task_backends["default"].taskq.close()
        connections["default"].close()
        connections.settings["default"] = before
        del connections["default"]


def backend(**options: Any) -> Any:
    """A backend under the alias ``default``, with options."""
    from aiotaskq.integrations.django import TasksBackend

    return TasksBackend("default", {"OPTIONS": options, "QUEUES": ["default", "mail"]})


def work(results: Sequence[Any], by: Any = None, **options: Any) -> list[Any]:
    """Run a worker until these tasks have ended; return their results as they are then."""
    from aiotaskq.integrations.django.worker import worker_of

    tq = worker_of(by or backend())

    async def until_ended() -> None:
        async with tq.running(**{"concurrency": 2, "scheduler": False, **options}):
            for result in results:
                with suppress(TaskFailed):
                    await tq.handle(result.id).result(timeout=watchdog())

    asyncio.run(until_ended())
    return [(by or backend()).get_result(result.id) for result in results]


def work_all() -> None:
    """Run a worker until every task has ended."""
    from aiotaskq.integrations.django.worker import worker_of

    tq = worker_of(backend())

    async def until_ended() -> None:
        async with tq.running(concurrency=2, scheduler=False), asyncio.timeout(watchdog()):
            while (counts := (await tq.stats()).counts)["pending"] + counts["running"]:
                await asyncio.sleep(0.01)

    asyncio.run(until_ended())


def tasks() -> Any:
    from tests.apps.django_shop import tasks

    return tasks


def orders(name: str) -> int:
    from tests.apps.django_shop.models import Order

    return int(Order.objects.filter(name=name).count())


@contextmanager
def rolled_back() -> Iterator[None]:
    """A transaction, or within one a savepoint, that is rolled back."""
    from django.db import transaction

    with suppress(ZeroDivisionError), transaction.atomic():
        yield
        raise ZeroDivisionError


def missing(result: Any) -> bool:
    """Whether the store has no such task."""
    from aiotaskq.integrations.django.framework import TaskResultDoesNotExist

    try:
        backend().get_result(result.id)
    except TaskResultDoesNotExist:
        return True
    return False
