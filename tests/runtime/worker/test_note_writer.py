"""The notes of a worker: written in batches, kept while the store is away, and bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from aiotaskq.backends.notes import Notes
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core.notes import MAX_NOTE, MAX_NOTES, MAX_SIZE, LogEntry, NewNote, NewNotes
from aiotaskq.core.status import Status
from aiotaskq.core.task import Task
from aiotaskq.errors import DatabaseUnavailable
from aiotaskq.runtime.context import TaskContext
from aiotaskq.runtime.hooks import HookCall, Hooks
from aiotaskq.runtime.worker.notes import INTERVAL, PATIENCE, NoteWriter, Work


class Store(Notes):
    """Keeps what it is given, and answers as it is told."""

    def __init__(self) -> None:
        self.calls: list[dict[str, list[str]]] = []
        self.usage: list[Any] = []
        self.away = False
        self.answers: dict[str, bool | None] = {}
        self.refuses = ""

    async def add(self, new: Sequence[NewNotes], last: bool = False) -> list[bool | None]:
        if self.away:
            raise DatabaseUnavailable("away")
        if any(each.task_id == self.refuses for each in new):
            raise ValueError("no")
        written = [each for each in new if self.answers.get(each.task_id, True)]
        self.usage += [each.usage for each in written if each.usage is not None]
        self.calls.append({each.task_id: [note.text for note in each.notes] for each in written})
        return [self.answers.get(each.task_id, True) for each in new]

    async def read(self, task_id: str, after: int, limit: int) -> list[LogEntry]:
        raise NotImplementedError

    async def last(self, task_id: str, limit: int) -> list[LogEntry]:
        raise NotImplementedError


class Bench:
    def __init__(self) -> None:
        self.clock, self.store = VirtualClock(), Store()
        self.begun: list[asyncio.Task[None]] = []
        self.used: list[Any] = []
        events = Hooks()
        events.on("used", self.hear)
        self.writer = NoteWriter(self.store, self.clock, self.begin, events)

    def hear(self, event: HookCall) -> None:
        assert event.task is not None
        self.used.append((event.task.task_id, event.detail["usage"]))

    def begin(self, work: Work) -> None:
        self.begun.append(asyncio.create_task(work()))

    def context(self, name: str) -> TaskContext:
        host: Any = None
        return TaskContext(Task(task_id=name, type="t", status=Status.RUNNING, fence=1), host)

    async def idle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)


def line(text: str) -> NewNote:
    return NewNote(0, "log", text)


async def test_many_notes_are_one_write_and_writes_keep_their_distance() -> None:
    bench = Bench()
    one, other = bench.context("1"), bench.context("2")
    bench.writer.add(one, line("a"))
    bench.writer.add(other, line("b"))
    bench.writer.add(one, line("c"))
    await bench.idle()
    assert bench.store.calls == [{"1": ["a", "c"], "2": ["b"]}]
    bench.writer.add(one, line("d"))
    await bench.idle()
    assert len(bench.store.calls) == 1
    await bench.clock.advance(INTERVAL)
    assert bench.store.calls[1:] == [{"1": ["d"]}]
    await bench.clock.advance(10)
    assert len(bench.store.calls) == 2
    assert all(each.done() for each in bench.begun)


async def test_the_end_of_a_task_does_not_wait_for_the_interval() -> None:
    bench = Bench()
    one, other = bench.context("1"), bench.context("2")
    bench.writer.add(one, line("a"))
    await bench.idle()
    bench.writer.add(one, line("b"))
    bench.writer.add(other, line("c"))
    await bench.writer.finish(one.task)
    assert bench.store.calls == [{"1": ["a"]}, {"1": ["b"]}]
    await bench.writer.finish(one.task)
    assert len(bench.store.calls) == 2


async def test_notes_wait_for_the_store() -> None:
    bench = Bench()
    bench.store.away = True
    task = bench.context("1")
    bench.writer.add(task, line("a"))
    await bench.clock.advance(1)
    bench.writer.add(task, line("b"))
    bench.store.away = False
    await bench.clock.advance(5)
    assert bench.store.calls == [{"1": ["a", "b"]}]


async def test_the_end_of_a_task_does_not_wait_for_ever() -> None:
    bench = Bench()
    bench.store.away = True
    task = bench.context("1")
    bench.writer.add(task, line("a"))
    ending = asyncio.create_task(bench.writer.finish(task.task))
    await bench.clock.advance(PATIENCE - 1)
    assert not ending.done()
    await bench.clock.advance(3)
    assert ending.done()
    bench.store.away = False
    await bench.clock.advance(10)
    assert bench.store.calls == []


async def test_what_is_used_up_is_written_as_sums_with_those_of_earlier_runs() -> None:
    bench = Bench()
    context = bench.context("1")
    context.task = context.task.replace(usage={"tokens": 100})
    bench.writer.spend(context, {"tokens": 1})
    bench.writer.spend(context, {"tokens": 2, "cost": 0.5})
    bench.writer.add(context, line("a"))
    await bench.idle()
    assert (bench.store.usage, bench.store.calls) == ([{"tokens": 103, "cost": 0.5}], [{"1": ["a"]}])
    assert bench.used == [("1", {"tokens": 3, "cost": 0.5})]
    bench.writer.spend(context, {"tokens": 4})
    await bench.writer.finish(context.task)
    await bench.writer.finish(context.task)
    assert bench.store.usage[1:] == [{"tokens": 107, "cost": 0.5}]
    assert bench.used[1:] == [("1", {"tokens": 4})]


async def test_the_end_of_a_task_waits_for_what_it_has_used_up() -> None:
    bench = Bench()
    bench.store.away = True
    context = bench.context("1")
    bench.writer.spend(context, {"tokens": 1})
    ending = asyncio.create_task(bench.writer.finish(context.task))
    await bench.clock.advance(PATIENCE * 10)
    assert not ending.done()
    bench.writer.spend(context, {"tokens": 1})
    bench.store.away = False
    await bench.clock.advance(3)
    assert ending.done()
    assert bench.store.usage[-1] == {"tokens": 2}
    assert sum(more["tokens"] for _, more in bench.used) == 2


async def test_a_lost_task_is_told_and_a_locked_one_is_tried_again() -> None:
    bench = Bench()
    lost, locked = bench.context("lost"), bench.context("locked")
    bench.store.answers = {"lost": False, "locked": None}
    bench.writer.add(lost, line("a"))
    bench.writer.add(locked, line("b"))
    await bench.idle()
    assert (lost.lost, locked.lost) == (True, False)
    bench.store.answers = {}
    bench.writer.add(locked, line("c"))
    await bench.clock.advance(INTERVAL)
    assert bench.store.calls[-1] == {"locked": ["b", "c"]}


async def test_an_error_of_one_task_does_not_lose_the_notes_of_others() -> None:
    bench = Bench()
    bench.store.refuses = "bad"
    for name in ("a", "bad", "b"):
        bench.writer.add(bench.context(name), line(name))
    await bench.idle()
    assert bench.store.calls == [{"a": ["a"]}, {"b": ["b"]}]


async def test_a_handler_that_writes_without_end_takes_bounded_memory() -> None:
    bench = Bench()
    many, long = bench.context("many"), bench.context("long")
    for number in range(MAX_NOTES + 5):
        bench.writer.add(many, line(str(number)))
        bench.writer.add(long, line("x" * MAX_NOTE))
    await bench.writer.finish(many.task)
    await bench.writer.finish(long.task)
    assert bench.store.calls[0]["many"] == [str(number) for number in range(5, MAX_NOTES + 5)]
    assert sum(map(len, bench.store.calls[1]["long"])) == MAX_SIZE
