"""The text and the level of log lines; no line is made without a sink."""

from __future__ import annotations

import asyncio
import io
import logging
import threading
from collections.abc import Awaitable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

import aiotaskq.log
import aiotaskq.sync
from aiotaskq import MemoryQueue, Scheduler, TaskFailed, TaskQ
from aiotaskq.concurrency.clock import SystemClock, VirtualClock
from aiotaskq.core.outcome import Completed, Failed, LeaseExpired, TimedOut, marked, settle
from aiotaskq.core.schedule import new_schedule
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, new_task
from aiotaskq.log import logger, output
from aiotaskq.runtime.task_log import log_outcome
from tests.log.kept import SECRET, Kept, run_one
from tests.support.machine import within

# ---- what they say --------------------------------------------------------------------------------------------------


async def test_every_operation_is_one_line_with_its_type_and_id_only(tmp_path: Path, sink: list[str]) -> None:
    output("DEBUG", to="loguru")
    queue = MemoryQueue()
    scheduler = Scheduler(url=f"sqlite:///{tmp_path}/s.db", queue=queue)

    async def said(awaitable: Awaitable[Any]) -> list[str]:
        sink.clear()
        await awaitable
        assert all(line.startswith("DEBUG aiotaskq.") for line in sink), sink
        return [line.split(" ", 2)[2] for line in sink]

    task = {"task_id": "one", "type": "mail", "params": {"token": SECRET}, SECRET: SECRET}
    assert await said(queue.push_task(task)) == ["push mail one"]
    assert await said(queue.push_task(task)) == ["push mail one: it is pending already"]
    assert await said(queue.pop_task()) == ["pop mail one"]
    assert await said(queue.push_task(task)) == ["push mail one"], "the guide's retry"
    assert await said(queue.pop_task(0)) == ["pop mail one"]
    assert await said(queue.task_done()) == ["task_done mail one"]
    assert await said(queue.push_task({**task, "task_id": "two"})) == ["push mail two"]
    assert await said(queue.cancel("two")) == ["cancel mail two"]
    assert await said(queue.retry("two")) == ["retry mail two"]
    assert await said(queue.pause("q\u2028")) == [r"pause queue q\u2028"]
    assert await said(queue.resume("q")) == ["resume queue q"]
    assert await said(queue.cancel("two")) == ["cancel mail two"]
    assert await said(queue.purge()) == ["purge: 2 tasks"]
    assert await said(queue.retry_many()) == ["retry_many: 0 tasks"]
    assert await said(queue.set_public("cookie\x9b31m", SECRET, ttl=0.0)) == [r"set cookie\x9b31m"]
    assert await said(queue.cleanup()) == ["cleanup: 1 expired values"]
    assert await said(queue.start_cleanup()) == ["cleanup started: it removes expired values every 60 s"]
    assert await said(queue.start_cleanup()) == [], "it runs"
    assert await said(queue.stop_cleanup()) == ["cleanup stopped"]
    assert await said(queue.stop_cleanup()) == [], "it does not run"
    assert await said(queue.get_public("k" * 255)) == ["get " + "k" * 199 + "…"]
    assert await said(queue.delete_public("cookie")) == ["delete cookie"]
    assert await said(queue.get_store_size()) == ["store size: 0"]
    assert await said(queue.list_keys()) == ["list keys: 0"]
    assert await said(queue.clear_store()) == ["clear public values"]
    assert await said(queue.get_queue_size()) == ["queue size: 0"]
    assert await said(queue.is_empty()) == ["queue size: 0"]
    add = scheduler.add_scheduler_task("nightly", "mail", "once", {"token": SECRET}, execute_at=1, task_id="s")
    assert await said(add) == ["schedule 'nightly' s added"]
    assert await said(scheduler.list_tasks()) == ["list schedules: 1"]
    assert await said(scheduler.get_task("s")) == ["get schedule s"]
    assert await said(scheduler.update_task("s", description="x")) == ["schedule 'nightly' s changed"]
    assert await said(scheduler.pause_task("s")) == ["schedule 'nightly' s paused"]
    assert await said(scheduler.resume_task("s")) == ["schedule 'nightly' s resumed"]
    fired = await said(scheduler.run_now("s"))
    assert len(fired) == 2 and any(line.startswith("schedule 'nightly' s fired now: mail ") for line in fired)
    sink.clear()
    await scheduler.start()
    async with asyncio.timeout(within(30)):
        for _ in range(2):
            await queue.pop_task()
    await scheduler.stop()
    assert len([line for line in sink if " schedule 'nightly' s fired: mail " in line]) == 1
    assert await said(scheduler.start()) == ["scheduler started: it looks at the database at least every 10 s"]
    assert await said(scheduler.delete_task("s")) == ["schedule s deleted"]
    assert await said(scheduler.stop()) == ["scheduler stopped"]
    assert SECRET not in "".join(sink)


async def test_the_lines_of_a_worker(sink: list[str]) -> None:
    output("DEBUG", to="loguru")
    tq = TaskQ("memory://")

    @tq.task
    async def good(token: str) -> str:
        return token

    @tq.task(timeout=0.01, max_retries=0)
    async def slow() -> None:
        await asyncio.sleep(30)

    one = await run_one(tq, good, token=SECRET)
    assert [line.split(" ", 2)[2] for line in sink] == [
        "cleanup started: it removes expired values every 60 s",
        "worker started: 2 slots, every queue",
        "scheduler started: it looks at the database at least every 10 s",
        f"push good {one}",
        f"start good {one}",
        f"completed good {one}",
        "scheduler stopped",
        "cleanup stopped",
    ]
    sink.clear()
    two = await run_one(tq, slow)
    assert sink[-3] == f"ERROR aiotaskq.runtime.task_log failed slow {two}: timed out after 0.01 s"
    assert SECRET not in "".join(sink)


def test_a_lost_lease_and_a_dead_worker_are_warnings(standard: Kept) -> None:
    now = 1_000 * SECOND
    running = new_task("mail", now=now, task_id="one").replace(status=Status.RUNNING, fence=1)
    log_outcome(running, Completed(), None, now)
    dead = settle(running, LeaseExpired(), now)
    log_outcome(running, LeaseExpired(), dead, now)
    poison = settle(marked(running.replace(crashes=2)), LeaseExpired(), now)
    log_outcome(running, LeaseExpired(), poison, now)
    late = TimedOut(3.0)
    log_outcome(running, late, settle(running, late, now), now)
    final = Failed("unknown_task: no worker handles 'S3CRET'", retryable=False)
    log_outcome(running, final, settle(running, final, now), now)
    assert [text.replace("aiotaskq task_log ", "").partition(", next")[0] for text in standard.written] == [
        "WARNING lost mail one: its lease was over, and another worker has taken it",
        "WARNING lost mail one: its lease was over, the worker died or stood still (1 times); it is run again",
        "ERROR failed mail one: its lease was over, the worker died or stood still (3 times)",
        "WARNING retried mail one: timed out after 3 s; attempt 1 of 4",
        "ERROR failed mail one: unknown_task",
    ]


async def test_the_line_of_a_pop_that_was_not_settled(standard: Kept) -> None:
    clock = VirtualClock(1_000 * SECOND)
    async with TaskQ("memory://durable-fake", clock=clock) as tq:
        await tq.push("mail", task_id="one", max_retries=1)
        for _ in range(2):
            assert await tq.queue.pop_task(timeout=0, visibility=5) is not None
            clock.step(6)
            await tq.queue.reaper.reap()
    told = [text.replace("aiotaskq task_log ", "") for text in standard.written if "task_log" in text]
    assert told == [
        "WARNING lost mail one: not settled within its visibility timeout; it is run again",
        "ERROR failed mail one: not settled within its visibility timeout",
    ]


async def test_the_reaper_logs_a_dead_worker(standard: Kept) -> None:
    tq = TaskQ("memory://durable-fake")
    async with tq:
        await tq.push("mail", task_id="one")
        await tq.queue.backend.claim("a worker that has died", tq.queue.clock.now(), 1, lease_until=1)
        await tq.queue.reaper.reap()
    assert [text.split(": ")[0] for text in standard.written] == ["WARNING aiotaskq task_log lost mail one"]


async def test_skipped_due_times_are_logged_at_info_and_name_the_schedule(tmp_path: Path, standard: Kept) -> None:
    logging.getLogger("aiotaskq").setLevel(logging.INFO)
    scheduler = Scheduler(url=f"sqlite:///{tmp_path}/s.db", queue=MemoryQueue())
    long_ago = new_schedule("nightly", "mail", "interval", None, 60, misfire="skip", task_id="its-id", now=SECOND)
    await scheduler.add([long_ago])
    await scheduler.start()
    async with asyncio.timeout(within(30)):
        while not standard.records:
            await asyncio.sleep(0.01)
    await scheduler.stop()
    (record,) = standard.records
    assert record.levelname == "INFO" and record.getMessage().startswith("schedule 'nightly': ")
    assert "due times skipped" in record.getMessage() and "its-id" not in record.getMessage()


# ---- what they cost -------------------------------------------------------------------------------------------------


async def test_without_a_sink_no_line_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    make = aiotaskq.log._Line

    def counted(level: int, text: str, *rest: Any) -> Any:
        made.append(text)
        return make(level, text, *rest)

    monkeypatch.setattr(aiotaskq.log, "_Line", counted)
    tq = TaskQ("memory://")

    @tq.task
    async def good() -> None: ...

    async def work() -> None:
        async with tq.running():
            await (await good.push()).result(within(30))
        await tq.values.set_public("a", 1)
        await tq.values.get_public("a")
        await tq.values.delete_public("a")

    await work()
    assert made == []
    number = logger.add(io.StringIO(), level="INFO")
    try:
        output("DEBUG", to="loguru")
        for each in list(logger._core.handlers):  # type: ignore[attr-defined]
            if each != number:
                logger.remove(each)
        await work()
        assert made == [], "no sink takes DEBUG"
        logger.add(io.StringIO(), level="DEBUG")
        await work()
        assert {line.split(" ")[0] for line in made} >= {"push", "start", "completed", "set", "get", "delete"}
    finally:
        logger.remove()


def test_a_line_of_a_blocking_call_is_written_before_it_returns(sink: list[str]) -> None:
    output("DEBUG", to="loguru")
    queue = aiotaskq.sync.MemoryQueue()
    for number in range(20):
        queue.push_task({"task_id": str(number), "type": "mail"})
        assert sink[-1].endswith(f"push mail {number}")
    broken = logger.add(lambda line: 1 / 0, catch=False)
    hook, raised = threading.excepthook, []
    threading.excepthook = raised.append  # type: ignore[assignment]
    try:
        queue.push_task({"type": "mail"})
    finally:
        threading.excepthook = hook
        logger.remove(broken)
    assert [each.exc_type for each in raised] == [ZeroDivisionError], "told, and the push is done"
    assert queue.get_queue_size() == 21


async def test_params_that_do_not_fit_are_told_by_their_names_alone(sink: list[str]) -> None:
    output("ERROR", to="loguru")
    tq = TaskQ("memory://")

    @tq.task
    async def greet(name: str) -> None: ...

    @tq.task
    async def count(days: list[date]) -> None: ...

    given: list[dict[str, Any]] = [{}, {"name": "x", SECRET: 1}, {"days": [{SECRET: 1}]}, {"days": [SECRET]}]
    async with tq.running(concurrency=1):
        for task_type, params in zip(("greet", "greet", "count", "count"), given, strict=True):
            (task,) = await tq.queue.add([new_task(task_type, params, now=SystemClock().now())])
            with pytest.raises(TaskFailed, match="invalid_params"):
                await tq.handle(task.task_id).result(timeout=within(20))
    assert [line.partition(": ")[2] for line in sink] == [
        "invalid_params: greet() missing a required argument: 'name'",
        "invalid_params: greet() got an unexpected keyword argument",
        "invalid_params: params.days does not fit the annotation of count()",
        "invalid_params: params.days does not fit the annotation of count()",
    ]
    assert SECRET not in "".join(sink)
