"""A duration is a number of seconds or a timedelta, wherever one is taken."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

import aiotaskq
import aiotaskq.integrations.aiohttp
import aiotaskq.integrations.starlette
import aiotaskq.sync
import aiotaskq.testing
from aiotaskq import Backoff, Rate, TaskQ
from aiotaskq.app.handle import PushOptions
from aiotaskq.app.registry import TaskOptions
from aiotaskq.core.schedule import new_schedule
from aiotaskq.core.task import SECOND
from aiotaskq.errors import ValidationError
from aiotaskq.runtime.public_values import PublicValues
from aiotaskq.runtime.queue.pushes import TaskChanges
from tests.support.rows import NOW

DURATIONS = {
    *("timeout", "delay", "expires", "debounce", "max_wait", "throttle", "within", "ttl", "lease", "heartbeat"),
    *("reap_interval", "poll_interval", "check_interval", "cleanup_interval", "visibility", "retention", "drain"),
    *("retention_failed", "grace", "older_than", "oldest_ready", "schedule_late", "no_worker", "every", "interval"),
    *("interval_seconds", "catch_up", "jitter", "per", "base", "seconds", "sample_interval", "backoff"),
}
OTHERS = {("Backoff", "jitter")}  # whether there is any
RECORDS = {"Schedule", "Period", "Task"}
CLOCK = {"wait", "sleep", "step", "call_later"}


MODULES = (aiotaskq, aiotaskq.sync, aiotaskq.testing, aiotaskq.integrations.starlette, aiotaskq.integrations.aiohttp)


def parameters() -> Iterator[tuple[str, str, str]]:
    """Yield the parameters of what is public, each with the name of its function and its annotation."""
    public: list[Any] = [getattr(module, name) for module in MODULES for name in module.__all__]
    for found in (*public, PublicValues):
        members = [each for base in getattr(found, "__mro__", ()) for each in vars(base).values()]
        for member in (found, *members):
            name = getattr(member, "__name__", "")
            ours = str(getattr(member, "__module__", "")).startswith("aiotaskq")
            error = isinstance(member, type) and issubclass(member, Exception)  # some have no signature
            if callable(member) and ours and not error and (not name.startswith("_") or name == "__init__"):
                for parameter in inspect.signature(member).parameters.values():
                    yield name, parameter.name, str(parameter.annotation)
    for options in (PushOptions, TaskOptions, TaskChanges):
        for name, annotation in options.__annotations__.items():
            yield options.__name__, name, getattr(annotation, "__forward_arg__", str(annotation))


def test_every_duration_is_annotated_as_a_number_or_a_timedelta() -> None:
    taken = [each for each in parameters() if each[0] not in RECORDS | CLOCK and each[:2] not in OTHERS]
    found = [each for each in taken if each[1] in DURATIONS]
    assert len({(function, name) for function, name, _ in found}) > 50
    numbers = [each for each in found if "float" in each[2] or "int" in each[2]]
    assert {each for each in numbers if "timedelta" not in each[2]} == set()


async def test_options_of_a_task_and_of_a_push() -> None:
    hour, minute = timedelta(hours=1), timedelta(minutes=1)
    tq = TaskQ("memory://")

    @tq.task(timeout=minute, expires=hour, backoff=minute, rate=Rate(5, per=minute))
    async def late(name: str) -> None: ...

    @tq.task(batch=3, within=timedelta(seconds=2))
    async def many(items: list[int]) -> None: ...

    assert (late.handler.timeout, late.handler.expires, many.handler.within) == (60, 3_600, 2)
    assert late.handler.backoff == Backoff(base=60, factor=1, limit=60, jitter=False)
    assert Backoff(base=minute, limit=hour) == Backoff(base=60, limit=3_600)
    task = await (await late.options(delay=hour, timeout=timedelta(seconds=3), expires=minute).push("x")).task()
    assert (task.timeout, task.expires_at) == (3, task.due_us + 60 * SECOND)
    await tq.edit(task.task_id, timeout=minute, delay=minute)
    assert (await tq.get(task.task_id)).timeout == 60
    with pytest.raises(ValidationError, match="timeout: must be more than 0 seconds"):
        tq.task(timeout=timedelta(0))(late.handler.function)


async def test_waits_the_store_and_the_operators_verbs() -> None:
    moment = timedelta(milliseconds=1)
    tq = TaskQ(
        "memory://",
        lease=timedelta(minutes=1),
        heartbeat=timedelta(seconds=10),
        reap_interval=timedelta(seconds=10),
        poll_interval=timedelta(seconds=1),
        check_interval=timedelta(seconds=10),
        cleanup_interval=timedelta(minutes=1),
        visibility=timedelta(minutes=5),
        retention=timedelta(days=1),
        retention_failed=timedelta(days=2),
    )

    @tq.task
    async def slow() -> None:
        await asyncio.Event().wait()

    tq.alerts(oldest_ready=timedelta(minutes=1), every=timedelta(seconds=20))
    async with tq.running(drain=moment, grace=timedelta(seconds=1)):
        handle = await slow.push()
        with pytest.raises(aiotaskq.ResultTimeout, match=r"after 0\.001 s"):
            await handle.result(timeout=moment)
        assert await handle.next_log(timeout=moment) == []
        await tq.values.set_public("a", 1, ttl=timedelta(hours=1))
        assert await tq.queue.pop_task(moment, visibility=timedelta(minutes=1)) is None
        assert await tq.purge(older_than=timedelta(hours=1)) == 0
        assert await tq.emit("a", expires=timedelta(hours=1))
        assert (await tq.health(timeout=timedelta(seconds=5)))["store"] is None
    await tq.close(drain=timedelta(0), grace=timedelta(0))


def test_schedules_take_whole_seconds() -> None:
    def made(**fields: Any) -> Any:
        return new_schedule("n", "t", "interval", **{"interval_seconds": 60, **fields}, now=NOW)

    hour = timedelta(hours=1)
    schedule = made(interval_seconds=hour, catch_up=hour, jitter=timedelta(minutes=1), timeout=timedelta(seconds=1.5))
    assert (schedule.interval_seconds, schedule.catch_up, schedule.jitter, schedule.timeout) == (3_600, 3_600, 60, 1.5)
    with pytest.raises(ValidationError, match="interval_seconds: whole seconds are needed"):
        made(interval_seconds=timedelta(seconds=1.5))
