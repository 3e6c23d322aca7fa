"""Options of Django's tasks, their schedules, and the connections that they leave."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.integrations.django.project import backend, tasks, work, work_all
from tests.support.machine import watchdog

# ---- options of tasks -----------------------------------------------------------------------------------------------


def test_a_task_has_options_of_its_own(sqlite: Path) -> None:
    charge = tasks().charge
    refused, failed = charge.enqueue("a", "refused"), charge.enqueue("b", error="value")
    row = backend().taskq.handle(refused.id).task()
    assert (row.max_retries, row.timeout, row.flow.gates[0][0]) == (2, 20, "name:a")
    first, second = work([refused, failed])
    assert (first.status, first.attempts) == ("FAILED", 3)
    assert (second.status, second.attempts) == ("FAILED", 1)  # retry_on does not name it


def test_using_changes_options_for_one_call(sqlite: Path) -> None:
    from aiotaskq import Limit, Rate

    charge, book = tasks().charge, tasks().book
    once = charge.using(
        unique_key="one", max_retries=0, timeout=5, rate=Rate(5, key="error", burst=2, weight=lambda p: 2)
    )
    row = backend().taskq.handle(once.enqueue("a").id).task()
    assert (row.unique_key, row.max_retries, row.timeout) == ("one", 0, 5)
    assert [key for key, _ in row.flow.gates] == ["name:a", "error:"]
    assert row.flow.weight == 2
    assert once.enqueue("b").id == row.task_id  # while there is one
    throttled = book.using(throttle=timedelta(hours=1), key="name")
    assert throttled.enqueue("a", count=1).id == throttled.enqueue("a", count=2).id != throttled.enqueue("b").id
    debounced = book.using(debounce=timedelta(hours=1))
    first = debounced.enqueue("c")
    assert debounced.enqueue("c").id == first.id
    assert backend().get_result(first.id).task.run_after is not None
    # Each value of a default counts, as for any other handler.
    counted = book.using(limit=Limit(1, key="count")).enqueue("d")
    assert backend().taskq.handle(counted.id).task().flow.gates[0][0] == "count:1"


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"max_retries": -1}, "max_retries"),
        ({"timeout": 0}, "timeout"),
        ({"limit": 3}, "Limit"),
        ({"debounce": 1, "throttle": 1}, "debounce, throttle"),
        ({"max_retries": 1, "retry_on": "ValueError"}, "retry_on"),
        ({"backoff": 1}, "backoff: the task is not retried; give max_retries, too"),
        ({"retry_on": ValueError}, "retry_on: the task is not retried"),
        ({"max_snoozes": -1}, "max_snoozes"),
    ],
)
def test_wrong_options_are_refused_where_the_task_is_defined(sqlite: Path, options: Any, wrong: str) -> None:
    from aiotaskq.integrations.django.framework import InvalidTask

    with pytest.raises(InvalidTask, match=wrong):
        tasks().book.using(**options)


def test_wrong_keys_of_a_task_are_refused(sqlite: Path) -> None:
    from aiotaskq import Limit
    from aiotaskq.integrations.django.framework import InvalidTask

    with pytest.raises(InvalidTask, match=r"limit: key: book\(\) has no parameter 'tenant'; there is: name, count"):
        tasks().book.using(limit=Limit(1, key="tenant"))
    assert backend(max_retries=1).validate_task(tasks().book.using(max_retries=1, backoff=3)) is None
    with pytest.raises(InvalidTask, match="backoff: workers read it where the task is defined"):
        tasks().book.using(max_retries=1, backoff=3).enqueue("later")


def test_a_task_in_the_plain_api_has_its_options(sqlite: Path) -> None:
    from django.db import transaction

    from aiotaskq.errors import ValidationError
    from aiotaskq.integrations.django import session

    module, tq = tasks(), backend().taskq
    with transaction.atomic():
        calls = [tq.call(module.charge, {"args": ["a", "refused"]}), tq.call(module.report, {"kwargs": {"name": "b"}})]
        group = tq.group(calls, session=session())
        own = tq.push(module.send, {"args": ["c"]}, task_id="mine", priority=7, session=session())
    charged, reported = (handle.task() for handle in group.tasks())
    assert (charged.max_retries, charged.timeout, charged.flow.gates[0][0]) == (2, 20, "name:a")
    assert (reported.max_retries, reported.queue) == (0, "mail")
    assert (own.task_id, own.task().queue, own.task().priority) == ("mine", "mail", 7)
    with pytest.raises(ValidationError, match="args and kwargs"):
        tq.call(module.book, {"name": "a"})
    with pytest.raises(TypeError, match=r"tasks\.book\(\) missing a required argument: 'name'"):
        tq.call(module.book)


def test_arguments_that_the_function_does_not_take_are_refused_before_anything_is_stored(sqlite: Path) -> None:
    from aiotaskq.integrations.django import schedule

    module = tasks()
    for wrong in (lambda: module.book.enqueue("a", nope=1), lambda: module.attempt.enqueue()):
        with pytest.raises(TypeError, match=r"tasks\.(book|attempt)\(\) "):
            wrong()
    with pytest.raises(TypeError, match="missing a required argument: 'name'"):
        schedule(cron="0 2 * * *", kwargs={"nope": 1})(module.book)
    assert backend().taskq.count() == 0


def test_tasks_of_a_group_and_a_chain_get_the_earlier_ones(sqlite: Path) -> None:
    from aiotaskq import Parent, chain, injected
    from aiotaskq.integrations.django.framework import InvalidTask

    module, tq = tasks(), backend().taskq
    group = tq.group([tq.call(module.send, {"args": ["a"]})] * 2, then=tq.call(module.total, {"args": [5]}))
    chained = tq.start(chain(tq.call(module.send, {"args": ["b"]}), tq.call(module.next_one)))
    alone = tq.push(module.total, {"args": [1]})
    work_all()
    assert (group.progress().completed, chained.progress().completed) == (2, 2)
    results = {each.type.rpartition(".")[2]: each.result for each in tq.find(status="completed")}
    assert (results["total"], results["next_one"]) == (5, 1)
    assert "needs 'parent', and the task has no parent" in alone.task().error_message
    with pytest.raises(TypeError, match="unexpected keyword argument 'parent'"):
        module.next_one.enqueue(parent=1)

    def wants(client: Path = injected()) -> None: ...
    def lacks(parent: Parent[Nowhere] = injected()) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    for function, why in (
        (wants, "'client': a task of Django's gets no resources"),
        (lacks, "is not defined, as its annotation says"),
    ):
        function.__qualname__ = function.__name__  # else the framework refuses it first
        with pytest.raises(InvalidTask, match=why):
            dataclasses.replace(module.book, func=function)


@pytest.mark.parametrize(
    ("typed", "here"),
    [
        ("f.delay(1)", "task.enqueue(…)"),
        ("f.apply_async((1,))", "task.using(run_after=…).enqueue(…)"),
        ("f.s(1)", "tq.call(task, {…})"),
        ("f.using(countdown=3)", "task.using(run_after=…)"),
        ("replace(f, bind=True)", "takes_context=True"),
        ("replace(f, rate_limit='10/m')", "rate=Rate(10, per=60)"),
    ],
)
def test_a_habit_of_celery_is_told_what_is_written_here(sqlite: Path, typed: str, here: str) -> None:
    from aiotaskq.integrations.django.framework import InvalidTask

    with pytest.raises((AttributeError, InvalidTask), match=re.escape(f"here: {here} ('aiotaskq docs ")):
        eval(typed, {"f": tasks().book, "replace": dataclasses.replace})


# ---- schedules ------------------------------------------------------------------------------------------------------


def test_schedules_of_tasks_are_declared_and_fired_by_the_worker(sqlite: Path) -> None:
    from aiotaskq.integrations.django.worker import worker_of

    module = tasks()
    module.ran.clear()
    tq = worker_of(backend())

    async def main() -> dict[str, Any]:
        ended = asyncio.Event()
        tq.on("completed", lambda _event: ended.set())
        async with tq.running(), asyncio.timeout(watchdog()):
            await ended.wait()
            return {each.name: each for each in await tq.schedules.list()}

    found = asyncio.run(main())
    assert module.ran == ["at once"]
    nightly, once = found["nightly"], found["tests.apps.django_shop.tasks.report"]
    assert (nightly.timezone, nightly.cron_expression, nightly.params) == (
        "Asia/Shanghai",
        "0 2 * * *",
        {"args": [], "kwargs": {"name": "scheduled"}},
    )
    assert (once.run_count, once.queue, once.max_retries) == (1, "mail", 0)


def test_wrong_schedules_are_refused_where_they_are_declared(sqlite: Path) -> None:
    from aiotaskq.errors import ValidationError
    from aiotaskq.integrations.django import schedule

    with pytest.raises(ValidationError, match="cron"):
        schedule(cron="61 * * * *", args=["a"])(tasks().book)
    with pytest.raises(ValidationError, match="above @task"):
        schedule(cron="0 2 * * *")(tasks().no_task)


# ---- connections ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("age", "kept"), [(0, False), (None, True)])
def test_old_connections_are_closed_after_a_task(sqlite: Path, age: int | None, kept: bool) -> None:
    from django.db import connections

    module = tasks()
    module.ran.clear()
    connections.settings["default"]["CONN_MAX_AGE"] = age
    work([module.look.enqueue()], concurrency=1)
    (raw,) = module.ran
    with nullcontext() if kept else pytest.raises(Exception, match="closed"):
        raw.execute("SELECT 1")


def test_plain_handlers_can_have_their_connections_closed(sqlite: Path) -> None:
    from asgiref.sync import sync_to_async
    from django.db import connection

    from aiotaskq import TaskQ
    from aiotaskq.integrations.django import closing_connections
    from tests.apps.django_shop.models import Order

    tq = TaskQ("memory://")
    used: list[Any] = []

    def count() -> int:
        found = Order.objects.count()
        used.append(connection.connection)
        return int(found)

    @tq.task
    @closing_connections
    def in_thread(name: str) -> int:
        return count()

    @tq.task
    @closing_connections
    async def in_loop(name: str) -> int:
        return await sync_to_async(count)()

    async def main() -> None:
        async with tq.running():
            for function in (in_thread, in_loop):
                assert await (await function.push(name="x")).result(timeout=watchdog()) == 0

    asyncio.run(main())
    for raw in used:
        with pytest.raises(Exception, match="closed"):
            raw.execute("SELECT 1")
