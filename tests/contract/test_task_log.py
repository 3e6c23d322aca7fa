"""``log`` and ``emit`` in handlers, and ``events()`` of a handle, on each store and from another process."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import aiotaskq.sync
from aiotaskq import TaskQ, current_task
from aiotaskq.core.notes import MAX_NOTE
from aiotaskq.errors import NotFound, TaskFailed, ValidationError
from tests.support.backends import Store
from tests.support.machine import within


def shown(notes: list[Any]) -> list[tuple[int, str, Any]]:
    return [(note.n, note.kind, note.data) for note in notes]


async def test_a_handler_writes_and_its_handle_reads(store: Store) -> None:
    tq = TaskQ(store.url, poll_interval=0.05)

    @tq.task
    async def coroutine() -> str:
        current_task().log("begun", file="a b.csv", rows=3)
        current_task().stream({"token": "Hé"})
        current_task().stream("llo")
        return "done"

    @tq.task
    def thread() -> None:
        context = aiotaskq.sync.current_task()
        for number in range(50):
            context.log(f"line {number}")

    async with tq.running():
        async with asyncio.timeout(within(20)):
            first, second = await coroutine.push(), await thread.push()
            assert await first.result() == "done"
            # At the end all is there: it is written before the outcome.
            assert shown(await first.log()) == [
                (1, "log", 'begun file="a b.csv" rows=3'),
                (2, "data", {"token": "Hé"}),
                (3, "data", "llo"),
            ]
            await second.result()
            assert [note.text for note in await second.log()] == [f"line {number}" for number in range(50)]
            end = (3, "end", "completed")
            assert shown([note async for note in first.stream(after=2)]) == [(3, "data", "llo"), end]
            assert shown([note async for note in first.stream(after=3)]) == [end]
            missing = tq.handle("missing")
            with pytest.raises(NotFound):
                await missing.next_log()


async def test_events_come_while_the_task_runs(store: Store) -> None:
    tq = TaskQ(store.url, poll_interval=0.05)
    go_on = asyncio.Event()

    @tq.task(max_retries=1, backoff=0)
    async def streams() -> None:
        current_task().stream("a")
        await go_on.wait()
        current_task().stream("b")
        raise ValueError("no")

    async with tq.running():
        async with asyncio.timeout(within(20)):
            handle = await streams.push()
            found = []
            async for note in handle.stream():
                found.append(note)
                go_on.set()
            # The numbers go on in the second run.
            expected = [(1, "data", "a"), (2, "data", "b"), (3, "data", "a"), (4, "data", "b"), (4, "end", "failed")]
            assert shown(found) == expected
            assert await handle.next_log(4, timeout=5) == found[-1:]
            with pytest.raises(TaskFailed):
                await handle.result()


async def test_another_process_follows(shared_store: Store) -> None:
    worker, watcher = TaskQ(shared_store.url, poll_interval=0.05), TaskQ(shared_store.url, poll_interval=0.2)
    go_on = asyncio.Event()

    @worker.task
    async def streams() -> None:
        current_task().stream(1)
        await go_on.wait()
        current_task().stream(2)

    async with worker.running(), watcher:
        async with asyncio.timeout(within(20)):
            handle = watcher.handle((await streams.push()).task_id)
            found = []
            async for note in handle.stream():
                found.append(note)
                go_on.set()
            assert shown(found) == [(1, "data", 1), (2, "data", 2), (2, "end", "completed")]


async def test_nothing_comes_for_a_while(store: Store) -> None:
    tq = TaskQ(store.url, poll_interval=0.05)

    @tq.task
    async def waits() -> None: ...

    async with tq:
        async with asyncio.timeout(within(20)):
            handle = await waits.push()
            assert await handle.next_log(timeout=0.1) == []
            assert await handle.log() == []


async def test_what_cannot_be_emitted(store: Store) -> None:
    tq = TaskQ(store.url, poll_interval=0.05)

    @tq.task
    async def emits() -> None:
        for wrong in (object(), "x" * MAX_NOTE, {"a": float}, float("nan")):
            with pytest.raises(ValidationError, match="stream"):
                current_task().stream(wrong)
        current_task().log("é" * MAX_NOTE)
        current_task().log("\x00\ud800")
        current_task().stream("x" * (MAX_NOTE - 2))

    async with tq.running():
        async with asyncio.timeout(within(20)):
            handle = await emits.push()
            await handle.result()
            cut, escaped, long = await handle.log()
            assert len(cut.text.encode()) <= MAX_NOTE
            assert cut.text.endswith("… (truncated)")
            assert escaped.text == "\\x00\\ud800"
            assert long.data == "x" * (MAX_NOTE - 2)
