"""The way from a claim to a slot, and how a task that may kill its process goes it alone."""

from __future__ import annotations

import pytest

from aiotaskq.core.outcome import MAX_CRASHES, marked
from aiotaskq.core.task import Task
from aiotaskq.runtime.worker.buffer import Inbox

PATIENCE = 100


class Turns:
    """An inbox with a clock in a test's hands."""

    def __init__(self) -> None:
        self.now = 0
        self.out: dict[str, Task] = {}
        self.inbox = Inbox(lambda: self.now, PATIENCE)

    def put(self, *names: str) -> list[bool]:
        return [
            self.inbox.put(Task(task_id=name, type="t", crashes=MAX_CRASHES - 1 if name.startswith("!") else 0))
            for name in names
        ]

    def done(self, name: str = "", written: bool = True) -> None:
        """The one that was got first, or the one named, has ended."""
        task = self.out.pop(name or next(iter(self.out)))
        self.inbox.done(task, self.now, 0)
        self.inbox.unwritten += 1
        if written:
            self.written(task)

    def written(self, task: Task) -> None:
        self.inbox.written(task)

    async def got(self) -> str | None:
        """What may run next; None if nothing may."""
        task = self.inbox.next()
        if task is not None:
            self.out[task.task_id] = task
        return None if task is None else task.task_id


@pytest.fixture
async def turns() -> Turns:
    return Turns()


async def test_first_come_first(turns: Turns) -> None:
    turns.put("a", "b")
    assert (len(turns.inbox), turns.inbox.narrow) == (2, False)
    assert [await turns.got(), await turns.got(), await turns.got()] == ["a", "b", None]


async def test_it_is_said_when_a_task_may_run(turns: Turns) -> None:
    said: list[int] = []
    turns.inbox = Inbox(lambda: turns.now, PATIENCE, lambda: said.append(len(turns.inbox)))
    turns.put("a", "b")
    assert said == [1, 2]
    await turns.got()
    turns.done()
    assert said == [1, 2, 1], "a slot is free"
    turns.inbox.hurry()
    assert said == [1, 2, 1, 1]
    await turns.got()
    turns.inbox.hurry()
    assert said == [1, 2, 1, 1], "there is nothing to start"


async def test_on_its_last_chance_it_runs_alone(turns: Turns) -> None:  # A4
    assert turns.put("a", "b", "!x") == [True, True, True]
    assert turns.inbox.narrow
    assert turns.put("c", "!y") == [False, False], "where they wait, their worker may die of it"
    assert [await turns.got(), await turns.got()] == ["a", "b"]
    assert await turns.got() is None
    turns.done()
    assert await turns.got() is None, "b still runs"
    turns.done()
    assert await turns.got() == "!x"
    assert turns.put("c") == [False]
    turns.done()
    assert not turns.inbox.narrow
    assert turns.put("c", "!y") == [True, True]
    assert [await turns.got(), await turns.got()] == ["c", None]
    turns.done()
    assert await turns.got() == "!y"


async def test_nobody_is_blamed_whose_outcome_is_not_written_yet(turns: Turns) -> None:  # A4
    turns.put("a", "!x")
    task = turns.inbox.next()
    assert task is not None and task.task_id == "a"
    turns.out["a"] = task
    turns.done(written=False)
    assert await turns.got() is None, "it has ended, but if the process dies now, it is blamed"
    turns.written(task)
    assert await turns.got() == "!x"
    suspect = turns.out["!x"]
    turns.done(written=False)
    assert turns.put("b") == [False], "nor is anybody claimed beside a suspect whose end is not written"
    turns.written(suspect)
    assert turns.put("b") == [True]


async def test_it_does_not_wait_for_ever(turns: Turns) -> None:
    turns.put("hours", "!x")
    assert await turns.got() == "hours"
    turns.now = PATIENCE - 1
    assert await turns.got() is None
    turns.now = PATIENCE
    assert await turns.got() == "!x"
    assert turns.put("a") == [False]
    turns.done("!x")
    assert not turns.inbox.narrow, "hours still runs, but that is not why"
    turns.put("a")
    assert await turns.got() == "a"


async def test_others_do_not_wait_for_it_for_ever_either(turns: Turns) -> None:
    turns.put("!x")
    assert await turns.got() == "!x"
    turns.now = PATIENCE - 1
    assert turns.put("a") == [False]
    turns.now = PATIENCE
    assert not turns.inbox.narrow
    turns.put("a")
    assert await turns.got() == "a"


async def test_waiting_ones_can_be_taken_out(turns: Turns) -> None:
    turns.put("a", "b", "c", "!x")
    assert [task.task_id for task in turns.inbox.take(lambda task: task.task_id in ("b", "!x"))] == ["b", "!x"]
    assert [task.task_id for task in turns.inbox.take_last(1)] == ["c"]
    assert [task.task_id for task in turns.inbox.take()] == ["a"]
    assert (len(turns.inbox), turns.inbox.narrow) == (0, False)


async def test_whether_it_runs_alone(turns: Turns) -> None:
    turns.put("a", "!x")
    assert await turns.got() == "a"
    assert not turns.inbox.alone(turns.out["a"]), "no suspect"
    turns.done(written=False)
    turns.now = PATIENCE
    assert await turns.got() == "!x"
    assert not turns.inbox.alone(turns.out["!x"]), "what a came to is not written"


async def test_nothing_runs_beside_it_until_its_mark_is_taken_back(turns: Turns) -> None:
    overstayed: list[str] = []
    turns.inbox = Inbox(lambda: turns.now, PATIENCE, overstayed=lambda task: overstayed.append(task.task_id))
    turns.put("!x")
    assert await turns.got() == "!x" and turns.inbox.alone(turns.out["!x"])
    turns.inbox.mark()
    turns.now = PATIENCE - 1
    turns.inbox.hurry()
    assert overstayed == []
    turns.now = PATIENCE
    assert turns.inbox.narrow and turns.put("a") == [False] and await turns.got() is None
    turns.inbox.hurry()
    assert overstayed == ["!x"]
    turns.inbox.unmark()
    assert turns.put("a") == [True] and await turns.got() == "a"


async def test_its_end_ends_its_mark(turns: Turns) -> None:
    turns.put("!x")
    assert await turns.got() == "!x"
    turns.inbox.mark()
    suspect = turns.out["!x"]
    turns.done(written=False)
    assert turns.put("a") == [False]
    turns.written(marked(suspect))  # another object, of the same delivery
    assert turns.put("a") == [True] and await turns.got() == "a"


async def test_two_suspects_never_run_side_by_side(turns: Turns) -> None:
    turns.put("!x")
    assert await turns.got() == "!x"
    turns.now = PATIENCE
    assert turns.put("!y", "a") == [False, True], "others may run beside it by now"
    assert await turns.got() == "a"
    turns.done("!x")
    assert turns.put("!y") == [True]
