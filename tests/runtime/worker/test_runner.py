"""The runner by itself: it runs one task, returns its outcome, and needs neither a store nor a worker."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from aiotaskq import Backoff, current_task
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core.outcome import Cancelled, Completed, Failed, Outcome, Released, TimedOut
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task
from aiotaskq.runtime.handler import Handler, make_handler
from aiotaskq.runtime.hooks import Hooks
from aiotaskq.runtime.worker.executors import Executors
from aiotaskq.runtime.worker.runner import NOT_COMMITTED, Runner
from aiotaskq.types import HookCall

FIXED = Backoff(base=5, factor=1, jitter=False)


class Host:
    """What ``current_task()`` reports to."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.reports: list[Any] = []

    async def report(self, task: Task, value: dict[str, Any]) -> bool:
        self.reports.append((task.task_id, value))
        return True

    async def complete(self, task: Task, session: Any, result: Any) -> bool:
        return True


class Bench:
    """A runner on virtual time, and its handlers."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.host = Host()
        self.handlers: dict[str, Handler] = {}
        self.hooks = Hooks()
        self.runner = Runner(self.handlers, Executors(2), self.clock, host=self.host, hooks=self.hooks)

    def handler(self, **options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def register(function: Callable[..., Any]) -> Callable[..., Any]:
            handler = make_handler(None, function, backoff=FIXED, **options)
            self.handlers[handler.name] = handler
            return function

        return register

    async def run(self, type: str, **fields: Any) -> Outcome | None:
        task = Task(task_id=f"id of {type}", type=type, status=Status.RUNNING, **fields)
        outcome, self.completed = await self.runner.run(task)
        assert self.runner.executions == {}, "its slot is free"
        return outcome


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    bench.runner.start()
    yield bench
    await bench.runner.close()


async def test_the_result_of_a_coroutine_or_a_function_is_its_outcome(bench: Bench) -> None:
    @bench.handler()
    async def add(a: int, b: int) -> int:
        await current_task().progress(1, 2)
        return a + b

    @bench.handler()
    def where() -> list[str]:
        return [current_task().task.task_id, threading.current_thread().name]

    assert await bench.run("add", params={"a": 1, "b": 2}) == Completed(3)
    assert bench.host.reports == [("id of add", {"done": 1, "total": 2})]
    outcome = await bench.run("where")
    assert isinstance(outcome, Completed)
    assert outcome.result[0] == "id of where" and outcome.result[1].startswith("aiotaskq-handler")


async def test_an_error_is_a_failure_with_the_backoff_of_its_handler(bench: Bench) -> None:
    error = ValueError("no")

    @bench.handler(retry_on=OSError)
    async def fails() -> None:
        raise error

    @bench.handler()
    async def cancels() -> None:
        here = asyncio.current_task()
        assert here is not None
        here.cancel()
        await asyncio.sleep(1)

    outcome = await bench.run("fails")
    assert isinstance(outcome, Failed)
    assert (outcome.cause, outcome.retryable, outcome.backoff) == (error, False, FIXED)
    assert outcome.error.startswith("ValueError: no\n\nTraceback")
    outcome = await bench.run("cancels")
    assert isinstance(outcome, Failed) and outcome.retryable
    assert outcome.error == "CancelledError: the handler was cancelled from within"
    here = asyncio.current_task()
    assert here is not None and here.uncancel() == 0


@pytest.mark.parametrize("own", [None, 3.0])
async def test_a_timeout_interrupts_the_handler(bench: Bench, own: float | None) -> None:
    late: list[HookCall] = []
    bench.hooks.on("timeout", late.append)

    @bench.handler(timeout=7)
    async def endless() -> None:
        await asyncio.Event().wait()

    running = asyncio.create_task(bench.run("endless", timeout=own))
    await bench.clock.advance((own or 7) - 0.1)
    assert not running.done()
    await bench.clock.advance(0.2)
    outcome = await running
    assert isinstance(outcome, TimedOut) and (outcome.seconds, outcome.backoff) == (own or 7, FIXED)
    assert [event.task and event.task.type for event in late] == ["endless"]


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [
        ("cancel", Cancelled()),
        ("shutdown", Released("its worker was stopped", ran=True)),
        ("fenced", Released("its worker was cut off from the store", ran=True)),
        ("lost", None),
    ],
)
async def test_an_interrupt_decides_the_outcome(bench: Bench, reason: Any, outcome: Outcome | None) -> None:
    @bench.handler()
    async def endless() -> None:
        await asyncio.Event().wait()

    running = asyncio.create_task(bench.run("endless"))
    await bench.clock.settle()
    (execution,) = bench.runner.executions.values()
    execution.interrupt(reason)
    assert await running == outcome
    assert running.cancelling() == 0


async def test_a_task_that_cannot_run_here_does_not_fail_before_its_time(bench: Bench) -> None:
    now = bench.clock.now()
    assert await bench.run("nobody", run_at=now - 30 * SECOND) == Released("unknown type", 30 * SECOND, put_off=True)
    outcome = await bench.run("nobody", run_at=now - 3601 * SECOND)
    assert outcome == Failed("unknown_task: no worker handles 'nobody'", retryable=False)
    assert await bench.run("nobody", cancel_requested=True) == Cancelled()
    outcome = await bench.run("nobody", undecodable="bad JSON")
    assert outcome == Failed("undecodable: bad JSON", retryable=False)


async def test_a_result_has_to_be_json_unless_the_store_takes_objects(bench: Bench) -> None:
    thing = object()

    @bench.handler()
    async def gives() -> object:
        return thing

    outcome = await bench.run("gives")
    assert isinstance(outcome, Failed) and outcome.error.startswith("result_unserializable: ")
    bench.runner = Runner(bench.handlers, Executors(1), bench.clock, host=bench.host, objects=True)
    assert await bench.run("gives") == Completed(thing)


async def test_a_completion_in_a_session_has_to_be_confirmed_by_the_row(bench: Bench) -> None:
    @bench.handler()
    async def completes(fail: bool) -> str:
        await current_task().complete(None, "its result")
        if fail:
            raise ValueError("after that")
        return "ignored"

    outcome = await bench.run("completes", params={"fail": False})
    assert bench.completed and isinstance(outcome, Failed)
    assert (outcome.error, outcome.retryable) == (NOT_COMMITTED, True)
    outcome = await bench.run("completes", params={"fail": True})
    assert bench.completed and isinstance(outcome, Failed)
    assert outcome.error.startswith("ValueError: after that")


async def test_middleware_and_resources_are_those_of_the_start(bench: Bench) -> None:
    calls: list[str] = []

    async def outer(task: Task, call_next: Any) -> Any:
        calls.append("outer")
        return await call_next(task)

    async def inner(task: Task, call_next: Any) -> Any:
        calls.append("inner")
        return await call_next(task) + 1

    @bench.handler()
    async def one() -> int:
        return 1

    bench.runner.start([outer, inner])
    assert await bench.run("one") == Completed(2)
    assert calls == ["outer", "inner"]


async def test_the_end_of_the_loop_gives_no_outcome() -> None:
    ended = []

    async def main() -> None:
        bench = Bench()
        bench.runner.start()

        @bench.handler()
        async def endless() -> None:
            await asyncio.Event().wait()

        async def run() -> None:
            with contextlib.suppress(asyncio.CancelledError):
                ended.append(await bench.run("endless"))

        main.kept = asyncio.create_task(run())  # type: ignore[attr-defined]
        await asyncio.sleep(0)

    await asyncio.to_thread(asyncio.run, main())
    assert ended == []
