"""What comes of a run: results, retries, dead letters, and tasks that cannot run."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import logging
import random
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import aiotaskq
import aiotaskq.errors
from aiotaskq import Backoff, TaskFailed, TaskQ, current_task
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND
from aiotaskq.testing import virtual
from tests.support.machine import within
from tests.support.waiting import eventually


async def test_async_and_def_handlers_give_results(tq: TaskQ) -> None:
    @tq.task
    async def add(a: int, b: int) -> int:
        return a + b

    @tq.task
    def thread_name() -> str:
        return threading.current_thread().name

    async with tq.running(concurrency=2):
        assert await (await add.push(a=1, b=2)).result(within(30)) == 3
        assert (await (await thread_name.push()).result(within(30))).startswith("aiotaskq-handler-")
    assert await add(1, 2) == 3


async def test_retry_with_backoff_then_success(tq: TaskQ) -> None:
    runs: list[int] = []

    @tq.task(max_retries=2, backoff=0.02)
    async def flaky() -> str:
        runs.append(current_task().task.retry_count)
        if len(runs) < 3:
            raise RuntimeError("not yet")
        return "done"

    async with tq.running(concurrency=1):
        handle = await flaky.push()
        assert await handle.result(within(30)) == "done"
        task = await handle.task()
    assert runs == [0, 1, 2]
    assert (task.retry_count, task.status, task.fence) == (2, Status.COMPLETED, 3)


async def test_retries_are_spread_and_delayed_by_the_clock() -> None:
    async with virtual(concurrency=1) as kit:
        seen: list[datetime] = []

        @kit.tq.task(max_retries=3, backoff=Backoff(base=10, factor=3, limit=60, jitter=False))
        async def fails() -> None:
            seen.append(kit.now)
            raise ValueError("no")

        handle = await fails.push()
        await kit.drain(delayed=True)
        task = await handle.task()
    assert [(b - a).total_seconds() for a, b in itertools.pairwise(seen)] == [10, 30, 60]
    assert task.status is Status.FAILED and task.error_message.startswith("ValueError: no\n\nTraceback")


async def test_dead_letter_is_listed_and_put_back(tq: TaskQ) -> None:
    good = False

    @tq.task(max_retries=0)
    async def fails() -> str:
        if not good:
            raise KeyError("missing")
        return "fine"

    async with tq.running(concurrency=1):
        handle = await fails.push()
        with pytest.raises(TaskFailed, match="KeyError: 'missing'") as caught:
            await handle.result(within(30))
        assert caught.value.task.task_id == handle.task_id
        assert [task.task_id for task in await tq.find(status="failed")] == [handle.task_id]
        good = True
        again = await tq.retry(handle.task_id)
        assert await again.result(within(30)) == "fine"


async def test_errors_not_in_retry_on_fail_at_once(tq: TaskQ) -> None:
    @tq.task(max_retries=5, retry_on=(ConnectionError,))
    async def fails() -> None:
        raise ValueError("wrong input")

    async with tq.running(concurrency=1):
        handle = await fails.push()
        with pytest.raises(TaskFailed):
            await handle.result(within(30))
        assert (await handle.task()).retry_count == 0


async def test_progress_and_snooze(tq: TaskQ) -> None:
    runs: list[int] = []

    @tq.task
    async def works() -> str:
        context = current_task()
        runs.append(context.task.fence)
        await context.progress(len(runs), 2, "half \udce9")
        if len(runs) == 1:
            context.snooze(0.02)
        return "ok"

    async with tq.running(concurrency=1):
        handle = await works.push()
        assert await handle.result(within(30)) == "ok"
        assert await handle.progress() == {"done": 2, "total": 2, "message": "half \\udce9"}
        assert (await handle.task()).retry_count == 0
    assert runs == [1, 2]
    with pytest.raises(aiotaskq.errors.NotFound):
        current_task()


async def test_unserializable_result_fails_without_a_retry(tmp_path: Path) -> None:  # I4
    tq = TaskQ(f"sqlite:///{tmp_path}/r.db")
    runs: list[int] = []

    @tq.task(max_retries=3, backoff=0.01)
    async def gives_object() -> Any:
        runs.append(1)
        return {"socket": object()}

    @tq.task
    async def gives_nul() -> Any:
        return ("a\x00b", {"k": "\ud800"})

    async with tq.running(concurrency=1):
        with pytest.raises(TaskFailed, match="result_unserializable: result"):
            await (await gives_object.push()).result(within(30))
        assert await (await gives_nul.push()).result(within(30)) == [
            "a\\x00b",
            {"k": "\\ud800"},
        ]  # I1: escaped, worker lives
    assert runs == [1]


async def test_error_text_with_nul_is_stored_escaped(tq: TaskQ) -> None:  # I1, F16
    @tq.task(max_retries=0)
    async def fails() -> None:
        raise ValueError("nul \x00 and " + "x" * 100_000)

    async with tq.running(concurrency=1):
        with pytest.raises(TaskFailed) as caught:
            await (await fails.push()).result(within(30))
    assert "nul \\x00 and" in (caught.value.error or "") and len(caught.value.error or "") <= 16 * 1024


async def test_only_registered_names_run(tq: TaskQ) -> None:  # J3
    for name in ("os.system", "builtins.exec", "__import__"):
        await tq.push(name, {"command": "true"})
    unknown: list[str] = []
    tq.on("unknown", lambda event: unknown.append(event.task.type))

    @tq.task
    async def known() -> int:
        return 1

    async with tq.running(concurrency=3):
        assert await (await known.push()).result(within(30)) == 1
        await eventually(lambda: len(unknown) >= 3)
        tasks = await tq.find(limit=10)
    left = [task for task in tasks if task.type != "known"]
    assert {task.status for task in left} == {Status.PENDING} and all(task.retry_count == 0 for task in left)


async def test_unknown_type_fails_after_a_set_age() -> None:  # A13
    async with virtual(concurrency=1) as kit:
        handle = await kit.tq.push("of.another.deploy")
        await kit.advance(minutes=30)
        assert await handle.status() is Status.PENDING
        await kit.advance(hours=1)
        task = await handle.task()
    assert task.status is Status.FAILED and "unknown_task" in task.error_message


async def test_the_age_of_an_unknown_type_counts_from_when_it_was_due(url: str) -> None:  # A13
    """A delay, a retry and an operator's retry are no time in which a worker could have known it."""
    async with virtual(url=None if url == "memory://" else url, concurrency=1) as kit:
        delayed = await kit.tq.push("of.another.deploy", delay=2 * 3600)
        await kit.advance(hours=2, minutes=30)
        row = await delayed.task()
        assert row.status is Status.PENDING and row.due_at is not None and row.run_at > row.due_at
        assert (kit.clock.now() - row.due_at) // SECOND == 1800
        await kit.advance(hours=1)
        assert await delayed.status() is Status.FAILED
        await kit.tq.retry(delayed.task_id)
        await kit.advance(minutes=30)
        assert await delayed.status() is Status.PENDING, "an operator has put it back: it counts anew"
        await kit.advance(hours=1)
        assert await delayed.status() is Status.FAILED


async def test_undecodable_row_fails_and_keeps_its_bytes(tmp_path: Path) -> None:  # A16, I5, F21
    import sqlite3

    tq = TaskQ(f"sqlite:///{tmp_path}/u.db", poll_interval=0.05)
    done: list[int] = []

    @tq.task
    async def work(i: int) -> None:
        done.append(i)

    async with tq:
        handles = [await work.push(i=i) for i in range(20)]
        with contextlib.closing(sqlite3.connect(tmp_path / "u.db")) as raw:
            raw.execute("UPDATE task_queue SET params = '{broken' WHERE task_id = ?", (handles[7].task_id,))
            raw.commit()
        async with tq.running(concurrency=4):
            task = await tq.queue.wait_for_end(handles[7].task_id, within(30))
            await eventually(lambda: len(done) == 19)
        assert task.status is Status.FAILED and task.error_message.startswith("undecodable: params is not JSON")
        with contextlib.closing(sqlite3.connect(tmp_path / "u.db")) as raw:
            assert raw.execute("SELECT params FROM task_queue WHERE task_id = ?", (handles[7].task_id,)).fetchone() == (
                "{broken",
            )


async def test_text_that_is_not_utf8_fails_its_own_task_only(tmp_path: Path) -> None:  # A16
    import sqlite3

    tq = TaskQ(f"sqlite:///{tmp_path}/b.db", poll_interval=0.05)

    @tq.task
    async def work(i: int) -> int:
        return i

    async with tq:
        handles = [await work.push(i=i) for i in range(5)]
        with contextlib.closing(sqlite3.connect(tmp_path / "b.db")) as raw:
            broken = (b'{"i": "\xff"}', handles[2].task_id)
            raw.execute("UPDATE task_queue SET params = CAST(? AS TEXT) WHERE task_id = ?", broken)
            raw.commit()
        async with tq.running(concurrency=2):
            assert [await handles[i].result(within(30)) for i in (0, 1, 3, 4)] == [0, 1, 3, 4]
            with pytest.raises(TaskFailed, match="undecodable"):
                await handles[2].result(within(30))


async def test_nothing_secret_is_logged(tmp_path: Path) -> None:  # J8
    from aiotaskq.log import logger

    lines: list[str] = []
    sink = logger.add(lines.append, level="TRACE", format="{message} {extra} {exception}", diagnose=False)
    try:
        tq = TaskQ(f"sqlite:///{tmp_path}/s.db", poll_interval=0.05)

        @tq.task(max_retries=1, backoff=0.001)
        async def fails(token: str) -> None:
            raise ValueError("refused")

        @tq.on("failed")
        def broken(event: Any) -> None:
            raise RuntimeError("a listener's own fault")

        async with tq.running(concurrency=1):
            await tq.values.set_public("cookie", "S3CRET-value", ttl=1)
            handle = await fails.push(token="S3CRET-param")
            await tq.queue.wait_for_end(handle.task_id, within(10))
            assert "S3CRET" not in repr(handle) + repr(tq)
    finally:
        logger.remove(sink)
    assert lines and "S3CRET" not in "".join(lines)


async def test_no_task_vanishes_under_gc(tq: TaskQ) -> None:  # D2
    @tq.task
    async def work(i: int) -> int:
        await asyncio.sleep(0)
        return i

    async with tq.running(concurrency=5):
        handles = await tq.push_many([work.call(i=i) for i in range(100)])
        results = []
        for handle in handles:
            gc.collect(0)
            results.append(await handle.result(within(10)))
    assert results == list(range(100))


async def test_failing_tasks_leave_no_frames(tq: TaskQ, monkeypatch: pytest.MonkeyPatch) -> None:  # H2, in small
    monkeypatch.setattr(logging.getLogger("aiotaskq"), "propagate", False)  # pytest keeps all records

    class Big:
        alive = 0

        def __init__(self) -> None:
            Big.alive += 1

        def __del__(self) -> None:
            Big.alive -= 1

    @tq.task(max_retries=0)
    async def fails() -> None:
        local = Big()
        raise ValueError(id(local))

    async with tq.running(concurrency=3):
        handles = await tq.push_many([fails.call() for _ in range(30)])
        for handle in handles:
            await tq.queue.wait_for_end(handle.task_id, within(10))
        gc.collect()
        assert Big.alive == 0


@pytest.fixture
def fixed_chance() -> Iterator[None]:
    """The same chances in each run: half of 50 waits fall into their first third once in some hundred runs."""
    state = random.getstate()
    random.seed(11)
    yield
    random.setstate(state)


@pytest.mark.usefixtures("fixed_chance")
async def test_tasks_that_failed_together_do_not_come_back_together() -> None:  # H11
    async with virtual(concurrency=50) as kit:

        @kit.tq.task(max_retries=1, backoff=Backoff(base=1000))
        async def fails() -> None:
            raise ValueError("all at once")

        @kit.tq.task(max_retries=1, backoff=Backoff(base=1000), timeout=1)
        async def hangs() -> None:
            await asyncio.Event().wait()

        for handler in (fails, hangs):
            handles = await kit.tq.push_many([handler.call() for _ in range(50)])
            await kit.advance(1)
            waits = sorted([(await kit.task(handle)).run_at - kit.tq.queue.clock.now() for handle in handles])
            # Uniform between 0 and 1,000 s; that a third is empty has a chance of 3 * (2/3)**50.
            assert waits[0] < 333 * SECOND < waits[25] < 900 * SECOND and waits[-1] > 667 * SECOND
