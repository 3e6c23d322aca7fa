"""The tasks of the project."""

import asyncio
from typing import Any

from asgiref.sync import sync_to_async
from django.db import connection

from aiotaskq import Backoff, Limit, Parent, injected
from aiotaskq.integrations.django import schedule
from tests.apps.django_shop.models import Order

try:
    from django.tasks import task
except ImportError:
    from django_tasks import task

ran: list[Any] = []
"""What the tasks of this process were called with."""


class Refused(Exception):
    """A failure with a class of its own."""


@task
def book(name: str, *, count: int = 1) -> Any:
    """Write an order."""
    for _ in range(count):
        Order.objects.create(name=name)
    ran.append(name)
    return {"name": name, "orders": (count,)}


@task(queue_name="mail", priority=5)
async def send(name: str) -> int:
    """Count orders from a coroutine."""
    await asyncio.sleep(0)
    ran.append(name)
    return int(await sync_to_async(Order.objects.filter(name=name).count)())


@task(takes_context=True)
def attempt(context: Any, fail: int) -> Any:
    """Fail in the first attempts; return the number of the last one."""
    if context.attempt <= fail:
        raise Refused(f"attempt {context.attempt}")
    return [context.attempt, context.task_result.id]


@task(takes_context=True)
async def fail(context: Any) -> None:
    """Fail in a coroutine."""
    raise Refused(str(len(context.task_result.worker_ids)))


def no_task() -> None:
    """A function that is no task."""


@task(max_retries=2, backoff=Backoff(base=0.01), retry_on=Refused, timeout=20, limit=Limit(1, key="name"))
def charge(name: str, error: str = "") -> int:
    """Fail by a class that is retried, or by one that is not."""
    ran.append(name)
    if error:
        raise {"refused": Refused, "value": ValueError}[error](name)
    return len(ran)


@schedule(cron="0 2 * * *", name="nightly", kwargs={"name": "scheduled"})
@schedule(at=1, args=["at once"])
@task(queue_name="mail")
def report(name: str) -> None:
    """Run by schedules."""
    ran.append(name)


@task
def look() -> None:
    """Use the connection of the thread, and show it."""
    Order.objects.count()
    ran.append(connection.connection)


@task
def total(start: int, parent: list[Parent[int]] = injected()) -> int:
    """Add up the results of a group."""
    return start + sum(each.result for each in parent)


@task
async def next_one(parent: Parent[int] = injected()) -> int:
    """Count on from the task before in a chain."""
    return parent.result + 1
