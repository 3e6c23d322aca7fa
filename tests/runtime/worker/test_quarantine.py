"""The quarantine: a task under which two processes have died runs alone, and other tasks wait for it only so long."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from aiotaskq.backends.base import Change
from aiotaskq.core.outcome import ALONE, MAX_CRASHES
from aiotaskq.core.status import FINAL, Status
from aiotaskq.errors import DatabaseUnavailable
from aiotaskq.testing import Kit, virtual
from aiotaskq.types import TaskHandle

LEASE = 60.0


class Bench:
    """A worker with four slots in virtual time, and tasks that end when a test says so."""

    def __init__(self, kit: Kit) -> None:
        self.kit = kit
        self.started: list[str] = []
        self.marked: set[str] = set()
        self.ends: dict[str, asyncio.Event] = {}

        @kit.tq.task
        async def work(name: str) -> None:
            self.started.append(name)
            owner = (await kit.task(self.handles[name])).lease_owner or ""
            if owner.endswith(ALONE):
                self.marked.add(name)
            await self.ends.setdefault(name, asyncio.Event()).wait()

        self.work = work
        self.handles: dict[str, TaskHandle[Any]] = {}

    async def push(self, *names: str, due_after: float = 1) -> None:
        """Push tasks that all become due after a second; a name with "!" is a suspect."""
        store = self.kit.tq.queue.backend
        for name in names:
            self.handles[name] = await self.work.options(delay=due_after).push(name=name)
        rows = [await self.kit.task(self.handles[name]) for name in names if name.startswith("!")]
        assert all(await store.update([Change(row, row.replace(crashes=MAX_CRASHES - 1)) for row in rows]))
        await self.kit.advance(1)

    async def push_deaf(self, name: str) -> None:
        """Push a task whose handler ignores its cancel until its end."""
        ends = self.ends[name] = asyncio.Event()

        @self.kit.tq.task
        async def deaf(name: str) -> None:
            while not ends.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await ends.wait()

        self.work, work = deaf, self.work
        await self.push(name)
        self.work = work

    async def end(self, *names: str) -> None:
        for name in names:
            self.ends.setdefault(name, asyncio.Event()).set()
        await self.kit.advance(0.01)

    async def mark(self, name: str) -> bool:
        return ((await self.kit.task(self.handles[name])).lease_owner or "").endswith(ALONE)

    async def status(self, name: str) -> Status:
        return await self.handles[name].status()

    def on_mark(self, name: str, act: Callable[[list[Change]], Awaitable[Any]], *, taken_back: bool = False) -> None:
        """Call ``act`` before each write that sets (or takes back) the mark of a task."""
        store = self.kit.tq.queue.backend
        update = store.update

        async def watched(changes: Any) -> Any:
            for change in changes:
                marks = [(each.lease_owner or "").endswith(ALONE) for each in (change.before, change.after)]
                if change.before.task_id == self.handles[name].task_id and marks == [taken_back, not taken_back]:
                    await act(changes)
            return await update(changes)

        store.update = watched  # type: ignore[method-assign]


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with virtual(lease=LEASE, concurrency=4, poll_interval=1.0) as kit:
        bench = Bench(kit)
        try:
            yield bench
        finally:
            await bench.end(*bench.handles)
        for name in bench.handles:
            await kit.advance(3 * LEASE)
            assert await bench.status(name) in FINAL, name


async def test_a_suspect_waits_until_nothing_else_runs(bench: Bench) -> None:
    await bench.push("a", "b")
    await bench.push("!x", "c")
    assert bench.started == ["a", "b"], "nothing starts while a suspect waits"
    await bench.end("a")
    assert bench.started == ["a", "b"]
    assert await bench.status("c") is Status.PENDING, "another process may run it"
    await bench.end("b")
    assert bench.started == ["a", "b", "!x"]
    assert bench.marked == {"!x"}
    await bench.kit.advance(2)
    assert await bench.status("c") is Status.PENDING
    await bench.end("!x")
    await bench.kit.advance(2)
    assert (bench.started, bench.marked) == (["a", "b", "!x", "c"], {"!x"})


async def test_a_task_whose_outcome_is_not_written_is_not_put_at_risk(bench: Bench) -> None:
    store = bench.kit.tq.queue.backend
    exchange = store.exchange

    async def away(*_args: Any, **_options: Any) -> Any:
        raise DatabaseUnavailable("away")

    await bench.push("a")
    await bench.push("!x")
    store.exchange = away  # type: ignore[method-assign]
    await bench.end("a")
    await bench.kit.advance(10)
    assert (bench.started, await bench.status("a")) == (["a"], Status.RUNNING)
    store.exchange = exchange  # type: ignore[method-assign]
    await bench.kit.advance(5)
    assert (bench.started, bench.marked) == (["a", "!x"], {"!x"})


async def test_a_suspect_does_not_wait_for_longer_than_a_lease(bench: Bench) -> None:
    await bench.push("hours")
    await bench.push("!x", "a")
    await bench.kit.advance(LEASE - 5)
    assert bench.started == ["hours"]
    await bench.kit.advance(6)
    assert sorted(bench.started) == ["!x", "a", "hours"], "and the others wait no longer either"
    assert bench.marked == set(), "it does not run alone"


async def test_others_do_not_wait_for_longer_than_a_lease_and_not_beside_a_mark(bench: Bench) -> None:
    await bench.push("!x")
    assert bench.marked == {"!x"}
    await bench.push("a")
    await bench.kit.advance(LEASE - 5)
    assert (bench.started, await bench.mark("!x")) == (["!x"], True)
    await bench.kit.advance(6)
    assert (bench.started, await bench.mark("!x")) == (["!x", "a"], False)
    worker = bench.kit.tq.worker
    assert worker is not None
    owners = {task.lease_owner or "" for task in worker.tasks}
    assert len(owners) == 1 and not owners.pop().endswith(ALONE), "the death of a child process judges by this task"
    await bench.end("!x")
    assert (await bench.kit.task(bench.handles["!x"])).crashes == MAX_CRASHES - 1


async def test_two_suspects_never_run_side_by_side(bench: Bench) -> None:
    await bench.push("!x", "!y")
    await bench.kit.advance(LEASE + 10)
    await bench.push("a")
    assert bench.started == ["!x", "a"], "an ordinary task may run beside it by now"
    await bench.kit.advance(LEASE)
    assert bench.started == ["!x", "a"]
    assert (await bench.kit.task(bench.handles["!y"])).fence < 2 * LEASE, "claimed once a second, not in each round"
    await bench.end("!x", "a")
    await bench.kit.advance(2)
    assert (bench.started[-1], bench.marked) == ("!y", {"!x", "!y"})


async def test_tasks_claimed_ahead_are_given_back(bench: Bench) -> None:
    await bench.end("quick")
    for _ in range(50):
        await bench.push("quick")  # so that more is claimed than there are slots
    bench.started.clear()
    names = [f"n{number}" for number in range(10)]
    await bench.push("!x", due_after=2.1)
    await bench.push(*names)
    assert bench.started == names[:4]
    assert {await bench.status(name) for name in names} == {Status.RUNNING}, "claimed ahead"
    await bench.kit.advance(0.1)
    assert await bench.status("!x") is Status.RUNNING
    assert [await bench.status(name) for name in names] == [Status.RUNNING] * 4 + [Status.PENDING] * 6
    assert {(await bench.kit.task(bench.handles[name])).retry_count for name in names} == {0}


async def test_a_suspect_that_is_cancelled_while_it_waits_lets_the_others_run(bench: Bench) -> None:
    await bench.push("a")
    await bench.push("!x", "b")
    await bench.handles["!x"].cancel()
    await bench.kit.advance(2)
    assert await bench.status("!x") is Status.CANCELLED
    await bench.end("a")
    await bench.kit.advance(2)
    assert bench.started == ["a", "b"]


async def test_a_suspect_that_is_cancelled_as_it_is_marked_does_not_run(bench: Bench) -> None:
    async def cancel(_changes: Any) -> None:
        await bench.kit.tq.queue.backend.request_cancel([bench.handles["!x"].task_id])

    await bench.push("a")
    await bench.push("!x")
    bench.on_mark("!x", cancel)
    await bench.end("a")
    await bench.kit.advance(2)
    assert (bench.started, await bench.status("!x")) == (["a"], Status.CANCELLED)


@pytest.mark.parametrize("error", [DatabaseUnavailable("away"), ValueError("a fault of aiotaskq")])
async def test_a_suspect_whose_mark_cannot_be_written_does_not_run(bench: Bench, error: Exception) -> None:
    refused: list[list[str]] = []

    async def refuse(_changes: Any) -> None:
        if not refused:
            refused.append(list(bench.started))
            raise error

    await bench.push("a")
    await bench.push("!x")
    bench.on_mark("!x", refuse)
    await bench.end("a")
    await bench.push("b")
    await bench.kit.advance(2)
    assert refused == [["a"]]
    await bench.end("b")
    await bench.kit.advance(5 * LEASE)
    assert sorted(bench.started) == (["!x", "a", "b"])
    assert (await bench.kit.task(bench.handles["!x"])).fence > 1, "it was given back, and ran after another claim"


async def test_others_start_only_when_the_mark_is_taken_back(bench: Bench) -> None:
    tries = []

    async def refuse(_changes: Any) -> None:
        tries.append(list(bench.started))
        if len(tries) < 5:
            raise DatabaseUnavailable("away")

    await bench.push("!x")
    bench.on_mark("!x", refuse, taken_back=True)
    await bench.push("a")
    await bench.kit.advance(LEASE + 10)
    assert tries == [["!x"]] * 5
    assert bench.started == ["!x", "a"]


async def test_the_mark_of_a_task_that_ignores_its_cancel_is_taken_back(bench: Bench) -> None:
    await bench.push_deaf("!x")
    await bench.handles["!x"].cancel()
    assert await bench.mark("!x")
    await bench.push("a")
    await bench.kit.advance(LEASE + 10)
    assert bench.started == ["a"] and not await bench.mark("!x")


async def test_a_suspect_that_is_lost_keeps_no_other_task_waiting(bench: Bench) -> None:
    await bench.push_deaf("!x")
    row = await bench.kit.task(bench.handles["!x"])
    taken = row.replace(status=Status.CANCELLED, lease_owner=None, lease_until=None)
    assert await bench.kit.tq.queue.backend.update([Change(row, taken)]) == [True]
    await bench.push("a")
    await bench.kit.advance(LEASE + 10)
    assert bench.started == ["a"]
