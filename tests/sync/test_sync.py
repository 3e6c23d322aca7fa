"""The blocking facade: threads and loops on one queue, forks, exits, interrupts, crashes, calls in the wrong place."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import gc
import inspect
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import aiotaskq
import aiotaskq.sync
from aiotaskq.app.registry import injected
from aiotaskq.core.task import Status
from aiotaskq.errors import (
    ClosedError,
    NoOpenTask,
    NotFound,
    ResultTimeout,
    TaskConflict,
    TaskFailed,
    ValidationError,
    WrongLoop,
)
from aiotaskq.sync.bridge import loop_thread
from tests.support.machine import watchdog, within
from tests.support.programs import Program, programs_in

PROMPT = 0.5  # seconds; what is woken at once takes milliseconds, and a poll 60 seconds
AT_ONCE = 2.0  # seconds for an interpreter to end; what it must not wait for takes 60


@pytest.fixture
def queue() -> aiotaskq.sync.MemoryQueue:
    return aiotaskq.sync.MemoryQueue()


@pytest.fixture(params=["memory", "sqlite"])
def tq(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[aiotaskq.sync.TaskQ]:
    url = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/tq.db"}[request.param]
    made = aiotaskq.sync.TaskQ(url, schedules=f"sqlite:///{tmp_path}/tq.db", poll_interval=0.2)
    yield made
    made.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    with programs_in(tmp_path) as started:
        yield started


def in_thread(fn: Callable[[], Any]) -> concurrent.futures.Future[Any]:
    """Run ``fn`` in a daemon thread of its own; the future holds how it ended."""
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def body() -> None:
        try:
            future.set_result(fn())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=body, daemon=True).start()
    return future


def from_thread(fn: Callable[[], Any]) -> Any:
    return in_thread(fn).result(watchdog())


# ---- calls ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [lambda fn: fn(), from_thread], ids=["main thread", "thread"])
def test_the_documented_verbs(queue: aiotaskq.sync.MemoryQueue, where: Callable[[Callable[[], Any]], Any]) -> None:
    def verbs() -> None:
        task: dict[str, Any] = {"type": "mail", "params": {"to": "a"}, "mine": [1]}
        ids = [queue.push_task(task), queue.push_task({"type": "b"}), queue.push_task({"type": "c"}, priority=-1)]
        assert task == {"type": "mail", "params": {"to": "a"}, "mine": [1]}
        assert queue.get_queue_size() == 3 and not queue.is_empty()
        popped = [queue.pop_task(timeout=watchdog()) for _ in ids]
        assert [each["type"] for each in popped if each is not None] == ["c", "mail", "b"]
        assert popped[1] is not None and popped[1]["mine"] == [1] and popped[1]["task_id"] == ids[0]
        assert queue.pop_task(0) is None and queue.pop_task(timeout=0.01) is None and queue.is_empty()
        queue.task_done()
        queue.task_done(ids[0])
        queue.task_done()
        with pytest.raises(NoOpenTask):
            queue.task_done()
        assert queue.get(ids[0]).status is Status.COMPLETED
        queue.set_public("cookie", "abc", ttl=60)
        assert (queue.get_public("cookie"), queue.get_public("none")) == ("abc", None)
        assert queue.list_keys() == ["cookie"] and queue.get_store_size() == 1
        assert queue.delete_public("cookie") is True and queue.delete_public("cookie") is False
        queue.set_public("old", 1, ttl=0)
        assert queue.cleanup() == 1
        queue.start_cleanup()
        queue.start_cleanup()
        queue.stop_cleanup()
        queue.clear_store()
        with pytest.raises(ValidationError, match="timeout"):
            queue.pop_task(timeout=-1)
        with pytest.raises(ValidationError, match="type"):
            queue.push_task({})

    where(verbs)


def test_task_done_settles_the_pop_of_its_own_thread(queue: aiotaskq.sync.MemoryQueue) -> None:
    for number in range(2):
        queue.push_task({"type": "x", "task_id": str(number)})
    here = queue.pop_task()
    popped, finish = threading.Event(), threading.Event()

    def other() -> None:
        queue.pop_task()
        popped.set()
        finish.wait(watchdog())
        queue.task_done()
        with pytest.raises(NoOpenTask):
            queue.task_done()

    there = in_thread(other)
    assert popped.wait(watchdog())
    queue.task_done()
    assert here is not None and (here["task_id"], queue.get("0").status) == ("0", Status.COMPLETED)
    assert queue.get("1").status is Status.RUNNING
    finish.set()
    there.result(watchdog())
    assert queue.get("1").status is Status.COMPLETED


def test_a_retry_that_another_thread_takes_at_once_leaves_each_its_own_task_done(
    queue: aiotaskq.sync.MemoryQueue,
) -> None:
    queue.push_task({"type": "x", "task_id": "t"})
    task = queue.pop_task()
    assert task is not None
    task["retry_count"] += 1
    queue.push_task(task)
    settle = threading.Event()

    def other() -> None:
        again = queue.pop_task(timeout=watchdog())
        assert again is not None and again["retry_count"] == 1
        took.set()
        settle.wait(watchdog())
        queue.task_done()

    took = threading.Event()
    there = in_thread(other)
    assert took.wait(watchdog())
    queue.task_done()  # of the pop that was handed back: it settles nothing
    assert queue.get("t").status is Status.RUNNING
    settle.set()
    there.result(watchdog())
    assert queue.get("t").status is Status.COMPLETED


def test_equal_priorities_keep_push_order_and_dicts_are_never_compared(queue: aiotaskq.sync.MemoryQueue) -> None:  # I8
    for number in range(50):
        queue.push_task({"type": "x", "params": {"n": number}}, priority=5)
    popped = [queue.pop_task(0) for _ in range(50)]
    assert [task["params"]["n"] for task in popped if task is not None] == list(range(50))


def test_a_bounded_queue_waits_for_room() -> None:
    queue = aiotaskq.sync.MemoryQueue(maxsize=1)
    queue.push_task({"type": "a"})
    waiting = in_thread(lambda: queue.push_task({"type": "b"}))
    with pytest.raises(concurrent.futures.TimeoutError):
        waiting.result(0.05)
    assert queue.pop_task(0) is not None
    assert waiting.result(within(PROMPT))


def test_64_threads_with_1000_mixed_calls_each_lose_and_double_nothing(queue: aiotaskq.sync.MemoryQueue) -> None:  # E15
    def work(number: int) -> tuple[list[str], list[str]]:
        dice = random.Random(number)
        pushed, popped = [], []
        mine = f"mine-{number}"
        for call in range(1000):
            match dice.randrange(5):
                case 0 | 1:
                    pushed.append(queue.push_task({"type": "x"}, priority=dice.randrange(3)))
                case 2:
                    if (task := queue.pop_task(0)) is not None:
                        popped.append(task["task_id"])
                        queue.task_done()
                case 3:
                    queue.set_public(mine, call)
                    assert queue.get_public(mine) == call
                case 4:
                    queue.set_public("shared", number, ttl=dice.choice([None, 60]))
                    assert queue.get_public("shared") in range(64)
                    queue.get_queue_size()
        return pushed, popped

    start = time.monotonic()
    done = [in_thread(functools.partial(work, number)) for number in range(64)]
    results = [future.result(within(30)) for future in done]
    assert time.monotonic() - start < within(30)
    pushed = [task_id for mine, _ in results for task_id in mine]
    popped = [task_id for _, mine in results for task_id in mine]
    rest = [task["task_id"] for task in iter(lambda: queue.pop_task(0), None)]
    assert len(set(popped)) == len(popped)
    assert sorted(popped + rest) == sorted(pushed)
    assert queue.get_store_size() == 65
    assert queue.stats().counts["completed"] == min(len(popped), 10_000)


# ---- one queue for an asyncio application and for threads -----------------------------------------------------------


def drain(queue: aiotaskq.sync.MemoryQueue) -> None:
    while queue.pop_task(0) is not None:
        queue.task_done()


async def test_tasks_of_an_asyncio_producer_wake_consumers_in_threads() -> None:
    blocking = await asyncio.to_thread(aiotaskq.sync.get_queue)
    awaited = await aiotaskq.get_queue()
    await asyncio.to_thread(drain, blocking)
    got: list[tuple[str, float]] = []
    lock = threading.Lock()

    def consume() -> None:
        while (task := blocking.pop_task(timeout=watchdog())) is not None and task["type"] != "stop":
            with lock:
                got.append((task["task_id"], time.monotonic() - task["pushed"]))
            blocking.task_done()
        blocking.task_done()

    threads = [in_thread(consume) for _ in range(3)]
    ids = []
    for number in range(30):
        ids.append(await awaited.push_task({"type": "x", "pushed": time.monotonic()}))
        await asyncio.sleep(0.01 if number % 10 == 0 else 0)
    for _ in threads:
        await awaited.push_task({"type": "stop"}, priority=1)
    for thread in threads:
        await asyncio.wrap_future(thread)
    assert sorted(task_id for task_id, _ in got) == sorted(ids)
    assert max(late for _, late in got) < within(PROMPT)
    assert (await awaited.get(ids[0])).status is Status.COMPLETED


async def test_tasks_of_producer_threads_wake_an_asyncio_consumer() -> None:
    awaited = await aiotaskq.get_queue()
    await asyncio.to_thread(lambda: drain(aiotaskq.sync.get_queue()))
    late: list[float] = []

    def produce(name: str) -> list[str]:
        return [aiotaskq.sync.push_task({"type": name, "pushed": time.monotonic()}) for _ in range(20)]

    async def consume() -> list[str]:
        got: list[str] = []
        while len(got) < 40:
            task = await awaited.pop_task(timeout=watchdog())
            assert task is not None
            late.append(time.monotonic() - task["pushed"])
            await awaited.task_done()
            got.append(task["task_id"])
        return got

    consumer = asyncio.create_task(consume())
    await asyncio.sleep(0.02)  # so that it waits
    pushed = await asyncio.gather(asyncio.to_thread(produce, "a"), asyncio.to_thread(produce, "b"))
    assert sorted(await consumer) == sorted(pushed[0] + pushed[1])
    assert max(late) < within(PROMPT)


async def test_public_values_are_the_same_on_both_sides() -> None:
    await aiotaskq.set_public("cookie", {"a": 1}, ttl=60)
    assert await asyncio.to_thread(aiotaskq.sync.get_public, "cookie") == {"a": 1}
    assert await asyncio.to_thread(aiotaskq.sync.delete_public, "cookie") is True
    assert await aiotaskq.get_public("cookie") is None


async def test_a_thread_handler_of_an_asyncio_app_reports_progress_to_its_own_loop(tmp_path: Path) -> None:
    tq = aiotaskq.TaskQ(f"sqlite:///{tmp_path}/app.db", poll_interval=0.2)
    seen = []

    @tq.task
    def convert(count: int) -> str:
        context = aiotaskq.sync.current_task()
        for number in range(count):
            context.progress(number + 1, count, message="busy")
        seen.append((context.task.type, context.cancel_requested))
        with pytest.raises(aiotaskq.ValidationError, match="session: a SQLAlchemy"):
            context.complete(session=None)
        return threading.current_thread().name

    async with tq.running():
        handle = await convert.push(count=3)
        assert (await handle.result(timeout=watchdog())).startswith("aiotaskq-handler")
        assert await handle.progress() == {"done": 3, "total": 3, "message": "busy"}
    assert seen == [("convert", False)]
    with pytest.raises(NotFound):
        aiotaskq.sync.current_task()


# ---- in the wrong place ---------------------------------------------------------------------------------------------


async def test_a_call_from_a_loop_is_refused_at_once_and_names_what_to_await(tmp_path: Path) -> None:  # E8, E9, E12
    tq = aiotaskq.sync.TaskQ(f"sqlite:///{tmp_path}/x.db")

    @tq.task
    def work() -> None: ...

    queue, scheduler = aiotaskq.sync.MemoryQueue(), aiotaskq.sync.Scheduler(url=f"sqlite:///{tmp_path}/x.db")
    wrong: dict[str, Callable[[], Any]] = {
        "aiotaskq.MemoryQueue.push_task": lambda: queue.push_task({"type": "x"}),
        "aiotaskq.push_task": lambda: aiotaskq.sync.push_task({"type": "x"}),
        "aiotaskq.pop_task": lambda: aiotaskq.sync.pop_task(),
        "aiotaskq.get_queue": lambda: aiotaskq.sync.get_queue(),
        "aiotaskq.get_scheduler": lambda: aiotaskq.sync.get_scheduler(),
        "aiotaskq.Scheduler.list_tasks": lambda: scheduler.list_tasks(),
        "aiotaskq.TaskQ.push": lambda: tq.push("work"),
        "aiotaskq.TaskFunction.push": lambda: work.push(),
        "aiotaskq.TaskQ.running": lambda: tq.running().__enter__(),
        "aiotaskq.TaskQ.run": lambda: tq.run(),
        "aiotaskq.TaskQ.open": lambda: tq.__enter__(),
        "aiotaskq.TaskHandle.result": lambda: tq.handle("x").result(),
    }
    for twin, call in wrong.items():
        with pytest.raises(WrongLoop, match=f"await {twin}\\("):
            call()
    # A notebook cell, or a handler, gets by through a thread; and the awaitable twin works beside it.
    assert await asyncio.to_thread(queue.push_task, {"type": "x"})
    assert (await asyncio.to_thread(work.push)).created
    await asyncio.to_thread(tq.close)
    await aiotaskq.MemoryQueue().push_task({"type": "x"})


def test_an_async_handler_that_calls_the_facade_gets_the_error_and_a_thread_handler_may_call(
    tq: aiotaskq.sync.TaskQ,
) -> None:  # E8
    @tq.task(max_retries=0)
    async def wrong() -> None:
        tq.push("right")

    @tq.task(max_retries=0)
    async def wrong_progress() -> None:
        aiotaskq.sync.current_task().progress(1)

    @tq.task
    def right(n: int = 0) -> int:
        return n if n == 2 else right.push(n=n + 1).result(timeout=watchdog())

    with tq.running():
        with pytest.raises(TaskFailed, match=r"WrongLoop.*await aiotaskq.TaskQ.push\("):
            wrong.push().result(timeout=watchdog())
        with pytest.raises(TaskFailed, match=r"await aiotaskq.current_task\(\).progress\("):
            wrong_progress.push().result(timeout=watchdog())
        assert right.push().result(timeout=watchdog()) == 2


async def test_what_the_facade_has_open_refuses_another_loop(tmp_path: Path) -> None:  # E12
    queue = aiotaskq.sync.DatabaseQueue(f"sqlite:///{tmp_path}/x.db")
    await asyncio.to_thread(queue.push_task, {"type": "x"})
    with pytest.raises(WrongLoop, match="another event loop"):
        await queue._reach().get_queue_size()
    assert await asyncio.to_thread(queue.get_queue_size) == 1
    await asyncio.to_thread(queue.close)


def test_one_facade_object_serves_threads_that_run_loops_of_their_own(queue: aiotaskq.sync.MemoryQueue) -> None:  # E12
    async def cell() -> str:
        return await asyncio.to_thread(queue.push_task, {"type": "x"})

    ids = [from_thread(lambda: asyncio.run(cell())) for _ in range(3)]
    assert len(set(ids)) == 3 and queue.get_queue_size() == 3


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
    def note(event: aiotaskq.sync.Event) -> None:
        events.append(event.name)

    @tq.middleware
    async def twice(task: aiotaskq.sync.Task, call_next: Any) -> Any:
        events.append(f"run {task.type}")
        return await call_next(task)

    assert asyncio.run(double(2)) == 4 and shout("a", {"mark": "?"}) == "A?"
    assert isinstance(double, aiotaskq.sync.TaskFunction) and double.name == "double"
    tq.elsewhere("other")
    with tq, tq.running(concurrency=2) as same:
        assert same is tq
        assert double.push(n=4).result(timeout=watchdog()) == 8
        assert shout.options(priority=-1, unique_key="k").push(text="a").result(timeout=watchdog()) == "A!"
        handles = tq.push_many([double.call(n=1), ("double", {"n": 2}), {"type": "double", "params": {"n": 3}}])
        assert [handle.result(timeout=watchdog()) for handle in handles] == [2, 4, 6]
        for rerun in (False, True):
            nightly = double.options(task_id="nightly", rerun=rerun).push(n=5)
            assert nightly.created and nightly.result(timeout=watchdog()) == 10
        with pytest.raises(TaskConflict, match="nightly is completed"):
            tq.push("double", {"n": 5}, task_id="nightly")
        later = tq.push("double", {"n": 1}, delay=60)
        with pytest.raises(ResultTimeout):
            later.result(timeout=0.01)
        assert later.status() is Status.PENDING and later.cancel() and later.task().final
        tq.pause()
        assert tq.stats().paused == ["default"] and tq.queue.paused() == ["default"]
        assert tq.retry(later.task_id).status() is Status.PENDING and tq.cancel(later.task_id)
        tq.resume()
        assert tq.get(later.task_id).status is Status.CANCELLED
        assert [task.task_id for task in tq.find(status="cancelled")] == [later.task_id]
        assert tq.stats().counts["completed"] == 6
        assert tq.handle(later.task_id).progress() is None
        tq.store.set_public("k", 1)
        assert tq.store.get_public("k") == 1 and tq.odd_rows == []
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

    assert isinstance(tick, aiotaskq.sync.TaskFunction)

    @tq.schedule(interval=3600)
    async def hourly() -> None: ...

    assert isinstance(hourly, aiotaskq.sync.TaskFunction)
    with tq.running():
        assert ran.wait(watchdog())
        listed = {each["name"]: each for each in tq.scheduler.list_tasks()}
        assert set(listed) == {"once", "hourly"} and tq.scheduler.running and tq.scheduler.failures == 0
        added = tq.scheduler.add_scheduler_task("x", "tick", "interval", interval_seconds=60)
        tq.scheduler.update_task(added, interval_seconds=90)
        assert tq.scheduler.get_task(added)["interval_seconds"] == 90
        tq.scheduler.pause_task(added)
        tq.scheduler.resume_task(added)
        assert tq.get(tq.scheduler.run_now(added)).scheduler_task_id == added
        assert tq.scheduler.delete_task(added) is True


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


def test_closed_things_say_so_and_open_again(tmp_path: Path) -> None:
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


def test_a_scheduler_fires_into_the_queue_it_was_given(tmp_path: Path) -> None:
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


# What the crashed loop leaves behind is nobody's to close; it must not be blamed on the test that happens to run next.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_crash_of_the_loop_is_told_once_with_its_cause_and_everything_works_again(tmp_path: Path) -> None:  # E13
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


# ---- processes ------------------------------------------------------------------------------------------------------

ENDINGS = [("", 0, ""), ("raise ValueError('mine')", 1, "ValueError: mine"), ("sys.exit(5)", 5, "")]
USES = {
    "MemoryQueue": "queue = MemoryQueue(); queue.push_task({'type': 'x'}); queue.start_cleanup()",
    "default queue": "threading.Thread(target=pop_task, daemon=True).start(); set_public('k', 1)",
    "TaskQ": "tq = TaskQ('sqlite:///tq.db'); tq.push('x', {}, task_id='mine')",
    "workers": "tq = TaskQ('sqlite:///tq.db'); tq.running().__enter__()",
    "get_scheduler": "get_scheduler().add_scheduler_task('n', 'x', 'interval', interval_seconds=60, task_id='mine')",
    "session": "session = SessionLocal(); session.connection()",
}


@pytest.mark.parametrize("use", USES)
def test_a_script_that_just_ends_ends_at_once_and_silently(
    use: str, start: Callable[..., Program], tmp_path: Path
) -> None:  # E5
    code = f"import sys, threading, time\nfrom aiotaskq.sync import *\n{USES[use]}\nprint('used')\n"
    programs = [(start(code + ending), status, err) for ending, status, err in ENDINGS]
    interrupted = start(code + "time.sleep(60)")
    for program, status, err in programs:
        program.wait_for("used")
        assert program.seconds_to_end(status, err) < within(AT_ONCE)
    interrupted.wait_for("used")
    interrupted.signal(signal.SIGINT)
    assert interrupted.seconds_to_end(-signal.SIGINT, "KeyboardInterrupt") < within(AT_ONCE)
    if use == "TaskQ":
        tq = aiotaskq.sync.TaskQ(f"sqlite:///{tmp_path}/tq.db")
        assert tq.get("mine").type == "x"
        tq.close()
    if use == "get_scheduler":
        scheduler = aiotaskq.sync.Scheduler(url=f"sqlite:///{tmp_path}/aiotaskq.db")
        assert scheduler.get_task("mine")["enabled"] is True
        scheduler.stop()


def test_calls_while_the_interpreter_ends_are_told_in_one_type_of_error(start: Callable[..., Program]) -> None:  # E6
    code = """
        import atexit, threading, time
        from aiotaskq.sync import *
        queue = DatabaseQueue("sqlite:///x.db")
        queue.push_task({"type": "x"})
        def hammer():
            while True:
                try:
                    queue.get_queue_size()
                except ClosedError:
                    pass
        def hammer_and_die():
            while True:
                queue.push_task({"type": "x"})
        for target in (hammer, hammer_and_die) * 4:
            threading.Thread(target=target, daemon=True).start()
        def late():
            print("at exit", queue.get_queue_size() > 0)
        atexit.register(late)
        time.sleep(0.2)
        print("ends")
    """
    program = start(code)
    program.wait_for("ends")
    assert program.end() == ["at exit True"]


def test_100_forks_beside_threads_in_sqlite_never_stall(start: Callable[..., Program]) -> None:  # E4
    code = """
        import os, sqlite3, sys, threading
        from aiotaskq.sync import *
        tq = TaskQ("sqlite:///tq.db")
        handle = tq.push_many([("x", {})] * 300)[0]
        stop = threading.Event()
        def hammer():
            while not stop.is_set():
                tq.find(limit=300)
        threads = [threading.Thread(target=hammer) for _ in range(4)]
        for thread in threads:
            thread.start()
        for number in range(100):
            child = os.fork()
            if child == 0:
                sqlite3.connect(":memory:").execute("select 1")
                if number % 50 == 0:
                    assert handle.status() == "pending"
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        stop.set()
        for thread in threads:
            thread.join()
        print("done")
    """
    assert start(code).end() == ["done"]


def test_a_forked_child_has_a_loop_a_pool_and_an_empty_memory_of_its_own(
    start: Callable[..., Program],
) -> None:  # E1, E2, E3
    code = """
        import os, sys, threading
        from aiotaskq.sync import *
        from tests.support.machine import watchdog, within
        memory, tq, durable = MemoryQueue(), TaskQ("sqlite:///tq.db"), DatabaseQueue("sqlite:///q.db")
        push_task({"type": "parent"}); memory.push_task({"type": "parent"})
        @tq.task
        def double(n: int) -> int:
            return 2 * n
        handle = double.push(n=1)
        durable.push_task({"type": "parent"})
        scheduler = get_scheduler()
        with SessionLocal() as session:
            session.connection()
        busy = threading.Thread(target=lambda: [memory.push_task({"type": "x"}, 5) for _ in range(3000)])
        busy.start()
        children = []
        for number in range(4):
            child = os.fork()
            if child:
                children.append(child)
                continue
            assert memory.is_empty() and get_queue().is_empty(), "memory is the parent's"
            memory.push_task({"type": "child"})
            assert memory.pop_task()["type"] == "child"
            memory.task_done()
            assert durable.push_task({"type": "child"})
            assert not scheduler.running and get_scheduler() is scheduler and scheduler.running
            scheduler.add_scheduler_task("n", "x", "interval", interval_seconds=60)
            with SessionLocal() as session:
                session.connection().exec_driver_sql("select count(*) from scheduler_task").scalar()
            if number == 0:
                with tq.running():
                    assert handle.result(timeout=within(10)) == 2
                    assert double.push(n=4).result(timeout=within(10)) == 8
            else:
                double.push(n=number)
            sys.exit(0)
        for child in children:
            assert os.waitpid(child, 0)[1] == 0
        busy.join()
        assert memory.get_queue_size() == 3001 and memory.pop_task()["type"] == "parent"
        assert get_queue().get_queue_size() == 1
        assert durable.get_queue_size() == 5 and len(tq.find()) == 5 and len(scheduler.list_tasks()) == 4
        with SessionLocal() as session:
            assert session.connection().exec_driver_sql("select count(*) from scheduler_task").scalar() == 4
        print("done")
    """
    assert start(code).end() == ["done"]


def test_ctrl_c_ends_a_wait_within_a_second_and_the_program_goes_on(start: Callable[..., Program]) -> None:  # E9
    code = """
        import time
        from aiotaskq.sync import *
        tq = TaskQ("sqlite:///tq.db")
        handle = tq.push("x")
        calls = [lambda: pop_task(), lambda: MemoryQueue().pop_task(timeout=60), lambda: handle.result()]
        for call in calls:
            print("waits")
            try:
                call()
            except KeyboardInterrupt:
                print("interrupted")
        print(tq.stats().counts["pending"])
    """
    program = start(code)
    for _ in range(3):
        program.wait_for("waits")
        time.sleep(0.1)
        sent = time.monotonic()
        program.signal(signal.SIGINT)
        program.wait_for("interrupted")
        assert time.monotonic() - sent < within(1)
    assert program.end() == ["1"]


@pytest.mark.parametrize(
    ("kind", "patience"),
    [("MemoryQueue()", 0.003), ("DatabaseQueue('sqlite:///q.db')", 0.006)],
    ids=["memory", "sqlite"],
)
def test_a_task_popped_after_the_caller_has_left_goes_back_at_once(
    kind: str, patience: float, start: Callable[..., Program]
) -> None:  # E10
    code = f"""
        import random, signal, sys, threading, time
        from aiotaskq.sync import *
        from tests.support.machine import watchdog, within
        sys.unraisablehook = lambda *_: None  # the signal may strike within a weakref's callback
        queue = {kind}
        total = 200
        def push():
            for number in range(total):
                queue.push_task({{"type": "x", "task_id": str(number)}})
                time.sleep(0.001)
        class Left(BaseException): ...
        def leave(*_):
            raise Left
        queue.get_queue_size()
        signal.signal(signal.SIGALRM, leave)
        pusher = threading.Thread(target=push)
        pusher.start()
        got, left, last = [], 0, time.monotonic()
        while len(got) < total and time.monotonic() - last < within(10):
            task = None
            try:
                signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0001, {patience}))
                task = queue.pop_task(timeout=0.01)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Left:
                left += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            if task is not None:
                got.append(task["task_id"])
                last = time.monotonic()
                queue.task_done()
        for _ in range(100):  # a task may be on its way back when we look
            counts = queue.stats().counts
            if counts["running"] + counts["pending"] + len(got) == total and counts["running"] <= left // 20:
                break
            time.sleep(within(0.05))
        # An interrupt may strike between the return of a pop and its assignment: nobody can know of that one.
        print(len(got) == len(set(got)), counts["running"] + counts["pending"] + len(got) == total)
        print(counts["running"] <= left // 20, left > 9)
    """
    assert start(code).end() == ["True True", "True True"]


@pytest.mark.parametrize("kind", ["MemoryQueue()", "DatabaseQueue('sqlite:///q.db')"], ids=["memory", "sqlite"])
def test_a_pop_whose_caller_leaves_at_its_last_moment_is_undone(
    kind: str, start: Callable[..., Program]
) -> None:  # E10
    """The loop has popped, and its caller goes before it is told: by a signal, or since its time is over."""
    code = f"""
        import os, signal, threading, time
        import aiotaskq.runtime.queue.queue
        from aiotaskq.sync import *
        from tests.support.machine import within

        class Left(BaseException): ...
        def leave(*_):
            raise Left
        signal.signal(signal.SIGUSR1, leave)
        left = threading.Event()
        remember = aiotaskq.runtime.queue.queue.Queue._remember
        async def remembered(self, task):
            await remember(self, task)
            if threading.current_thread() is not threading.main_thread():
                os.kill(os.getpid(), signal.SIGUSR1)
                left.wait(within(20))  # what follows comes too late for the caller

        queue = {kind}
        queue.get_queue_size()
        aiotaskq.runtime.queue.queue.Queue._remember = remembered
        threading.Timer(0.2, queue.push_task, [{{"type": "x", "task_id": "mine"}}]).start()
        try:
            queue.pop_task()
        except Left:
            left.set()
        end = time.monotonic() + within(20)
        while (counts := queue.stats().counts)["running"] or not counts["pending"]:
            assert time.monotonic() < end, counts
            time.sleep(0.01)
        aiotaskq.runtime.queue.queue.Queue._remember = remember
        again = queue.pop_task(0)
        print(again["task_id"], again["retry_count"])
        queue.task_done()
        print(queue.stats().counts["completed"])
    """
    assert start(code).end() == ["mine 0", "1"]


def test_run_works_until_a_signal_in_the_main_thread(start: Callable[..., Program]) -> None:
    code = """
        import signal, sys, threading, time
        from aiotaskq.sync import *
        tq = TaskQ("sqlite:///tq.db")
        @tq.task
        def work(seconds: float) -> None:
            print("works")
            time.sleep(seconds)
        @tq.task
        async def stubborn() -> None:
            import asyncio
            print("works")
            await asyncio.sleep(60)
        tq.push(sys.argv[1], {"seconds": 0.3} if sys.argv[1] == "work" else {})
        before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
        code = tq.run(grace=0.5)
        assert before == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))
        tq.open()
        print(code.name, tq.find()[0].status)
        sys.exit(code)
    """
    drained, hurried = start(code, "work"), start(code.replace("tq.db", "tq2.db"), "stubborn")
    drained.wait_for("works")
    drained.signal(signal.SIGTERM)
    hurried.wait_for("works")
    hurried.signal(signal.SIGINT)
    assert drained.end() == ["DRAINED completed"]
    time.sleep(0.6)  # sooner it would be an echo of the first
    hurried.signal(signal.SIGINT)
    assert hurried.end(3) == ["GIVEN_BACK pending"]


def test_run_outside_of_the_main_thread_is_refused(tmp_path: Path) -> None:
    tq = aiotaskq.sync.TaskQ(f"sqlite:///{tmp_path}/x.db")
    with pytest.raises(ValueError, match="main thread"):
        from_thread(tq.run)


def test_process_handlers_are_spawned_not_forked_beside_the_loop_thread(tmp_path: Path) -> None:  # E14
    (tmp_path / "jobs.py").write_text(
        "import os\nfrom aiotaskq.sync import TaskQ\ntq = TaskQ('memory://', schedules='sqlite:///s.db')\n"
        "@tq.task(executor='process')\ndef where(n: int) -> tuple[int, int]:\n    return os.getppid(), n\n"
        "if __name__ == '__main__':\n    import jobs\n    with jobs.tq.running(concurrency=2):\n"
        "        found = [h.result(timeout=20) for h in [jobs.where.push(n=n) for n in range(2)]]\n"
        "    print(found == [(os.getpid(), 0), (os.getpid(), 1)])\n"
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "jobs.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{Path(aiotaskq.__file__).parent.parent}", "LOGURU_AUTOINIT": "False"},
        capture_output=True,
        text=True,
        timeout=within(30),
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "True\n", "")


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
