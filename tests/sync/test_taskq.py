"""The blocking ``TaskQ``: push, run, operate, schedules, cancel, close; and the crash of its loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import gc
import inspect
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import aiotaskq
import aiotaskq.sync
import aiotaskq.sync.types
import aiotaskq.types
from aiotaskq.app.registry import injected
from aiotaskq.core.status import Status
from aiotaskq.errors import (
    ClosedError,
    ResultTimeout,
    TaskConflict,
    TaskFailed,
    ValidationError,
)
from aiotaskq.sync.bridge import loop_thread
from tests.support.machine import watchdog, within
from tests.support.programs import Program
from tests.support.threads import in_thread
from tests.sync.threads import from_thread

# ---- TaskQ ----------------------------------------------------------------------------------------------------------


def test_push_run_and_operate(tq: aiotaskq.sync.TaskQ) -> None:
    events = []

    @tq.task(name="double", max_retries=0)
    async def double(n: int) -> int:
        return 2 * n

    @tq.task
    def shout(text: str, client: dict[str, str] = injected()) -> str:  # noqa: B008
        return text.upper() + client["mark"]

    @tq.resource
    def client() -> Iterator[dict[str, str]]:
        yield {"mark": "!"}

    @tq.on("completed")
    def note(event: aiotaskq.types.Event) -> None:
        events.append(event.name)

    @tq.middleware
    async def twice(task: aiotaskq.types.Task, call_next: Any) -> Any:
        events.append(f"run {task.type}")
        return await call_next(task)

    assert asyncio.run(double(2)) == 4 and shout("a", {"mark": "?"}) == "A?"
    assert isinstance(double, aiotaskq.sync.types.TaskFunction) and double.name == "double"
    tq.elsewhere("other")
    with tq, tq.running(concurrency=2) as same:
        assert same is tq
        assert double.push(n=4).result(timeout=watchdog()) == 8
        assert shout.options(priority=-1, unique_key="k").push(text="a").result(timeout=watchdog()) == "A!"
        handles = tq.push_many([double.call(n=1), ("double", {"n": 2}), {"type": "double", "params": {"n": 3}}])
        assert [handle.result(timeout=watchdog()) for handle in handles] == [2, 4, 6]
        assert tq.group([tq.call("double", {"n": 4})]).result(timeout=watchdog()) == [8]
        for options in ({}, {"if_ended": "retry"}):
            nightly = double.options(task_id="nightly", **options).push(n=5)  # type: ignore[typeddict-item]
            assert nightly.created and nightly.result(timeout=watchdog()) == 10
            assert [attempt.outcome for attempt in nightly.attempts()] == ["completed"]
        with pytest.raises(TaskConflict, match="nightly is completed"):
            tq.push("double", {"n": 5}, task_id="nightly")
        later = tq.push("double", {"n": 1}, delay=60)
        with pytest.raises(ResultTimeout):
            later.result(timeout=0.01)
        assert later.status() is Status.PENDING and later.cancel() and later.task().final
        tq.pause()
        assert tq.stats().paused == tq.queue.paused() == tq.paused() == ["default"]
        assert tq.retry(later.task_id).status() is Status.PENDING and tq.cancel(later.task_id)
        tq.resume()
        gone = tq.push("double", {"n": 1}, delay=60)
        assert tq.edit(gone.task_id, priority=4).task().priority == 4 and gone.cancel()
        tq.delete(gone.task_id)
        assert tq.get(later.task_id).status is Status.CANCELLED
        assert [task.task_id for task in tq.find(status="cancelled")] == [later.task_id]
        assert tq.stats().counts["completed"] == tq.count(status="completed") == tq.queue.count(status="completed") == 7
        assert tq.handle(later.task_id).progress() is None
        tq.values.set_public("k", 1)
        assert tq.values.get_public("k") == 1 and tq.invalid_rows == []
        assert tq.queue.push_task({"type": "other"}) and tq.queue.get_queue_size() in (0, 1)
        assert tq.purge(status="cancelled") == 1
        with pytest.raises(TypeError, match="double"):
            double.push(m=1)  # type: ignore[call-arg]
    assert events.count("completed") >= 5 and "run shout" in events
    assert repr(tq) == f"TaskQ({tq.url!r})" and "TaskHandle" in repr(later) and repr(double) == "<TaskFunction double>"


def test_declared_schedules_run_and_the_actor_lists_them(tq: aiotaskq.sync.TaskQ) -> None:
    ran = threading.Event()

    @tq.schedule(at=1_000_000_000, name="once")
    @tq.task
    def tick() -> None:
        ran.set()

    assert isinstance(tick, aiotaskq.sync.types.TaskFunction)

    @tq.schedule(interval=3600)
    async def hourly() -> None: ...

    assert isinstance(hourly, aiotaskq.sync.types.TaskFunction)
    with tq.running():
        assert ran.wait(watchdog())
        listed = {each.name: each for each in tq.schedules.list()}
        assert set(listed) == {"once", "hourly"}
        assert tq.health()["scheduler"] is None
        added = tq.schedules.add("x", "tick", interval=60).task_id
        tq.schedules.update(added, interval=90)
        assert tq.schedules.get(added).interval_seconds == 90
        tq.schedules.pause(added)
        tq.schedules.resume(added)
        assert tq.schedules.run_now(added).task().scheduler_task_id == added
        tq.schedules.delete("x")


def test_leaving_running_by_an_error_stops_the_workers(tq: aiotaskq.sync.TaskQ) -> None:
    @tq.task
    def work() -> int:
        return 1

    with pytest.raises(ZeroDivisionError), tq.running():  # noqa: PT012
        assert work.push().result(timeout=watchdog()) == 1
        raise ZeroDivisionError
    with pytest.raises(ValidationError, match="one running"), tq.running(), tq.running():
        pass
    with tq.running():
        assert work.push().result(timeout=watchdog()) == 1


def test_a_with_block_of_a_request_leaves_the_workers_alone(tmp_path: Path) -> None:
    tq = aiotaskq.sync.TaskQ(f"sqlite:///{tmp_path}/x.db")

    @tq.task
    def work() -> int:
        return 1

    def request() -> aiotaskq.sync.types.TaskHandle[int]:
        with tq:
            return work.push()

    with tq.running():
        assert from_thread(request).result(timeout=watchdog()) == 1
    with pytest.raises(ClosedError):
        work.push()


def test_a_cancel_from_another_thread_stops_an_async_handler(tq: aiotaskq.sync.TaskQ) -> None:  # E11
    started = threading.Event()

    @tq.task
    async def forever() -> None:
        started.set()
        await asyncio.Event().wait()

    with tq.running():
        handle = forever.push()
        assert started.wait(watchdog())
        assert from_thread(handle.cancel) is True
        with pytest.raises(TaskFailed, match="cancelled"):
            handle.result(timeout=watchdog())


def test_a_thread_handler_sees_that_it_shall_stop_and_may_snooze(tq: aiotaskq.sync.TaskQ) -> None:
    started = threading.Event()

    @tq.task
    def stubborn() -> None:
        context = aiotaskq.sync.current_task()
        started.set()
        while not context.cancel_requested:
            time.sleep(0.005)

    @tq.task
    def snoozing() -> None:
        aiotaskq.sync.current_task().snooze(3600)

    with tq.running():
        handle, snoozed = stubborn.push(), snoozing.push()
        assert started.wait(watchdog()) and handle.cancel()
        assert handle._reach().task_id and tq.queue.wait_for_end(handle.task_id, watchdog()).final
        deadline = time.monotonic() + watchdog()
        while (task := snoozed.task()).fence == 0 or task.status is Status.RUNNING:
            assert time.monotonic() < deadline
        assert (task.status, task.retry_count) == (Status.PENDING, 0)


def test_closed_objects_raise_and_can_be_reopened(tmp_path: Path) -> None:
    queue = aiotaskq.sync.DatabaseQueue(f"sqlite:///{tmp_path}/x.db", visibility=5)
    queue.push_task({"type": "x"})
    queue.close()
    queue.close()
    with pytest.raises(ClosedError):
        queue.get_queue_size()
    queue.open()
    assert queue.get_queue_size() == 1
    queue.close()
    closers = len(loop_thread._current().closers)
    for _ in range(3):
        other = aiotaskq.sync.DatabaseQueue(f"sqlite:///{tmp_path}/x.db")
        assert other.get_queue_size() == 1
        other.close()
    assert len(loop_thread._current().closers) == closers  # nothing is kept for what was closed
    with pytest.raises(ValidationError):
        aiotaskq.sync.DatabaseQueue("memory://")


def test_a_scheduler_fires_into_the_given_queue(tmp_path: Path) -> None:
    queue = aiotaskq.sync.DatabaseQueue(f"sqlite:///{tmp_path}/q.db")
    scheduler = aiotaskq.sync.Scheduler(0.2, url=f"sqlite:///{tmp_path}/s.db", queue=queue)
    scheduler.start()
    schedule = scheduler.add_scheduler_task("n", "x", "once", execute_at=1)
    task = queue.pop_task(timeout=watchdog())
    assert task is not None and task["scheduler_task_id"] == schedule
    queue.task_done()
    scheduler.stop()
    scheduler.stop()
    assert not scheduler.running
    queue.close()


# ---- the loop ends --------------------------------------------------------------------------------------------------


def test_64_threads_in_calls_are_freed_when_the_loop_closes_and_the_objects_work_on(tmp_path: Path) -> None:  # E7
    queue, durable = aiotaskq.sync.MemoryQueue(), aiotaskq.sync.DatabaseQueue(f"sqlite:///{tmp_path}/x.db")
    kept = queue.push_task({"type": "kept"}, priority=9), durable.push_task({"type": "kept"}, priority=9)
    for each in (queue, durable):
        each.pop_task()
    waiting = [in_thread(functools.partial(each.pop_task)) for each in (queue, durable) for _ in range(32)]
    with pytest.raises(concurrent.futures.TimeoutError):
        waiting[-1].result(0.1)
    start = time.monotonic()
    assert loop_thread.close()
    for future in waiting:
        assert isinstance(future.exception(watchdog()), ClosedError)
    assert time.monotonic() - start < within(5)
    assert queue.get(kept[0]).status is durable.get(kept[1]).status is Status.RUNNING
    queue.task_done()
    durable.task_done()
    assert durable.get(kept[1]).status is Status.COMPLETED
    durable.close()


# What the crashed loop leaves behind cannot be closed; it must not be blamed on the test that happens to run next.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_crash_of_the_loop_raises_once_with_its_cause_and_is_recovered(  # E13
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tq = aiotaskq.sync.TaskQ(f"sqlite:///{tmp_path}/x.db")
    queue = aiotaskq.sync.MemoryQueue()
    queue.push_task({"type": "kept"})

    @tq.task
    async def crash() -> None:
        raise KeyboardInterrupt

    handle = crash.push()
    with pytest.raises(ClosedError, match="crashed: KeyboardInterrupt"), tq.running():
        handle.result(timeout=watchdog())
    with contextlib.suppress(ClosedError):  # the caller who waited may have been the one who was told
        queue.get_queue_size()
    assert queue.get_queue_size() == 1
    assert handle.status() in (Status.RUNNING, Status.PENDING)
    assert tq.push("crash").status() is Status.PENDING
    tq.close()
    del handle
    gc.collect()
    assert [text for text in caplog.messages if "aiotaskq-run" in text] == []  # it was raised, so it is not lost


# ---- processes ------------------------------------------------------------------------------------------------------


def test_tools_that_unwrap_find_no_coroutine_function() -> None:
    for twin in (aiotaskq.sync.get_queue, aiotaskq.sync.push_task, aiotaskq.sync.TaskQ.push, aiotaskq.sync.TaskQ.run):
        assert not inspect.iscoroutinefunction(inspect.unwrap(twin))


def test_the_module_functions_keep_no_argument_of_former_calls(start: Callable[..., Program]) -> None:
    script = """
import gc, weakref
from aiotaskq.sync import delete_public, get_public, set_public

class Value:
    pass

def call():
    value = Value()
    set_public("key", value)
    delete_public("key")
    return weakref.ref(value)

kept = [call() for _ in range(20)]
get_public("key")  # whatever serves the calls still holds the last one
gc.collect()
assert sum(reference() is not None for reference in kept) <= 1
print("done")
"""
    assert start(script).end() == ["done"]
