"""Where handlers stand: coroutines, what they await, threads, processes, batches, and a loop that stands still."""

from __future__ import annotations

import asyncio
import re
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aiotaskq import TaskQ
from aiotaskq.core.worker_info import RunStack
from aiotaskq.runtime.worker.stacks import MOST_LINES, MOST_TEXT
from tests.runtime.worker.workers import started
from tests.support.machine import within
from tests.support.waiting import eventually, wait_until

SECRET = "hunter2"


def look(tq: TaskQ) -> list[RunStack]:
    assert tq.worker is not None
    return list(tq.worker.stacks.look().runs)


def names(run: RunStack) -> list[str]:
    """The functions, and nothing of the loop and of asyncio."""
    return [line.rpartition(" ")[2] for line in run.lines if "/asyncio/" not in line]


async def inner(gate: asyncio.Event, password: str) -> None:
    await gate.wait()


async def pages(gate: asyncio.Event) -> AsyncIterator[int]:
    await inner(gate, SECRET)
    yield 1


class Awaitable:
    def __init__(self, gate: asyncio.Event) -> None:
        self.gate = gate

    def __await__(self):  # type: ignore[no-untyped-def]
        return (yield from inner(self.gate, SECRET).__await__())


async def test_a_coroutine_and_what_it_awaits() -> None:
    tq, gate = TaskQ("memory://"), asyncio.Event()

    @tq.task(name="plain")
    async def plain(password: str) -> None:
        await inner(gate, password)

    @tq.task(name="pages")
    async def paged() -> None:
        async for _ in pages(gate):
            pass

    @tq.task(name="object")
    async def objects() -> None:
        await Awaitable(gate)

    @tq.task(name="task")
    async def in_task() -> None:
        await asyncio.create_task(inner(gate, SECRET))

    async with started(tq):
        handles = [await plain.push(SECRET), *[await each.push() for each in (paged, objects, in_task)]]
        await eventually(lambda: [run.lines[-1].endswith("Event.wait") for run in look(tq)] == [True] * 4)
        runs = {run.type: run for run in look(tq)}
        for type, outer, between in (
            ("plain", "plain", []),
            ("pages", "paged", ["pages"]),
            ("object", "objects", ["Awaitable.__await__"]),
            ("task", "in_task", []),
        ):
            before = f"test_a_coroutine_and_what_it_awaits.<locals>.{outer}"
            assert names(runs[type]) == [before, *between, "inner"]
            assert runs[type].lines[-1].endswith("Event.wait")
        line = re.escape(__file__) + r":\d+ test_a_coroutine_and_what_it_awaits.<locals>.plain"
        assert re.fullmatch(line, runs["plain"].lines[0])
        assert SECRET not in repr(runs)
        gate.set()
        for handle in handles:
            await handle.result(within(10))


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the context of an asyncio task cannot be read before")
async def test_tasks_that_a_handler_has_started() -> None:
    tq, gate = TaskQ("memory://"), asyncio.Event()

    @tq.task(name="many")
    async def many() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(inner(gate, SECRET))

    async with started(tq):
        handle = await many.push()
        await eventually(lambda: any(len(run.lines) >= 8 for run in look(tq)))
        (run,) = look(tq)
        assert names(run)[1:] == ["task:", "inner"] * 2
        gate.set()
        await handle.result(within(10))


async def test_a_thread() -> None:
    tq, gate = TaskQ("memory://"), threading.Event()

    def waits() -> None:
        gate.wait(within(60))

    @tq.task(name="def")
    def plain() -> None:
        waits()

    @tq.task(name="batch", batch=2)
    def batch(items: list[int]) -> None:
        waits()

    async with started(tq):
        assert tq.worker is not None
        handles = [await plain.push(), *[await batch.push(item) for item in range(2)]]
        threads = tq.worker.runner.executors.threads
        await eventually(lambda: [len(run.lines) for run in look(tq)] == [4, 4, 4])
        for run in look(tq):
            outer = "plain" if run.type == "def" else "batch"
            assert run.executor == "thread"
            assert [each.rpartition(".")[2] for each in names(run)] == [outer, "waits", "wait", "wait"]
        gate.set()
        for handle in handles:
            await handle.result(within(10))
        assert threads == {}


async def test_a_batch_in_the_loop_and_one_that_is_gathered() -> None:
    tq, gate = TaskQ("memory://"), asyncio.Event()

    @tq.task(name="batch", batch=2, within=3600)
    async def batch(items: list[int]) -> None:
        await inner(gate, SECRET)

    async with started(tq):
        first = await batch.push(1)
        await eventually(lambda: [run.lines[-1].endswith("Batches.join") for run in look(tq)] == [True])
        second = await batch.push(2)
        await eventually(lambda: [run.lines[-1].endswith("Event.wait") for run in look(tq)] == [True, True])
        gate.set()
        await first.result(within(10))
        await second.result(within(10))


def in_process(folder: str) -> None:
    (Path(folder) / "began").touch()
    wait_until((Path(folder) / "release").exists)


async def test_a_process_is_named(tmp_path: Path) -> None:
    tq = TaskQ("memory://")
    task = tq.task(name="apart", executor="process")(in_process)
    async with started(tq, concurrency=1):
        handle = await task.push(str(tmp_path))
        await eventually((tmp_path / "began").exists)
        (run,) = look(tq)
        (tmp_path / "release").touch()
        assert (run.executor, run.lines, len(run.pids)) == ("process", (), 1)
        await handle.result(within(10))


async def test_a_loop_that_stands_still_answers_from_another_thread() -> None:
    tq, gate, found = TaskQ("memory://"), threading.Event(), list[RunStack]()

    @tq.task(name="blocks")
    async def blocks() -> None:
        gate.wait(within(60))

    def from_outside() -> None:
        wait_until(lambda: [len(run.lines) for run in look(tq)] == [3])
        found.extend(look(tq))
        gate.set()

    async with started(tq):
        thread = threading.Thread(target=from_outside)
        handle = await blocks.push()
        thread.start()
        await handle.result(within(60))
        thread.join()
    (run,) = found
    assert [each.rpartition(".")[2] for each in names(run)] == ["blocks", "wait", "wait"]


async def test_the_answer_is_bounded() -> None:
    tq, gate = TaskQ("memory://"), asyncio.Event()

    async def deep(depth: int) -> None:
        await (deep(depth - 1) if depth else gate.wait())

    @tq.task(name="deep")
    async def runs() -> None:
        await deep(200)

    async with started(tq, concurrency=100):
        assert tq.worker is not None
        handles = [await runs.push() for _ in range(100)]
        await eventually(lambda: tq.worker is not None and len(tq.worker.executions) == 100)
        await eventually(lambda: all(len(run.lines) == MOST_LINES for run in look(tq)))
        found = tq.worker.stacks.look()
        assert sum(len(line) for run in found.runs for line in run.lines) <= MOST_TEXT
        assert found.left_off > 0 and len(found.runs) + found.left_off == 100
        assert found.runs[0].lines[0] == "…" and found.runs[0].lines[-1].endswith("Event.wait")
        gate.set()
        for handle in handles:
            await handle.result(within(10))
