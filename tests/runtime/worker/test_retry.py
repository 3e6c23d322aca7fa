"""``raise Retry(…)`` in each kind of handler."""

from __future__ import annotations

import asyncio
import copy
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

import aiotaskq.sync
from aiotaskq import BatchFailed, Retry, TaskFailed, TaskQ, current_task, group, step
from aiotaskq.errors import ValidationError
from aiotaskq.testing import inline, virtual
from tests.support.machine import within
from tests.testing.backoffs import STEADY

NEVER = 3600.0  # a back-off that no test waits for
in_processes = TaskQ("memory://")


@in_processes.task(executor="process", max_retries=1, backoff=NEVER, retry_on=())
def asks() -> None:
    raise Retry("later", after=0.01)


async def test_a_function_in_a_process_asks_for_it() -> None:
    async with in_processes.running(concurrency=1):
        handle = await asks.push()
        with pytest.raises(TaskFailed, match="Retry: later"):
            await handle.result(within(60))
        assert [each.error for each in await handle.attempts()] == ["Retry: later"] * 2


async def test_coroutines_and_functions_in_threads_ask_for_it(tq: TaskQ) -> None:
    threads: set[str] = set()

    @tq.task(max_retries=1, backoff=NEVER, retry_on=ConnectionError)
    async def waits() -> None:
        raise Retry("later", after=timedelta(milliseconds=10)) from ConnectionError("no")

    @tq.task(max_retries=1, backoff=NEVER)
    def blocks() -> None:
        threads.add(threading.current_thread().name[:17])
        raise Retry(after=0)

    async with tq.running(concurrency=2):
        for handle, error in ((await waits.push(), "Retry: later"), (await blocks.push(), "Retry: after 0 s")):
            with pytest.raises(TaskFailed, match=error):
                await handle.result(within(30))
            assert [each.error for each in await handle.attempts()] == [error] * 2
    assert threads == {"aiotaskq-handler-"}


async def test_a_child_of_a_task_group_asks_for_it_and_snoozes() -> None:
    began: list[timedelta] = []
    async with virtual() as kit:
        start = kit.now

        async def child() -> None:
            began.append(kit.now - start)
            if len(began) == 1:
                raise Retry("later", after=30)
            if len(began) == 2:
                current_task().snooze(60)
            if len(began) == 3:
                raise ConnectionError

        async def refuses() -> None:
            if len(began) == 2:
                current_task().snooze(60)

        @kit.tq.task(backoff=NEVER, retry_on=())
        async def parent() -> None:
            async with asyncio.TaskGroup() as children:
                children.create_task(child())
                children.create_task(refuses())

        handle = await parent.push()
        await kit.advance(minutes=5)
        task = await handle.task()
        assert began == [timedelta(seconds=each) for each in (0, 30, 90)]
        assert (task.status, task.retry_count) == ("failed", 1)


def test_the_blocking_side_has_the_same() -> None:
    with aiotaskq.sync.TaskQ("memory://") as tq:

        @tq.task(max_retries=1, backoff=NEVER)
        def blocks() -> None:
            raise aiotaskq.sync.Retry("later", after=0.01)

        with tq.running(), pytest.raises(TaskFailed, match="Retry: later"):
            blocks.push().result(timeout=within(30))


async def test_one_item_of_a_batch_is_run_again() -> None:
    calls: list[tuple[datetime, list[int]]] = []
    async with virtual(concurrency=2) as kit:

        @kit.tq.task(batch=3, within=1, backoff=STEADY)
        async def work(items: list[int]) -> list[int]:
            calls.append((kit.now, items))
            if len(calls) == 1:
                raise BatchFailed({1: Retry("busy", after=300)}, items)
            return items

        handles = await kit.tq.push_many([work.call(n) for n in range(3)])
        await kit.drain(delayed=True)
        assert [await handle.result() for handle in handles] == [0, 1, 2]
        assert [each.error for each in await handles[1].attempts()] == ["Retry: busy", None]
    (first, _), (second, items) = calls
    assert items == [1] and timedelta(minutes=5) <= second - first < timedelta(minutes=6)


async def test_a_step_and_a_member_of_a_group_ask_for_it() -> None:
    done: list[str] = []
    async with virtual(concurrency=2) as kit:

        def charge() -> str:
            done.append("charge")
            return "charged"

        def mail() -> str:
            done.append("mail")
            if done.count("mail") == 1:
                raise Retry("the server is busy", after=60)
            return "mailed"

        @kit.tq.task(backoff=NEVER)
        async def order() -> str:
            return f"{await step('charge', charge)}, {await step('mail', mail)}"

        members = await kit.tq.start(group([order.call()]))
        await kit.advance(61)
        assert await members.result() == ["charged, mailed"]
    assert done == ["charge", "mail", "mail"], "what was done is not done again"


async def test_inline_handlers_are_retried_by_it() -> None:
    tq = TaskQ("memory://")
    runs: list[int] = []

    @tq.task(max_retries=2, retry_on=())
    async def fetch() -> str:
        runs.append(1)
        if len(runs) < 3:
            raise Retry(after=60)
        return "done"

    async with inline(tq, retries=True):
        assert await (await fetch.push()).result() == "done"
    assert len(runs) == 3


async def test_it_is_a_failure_like_any_other(tq: TaskQ) -> None:
    """It is counted, told to hooks, and no more once the retries are used up; a cancel comes first."""
    told: list[str] = []
    for name in ("retried", "failed"):
        tq.on(name, lambda call: told.append(f"{call.name} {call.task.retry_count}"))

    @tq.task(max_retries=1)
    async def fetch() -> None:
        raise Retry(after=0.01)

    async with tq.running(concurrency=1):
        with pytest.raises(TaskFailed):
            await (await fetch.push()).result(within(30))
    assert told == ["retried 1", "failed 1"]


def test_it_can_be_made_anew() -> None:
    for error in (Retry("busy", after=5), Retry(after=0.5), Retry("busy"), Retry()):
        again = copy.copy(error)
        assert (type(again), str(again), again.after) == (Retry, str(error), error.after)
    assert [str(error) for error in (Retry("busy", after=5), Retry(after=0.5), Retry())] == ["busy", "after 0.5 s", ""]


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (lambda: Retry(60), r"^Retry: the reason is a string; the time is Retry\(after=60\) \(got 60\)$"),  # type: ignore[arg-type]
        (lambda: Retry("busy", 60), r"^Retry: options are given by name, as in Retry\(after=…\)$"),  # type: ignore[call-arg]
        (lambda: Retry(after=-1), "^after: must be at least 0 seconds"),
        (lambda: Retry(after="60"), "^after: seconds as int, float or timedelta are needed"),  # type: ignore[arg-type]
        (lambda: Retry(after=float("nan")), "^after: nan is not a number of seconds"),
        (lambda: Retry(afer=60), "^Retry: unknown option afer; did you mean after"),  # type: ignore[call-arg]
        (lambda: TaskQ("memory://").task(max_snoozes=-1)(asyncio.sleep), "^max_snoozes: -1 is not in 0"),
        (lambda: TaskQ("memory://").task(max_snoozes=True)(asyncio.sleep), "^max_snoozes: an int is needed"),
    ],
)
def test_wrong_arguments_are_named(wrong: Callable[[], Any], error: str) -> None:
    with pytest.raises(ValidationError, match=error):
        wrong()
