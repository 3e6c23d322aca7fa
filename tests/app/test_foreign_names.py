"""What users of other libraries type first: each error says what is written here, and where the manual has it."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest

import aiotaskq.sync
from aiotaskq import TaskQ
from aiotaskq.app.handle import PushOptions, TaskFunction, TaskHandle
from aiotaskq.cli.docs import MANUAL
from aiotaskq.core.foreign_names import Word, names, word
from aiotaskq.runtime.context import TaskContext

HABITS: list[tuple[str, str, str]] = [
    # Celery
    ("f.delay(1)", "f.push(…)", "tasks"),
    ("f.apply_async((1,), countdown=60)", "f.options(delay=60).push(…)", "tasks"),
    ("f.s(1)", "f.call(…)", "workflows"),
    ("f.si(1)", "f.call(…)", "workflows"),
    ("f.signature((1,))", "f.call(…)", "workflows"),
    ("f.retry(countdown=60)", "raise Retry(after=60), or current_task().snooze(60)", "tasks"),
    ("Retry(countdown=60)", "after=60, in seconds", "tasks"),
    ("Retry(exc=OSError())", "raise Retry(…) from error", "tasks"),
    ("f.delay_on_commit(1)", "session=session", "transactions"),
    ('tq.send_task("f")', "tq.push(", "tasks"),
    ("tq.AsyncResult('a')", "tq.handle(id)", "tasks"),
    ("tq.task(bind=True)", "current_task()", "tasks"),
    ("tq.task(autoretry_for=(OSError,))", "retry_on=…", "tasks"),
    ("tq.task(retry_backoff=True)", "backoff=Backoff(", "tasks"),
    ("tq.task(time_limit=3)", "timeout=30", "tasks"),
    ('tq.task(rate_limit="10/m")', "rate=Rate(10, per=60)", "limits"),
    ("tq.task(acks_late=True)", "settled after its run", "migration"),
    ("tq.task(ignore_result=True)", "retention=3600", "stores"),
    ("f.options(countdown=60)", "delay=60", "tasks"),
    ("f.options(link=f)", "on_success=…", "tasks"),
    ("handle.get(timeout=1)", "handle.result(timeout=5)", "tasks"),
    ("handle.revoke()", "handle.cancel()", "tasks"),
    ('TaskQ(broker="redis://")', 'TaskQ("redis://…")', "stores"),
    ('TaskQ(prefix="jobs_")', "TaskQ(…, table_prefix=…), schema=… on PostgreSQL", "stores"),
    # dramatiq
    ("f.send(1)", "f.push(…)", "tasks"),
    ("f.send_with_options(args=(1,))", "f.options(delay=60).push(…)", "tasks"),
    ("f.message(1)", "f.call(…)", "workflows"),
    ("Retry(delay=60_000)", "after=60, in seconds", "tasks"),
    ("tq.task(max_backoff=3)", "backoff=Backoff(limit=600)", "tasks"),
    ("tq.actor", "@tq.task", "tasks"),
    # arq
    ('tq.enqueue_job("f", 1)', "f.push(…)", "tasks"),
    ("f.options(_defer_by=3)", "delay=60", "tasks"),
    ("Retry(defer=5)", "after=60, in seconds", "tasks"),
    ("tq.task(max_tries=3)", "max_retries=3", "tasks"),
    # RQ
    ("tq.enqueue(f, 1)", "f.push(…)", "tasks"),
    ("tq.task(result_ttl=3)", "retention=3600", "stores"),
    # huey
    ("tq.periodic_task", '@tq.schedule(cron="0 2 * * *")', "schedules"),
    ("tq.task(retries=3)", "max_retries=3", "tasks"),
    ("f.schedule(delay=60)", "f.options(delay=60).push(…)", "tasks"),
    # taskiq
    ("f.kiq(1)", "f.push(…)", "tasks"),
    ("f.kicker()", "f.options(…).push(…)", "tasks"),
    # APScheduler
    ('tq.add_job(f, "cron", hour=2)', "@tq.schedule(…)", "schedules"),
    ("tq.schedule(hour=2)", 'cron="0 2 * * *"', "schedules"),
    ("tq.schedule(seconds=2)", "interval=60", "schedules"),
    ("tq.schedule(interval=2, max_instances=1)", 'overlap="skip"', "schedules"),
    # procrastinate
    ("f.defer(a=1)", "f.push(…)", "tasks"),
    ("f.configure(lock=1)", "f.options(…).push(…)", "tasks"),
    ('tq.periodic(cron="0 2 * * *")', "@tq.schedule", "schedules"),
    ('tq.task(queueing_lock="a")', "unique_key=…", "tasks"),
    # SAQ, and Django's tasks
    ('tq.push("f", {"a": 1}, scheduled=3)', "at=…", "tasks"),
    ("f.enqueue(1)", "f.push(…)", "tasks"),
]


def typed_in(library: Any, typed: str) -> None:
    tq = library.TaskQ("memory://")
    f = tq.task(name="f")(_handler)
    known = {"TaskQ": library.TaskQ, "Retry": library.Retry}
    made = eval(typed, {"tq": tq, "f": f, "handle": tq.handle("a"), **known})
    if inspect.iscoroutine(made):
        asyncio.run(made)
    else:
        made(_handler)  # a decorator


def _handler(a: int) -> None: ...


@pytest.mark.parametrize("library", [aiotaskq, aiotaskq.sync], ids=["await", "blocking"])
@pytest.mark.parametrize(("typed", "here", "page"), HABITS, ids=[typed for typed, _, _ in HABITS])
def test_a_habit_is_told_what_is_written_here(library: Any, typed: str, here: str, page: str) -> None:
    with pytest.raises((AttributeError, ValueError), match=re.escape(f"('aiotaskq docs {page}')")) as error:
        typed_in(library, typed)
    assert here in str(error.value)


def test_options_among_the_arguments_of_a_push_are_told_where_they_stand() -> None:
    f = TaskQ("memory://").task(_handler)
    with pytest.raises(TypeError, match=re.escape("'countdown'; options stand apart: f.options(delay=60).push(…)")):
        f.call(1, countdown=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=re.escape("'delay'; options stand apart: f.options(delay=…).push(…)")):
        f.call(1, delay=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"'b'$"):
        f.call(1, b=3)  # type: ignore[call-arg]


def test_other_unknown_names_are_told_as_ever() -> None:
    tq = TaskQ("memory://")
    with pytest.raises(AttributeError, match=r"^'TaskQ' object has no attribute 'tusk'$"):
        tq.tusk  # type: ignore[attr-defined]  # noqa: B018 - it raises
    assert not hasattr(tq, "delay") and not hasattr(tq, "add_job")
    with pytest.raises(ValueError, match="task: unknown option colour; use name, queue"):
        tq.task(colour=1)  # type: ignore[call-overload]


def every() -> list[tuple[str, str, Word]]:
    return [
        (place, name, Word(here, page))
        for place, words in names().items()
        for here, (page, names) in words.items()
        for name in names.split()
    ]


def test_each_name_is_in_the_table_once_and_its_page_exists() -> None:
    found = every()
    assert len({(place, name) for place, name, _ in found}) == len(found)
    assert all(word(place, name) == meant for place, name, meant in found)
    assert [meant.page for _, _, meant in found if not (MANUAL / f"{meant.page}.md").exists()] == []


def test_what_the_table_recommends_exists() -> None:
    objects: dict[str, Callable[[str], bool]] = {
        "f": lambda name: hasattr(TaskFunction, name),
        "tq": lambda name: hasattr(TaskQ, name),
        "handle": lambda name: hasattr(TaskHandle, name),
        "current_task()": lambda name: hasattr(TaskContext, name),
    }
    for _, name, (here, _) in every():
        for thing, attribute in re.findall(r"\b(f|tq|handle|current_task\(\))\.(\w+)", here):
            assert objects[thing](attribute), name
    options = [here for here, (page, _) in names()["push option"].items() if page == "tasks" and "=" in here]
    assert all(here.partition("=")[0] in PushOptions.__annotations__ for here in options)


def test_no_name_of_the_table_is_one_of_ours() -> None:
    ours = {"function": TaskFunction, "queue": TaskQ, "handle": TaskHandle, "context": TaskContext}
    assert [(place, name) for place, name, _ in every() if place in ours and hasattr(ours[place], name)] == []
