"""How many ended tasks a store in memory keeps: the option ``keep_ended``, dead letters apart from the others."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aiotaskq.sync
from aiotaskq import MemoryQueue, TaskQ
from aiotaskq.backends import connect
from aiotaskq.backends.base import Change, Room
from aiotaskq.backends.memory.backend import MemoryBackend
from aiotaskq.backends.url import DURABLE_FAKE, KEEP_ENDED, memory_options
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core.outcome import Cancelled, Completed, Failed, Requeued, settle
from aiotaskq.core.plan import Node, Outline, plan
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task, TaskFilter
from aiotaskq.errors import NotFound, NotSupported, ValidationError
from aiotaskq.runtime.queue.queue import Queue
from tests.support.machine import within
from tests.support.programs import programs_in
from tests.support.rows import NOW, ended, ids, new

# ---- the option ------------------------------------------------------------------------------------------------------

WAYS: dict[str, Callable[[Any], Any]] = {
    "TaskQ": lambda value: TaskQ("memory://", keep_ended=value),
    "URL": lambda value: TaskQ(f"memory://?keep_ended={value}"),
    "MemoryQueue": lambda value: MemoryQueue(keep_ended=value),
    "sync.TaskQ": lambda value: aiotaskq.sync.TaskQ("memory://", keep_ended=value),
    "sync.MemoryQueue": lambda value: aiotaskq.sync.MemoryQueue(keep_ended=value),
}


@pytest.mark.parametrize("value", [0, -1, 2**31, "many", "", 1.5, True])
@pytest.mark.parametrize("way", WAYS)
def test_a_wrong_number_is_refused(way: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=r"^(url: )?keep_ended: "):
        WAYS[way](value)


@pytest.mark.parametrize("way", ["TaskQ", "URL", "MemoryQueue"])
async def test_keep_ended_bounds_the_ended_tasks(way: str) -> None:
    queue = made.queue if isinstance(made := WAYS[way](3), TaskQ) else made
    pushed = [await queue.push_task({"type": "t"}) for _ in range(5)]
    for _ in pushed:
        await queue.pop_task(timeout=0)
        await queue.task_done()
    assert [task.task_id for task in await queue.find()] == pushed[:1:-1]
    with pytest.raises(NotFound):
        await queue.get(pushed[1])


@pytest.mark.parametrize("url", ["sqlite:///x.db", "postgresql://h/d", "mysql://h/d", "redis://h:1/0", DURABLE_FAKE])
def test_another_store_refuses_it(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for make in (lambda: TaskQ(url, keep_ended=5), lambda: TaskQ(f"{url}?keep_ended=5")):
        with pytest.raises(NotSupported, match=r"only memory:// .* use retention and retention_failed"):
            make()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["memory://?keep=5", "memory://?keep_ended=5&x=1", f"{DURABLE_FAKE}?x=1"])
def test_an_unknown_option_of_the_url_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="is unknown; for memory there are keep_ended and objects"):
        connect(url)


def test_keep_ended_in_url_and_argument_is_refused() -> None:
    with pytest.raises(ValidationError, match="it is in the URL, too"):
        TaskQ("memory://?keep_ended=5", keep_ended=5)
    assert memory_options("memory://").keep_ended == KEEP_ENDED == 10_000
    assert memory_options("memory://?keep_ended=50000").keep_ended == 50_000
    assert memory_options("memory://", 50_000).keep_ended == 50_000


def test_the_process_wide_queue_takes_it_from_its_url(tmp_path: Path) -> None:
    script = """
from aiotaskq.errors import ValidationError
from aiotaskq.sync import configure, get_queue, pop_task, push_task
for wrong in ("memory://?keep_ended=0", "memory://?keep_ended=x"):
    try:
        configure(queue_url=wrong)
    except ValidationError as error:
        print(error)
configure(queue_url="memory://?keep_ended=2")
for _ in range(4):
    push_task({"type": "t"})
    pop_task(timeout=0)
    get_queue().task_done()
print(len(get_queue().find()))
"""
    with programs_in(tmp_path) as start:
        assert start(script).end() == [
            "queue_url: keep_ended: 0 is not in 1..2147483647",
            "queue_url: keep_ended: an int is needed (got str 'x')",
            "2",
        ]


# ---- what is kept ----------------------------------------------------------------------------------------------------


async def test_completed_tasks_drop_no_dead_letter() -> None:
    tq = TaskQ("memory://", keep_ended=10)

    @tq.task(max_retries=0)
    async def work(n: int) -> None:
        if n < 0:
            raise ValueError(n)

    async with tq.running(drain=within(5)):
        dead = await tq.push_many([work.call(-n) for n in range(1, 4)])
        for _ in range(5):
            for handle in await tq.push_many([work.call(n) for n in range(10)]):
                await handle.result(timeout=within(10))
        assert {task.task_id for task in await tq.find(status="failed")} == {handle.task_id for handle in dead}
        assert len(await tq.find(status="completed")) == 10
        assert await tq.retry_many() == 3, "they can still be put back"


async def test_the_members_of_a_group_are_kept_until_it_has_ended() -> None:
    backend = MemoryBackend(2)
    nodes = tuple(Node(str(number), new()) for number in range(6))
    outer = Outline(group_id="g", nodes=(Node("inner", Outline(group_id="i", nodes=nodes[:4])), *nodes[4:]))
    await backend.groups.push(plan(outer, NOW))
    tasks = await backend.claim("o", NOW, 9)
    done = [settle(task, Completed(), NOW + number) for number, task in enumerate(tasks)]
    for task, after in zip(tasks[:5], done, strict=False):
        assert await backend.update([Change(task, after)]) == [True]
    for _ in range(3):
        await ended(backend)
    assert await backend.get(ids(done[:5])) == done[:5]
    assert len(await backend.find(TaskFilter(status=(Status.COMPLETED,)), 99)) == 5 + 2
    cancelled = settle(tasks[5], Cancelled(), NOW + 9)
    assert await backend.update([Change(tasks[5], cancelled)]) == [True]
    assert await backend.get(ids(done)) == [None, None, None, None, done[4], cancelled]
    assert await backend.update([Change(cancelled, settle(cancelled, Requeued(), NOW))]) == [True]
    for _ in range(3):
        await ended(backend, priority=-1)
    assert await backend.get([done[4].task_id]) == [done[4]], "its group runs again"
    assert len(await backend.find(TaskFilter(), 99)) == 2 + 2


async def test_a_dead_letter_keeps_its_group_until_it_is_dropped() -> None:
    backend = MemoryBackend(2)
    await backend.groups.push(plan(Outline(group_id="g", nodes=(Node("a", new()), Node("b", new()))), NOW))
    tasks = await backend.claim("o", NOW, 9)
    done = settle(tasks[0], Completed(), NOW)
    dead = settle(tasks[1], Failed("no", retryable=False), NOW)
    assert await backend.update([Change(tasks[0], done), Change(tasks[1], dead)]) == [True, True]
    for number in range(5):
        await backend.groups.push(plan(Outline(group_id=f"empty {number}", nodes=()), NOW))
        await ended(backend)
    assert await backend.get([done.task_id]) == [done]
    assert [group is not None for group in await backend.groups.get(["g", "empty 0", "empty 4"])] == [True, False, True]
    for _ in range(2):
        await ended(backend, Status.FAILED)
    assert await backend.get(ids([done, dead])) == [done, None], "as the last that has ended"
    await ended(backend)
    await backend.groups.push(plan(Outline(group_id="another", nodes=()), NOW))
    assert await backend.get([done.task_id]) == [done]
    await ended(backend)
    assert await backend.get([done.task_id]) == [None]


ENDS = [Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.EXPIRED]
STEPS = st.lists(
    st.tuples(st.sampled_from(["end", "end", "again", "delete", "purge"]), st.sampled_from(ENDS), st.integers(0)),
    max_size=60,
)


@settings(deadline=None)
@given(keep=st.integers(1, 5), steps=STEPS)
def test_the_latest_of_each_kind_are_kept(keep: int, steps: list[tuple[str, Status, int]]) -> None:
    async def play() -> None:
        backend, keys = MemoryBackend(keep), itertools.count()
        dead: list[Task] = []
        others: list[Task] = []
        for what, status, number in steps:
            kind = dead if status is Status.FAILED else others
            if what == "end":
                kind.append(await ended(backend, status, idempotency_key=f"key {next(keys)}"))
                del kind[:-keep]
            elif what == "purge":
                assert await backend.purge(TaskFilter(status=(status,)), 100) == sum(t.status is status for t in kind)
                kind[:] = [task for task in kind if task.status is not status]
            elif kind:
                task = kind.pop(number % len(kind))
                if what == "again":
                    after = task.replace(status=Status.PENDING, completed_at=None)
                    assert await backend.update([Change(task, after)]) == [True]
                assert await backend.delete([task.task_id]) == 1
            found = await backend.find(TaskFilter(), 100)
            assert sorted(ids(found)) == sorted(ids(dead + others))
            counts = (await backend.stats(NOW)).counts
            assert sum(counts.values()) == len(found) and counts["failed"] == len(dead)
        assert len(backend._keys) == len(dead + others), "the keys of dropped tasks are free"
        for task in dead + others:
            (row,) = await backend.push([new(idempotency_key=task.idempotency_key)])
            assert row.task_id == task.task_id

    asyncio.run(play())


# ---- what is told ----------------------------------------------------------------------------------------------------


class Told(logging.Handler):
    """Keeps the lines of the logger ``aiotaskq``, after ``meanwhile`` has run in another thread."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[tuple[str, str]] = []
        self.meanwhile: Callable[[], object] = lambda: None

    def emit(self, record: logging.LogRecord) -> None:
        thread = threading.Thread(target=self.meanwhile, daemon=True)
        thread.start()
        thread.join(within(10))
        assert not thread.is_alive(), "the line was written under the lock of the store"
        self.lines.append((record.levelname, record.getMessage()))


@pytest.fixture
def told() -> Iterator[Told]:
    handler, target = Told(), logging.getLogger("aiotaskq")
    target.addHandler(handler)
    target.setLevel(logging.INFO)
    yield handler
    target.removeHandler(handler)
    target.setLevel(logging.NOTSET)


async def test_the_first_dropped_task_of_each_kind_is_logged_once(told: Told) -> None:
    backend = MemoryBackend(2)
    told.meanwhile = lambda: asyncio.run(backend.count_ready(NOW))
    first = await ended(backend, Status.FAILED, type="mail\n")
    for _ in range(3):
        await ended(backend)
    assert [level for level, _ in told.lines] == ["INFO"]
    assert "keeps the latest 2 ended tasks (keep_ended)" in told.lines[0][1]
    for _ in range(4):
        await ended(backend, Status.FAILED)
        await ended(backend, Status.CANCELLED)
    assert [level for level, _ in told.lines] == ["INFO", "WARNING"]
    assert f"its first dead letter, mail\\n {first.task_id}:" in told.lines[1][1]
    assert "retry or purge dead letters, or raise keep_ended" in told.lines[1][1]


async def test_tasks_dropped_by_a_bounded_push_are_logged_without_the_lock(told: Told) -> None:
    backend = MemoryBackend(1)
    told.meanwhile = lambda: asyncio.run(backend.count_ready(NOW))
    (task,) = await backend.push([new()], Room(1, NOW))
    for _ in range(3):  # each push is to a full queue, and cancels what is there
        (task,) = await backend.push([new()], Room(1, NOW, (Change(task, settle(task, Cancelled(), NOW)),)))
    assert await backend.update([Change(task, settle(task, Cancelled(), NOW))]) == [True]
    assert [level for level, _ in told.lines] == ["INFO"]


async def test_nothing_is_logged_while_no_task_is_dropped(told: Told) -> None:
    backend = MemoryBackend()
    queue = Queue(backend, VirtualClock(NOW + SECOND))
    for status in ENDS * 3:
        await ended(backend, status)
    assert await queue.retry_many() == 3
    assert told.lines == []
