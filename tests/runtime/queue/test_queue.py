"""The documented verbs of the queue on memory and SQLite: push, pop, task_done, retry, bounds."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from unittest.mock import AsyncMock

import pytest

import aiotaskq.sync
from aiotaskq import MemoryQueue, Status
from aiotaskq.core.task import new_task
from aiotaskq.errors import DatabaseUnavailable, NoOpenTask, QueueFull, TaskConflict, ValidationError
from aiotaskq.runtime.queue.unacked import Unacked
from tests.support.machine import within
from tests.support.rows import new


async def test_push_pop_done(queue: MemoryQueue) -> None:
    task_id = await queue.push_task({"type": "mail", "params": {"to": "a@b"}})
    assert (await queue.get_queue_size(), await queue.is_empty()) == (1, False)
    task = await queue.pop_task()
    assert task is not None
    assert task.pop("created_at") > 1_600_000_000
    assert task == {
        "task_id": task_id,
        "type": "mail",
        "params": {"to": "a@b"},
        "priority": 0,
        "retry_count": 0,
        "max_retries": 3,
    }
    await queue.task_done()
    assert await queue.is_empty()
    assert (await queue.get(task_id)).status is Status.COMPLETED


async def test_callers_dict_is_not_changed_and_own_keys_survive(queue: MemoryQueue) -> None:
    mine = {"type": "a", "params": {"x": [1]}, "note": "näh", "nested": {"k": None}}
    copy = {**mine, "params": {"x": [1]}}
    await queue.push_task(mine)
    assert mine == copy
    popped = await queue.pop_task(0)
    assert popped is not None and (popped["note"], popped["nested"]) == ("näh", {"k": None})


async def test_priority_then_push_order(queue: MemoryQueue) -> None:  # I8
    for number, priority in enumerate([5, 0, 5, -3, 0, 5]):
        await queue.push_task({"type": "t", "params": {"n": number}}, priority)
    popped = [(await queue.pop_task(0))["params"]["n"] for _ in range(6)]  # type: ignore[index]
    assert popped == [3, 1, 4, 0, 2, 5]


async def test_pop_waits_for_a_push_and_gives_up_in_time(queue: MemoryQueue) -> None:
    assert await queue.pop_task(0) is None
    assert await queue.pop_task(timeout=0.01) is None
    waiting = asyncio.create_task(queue.pop_task())
    await asyncio.sleep(0)
    await queue.push_task({"type": "late"})
    async with asyncio.timeout(within(30)):
        task = await waiting
    assert task is not None and task["type"] == "late"


async def test_cancelled_pop_loses_nothing(queue: MemoryQueue) -> None:  # E10, D1
    await queue.push_task({"type": "a"})
    for ticks in range(12):
        popping = asyncio.create_task(queue.pop_task(5))
        for _ in range(ticks):
            await asyncio.sleep(0)
        popping.cancel()
        try:
            task = await popping
        except asyncio.CancelledError:
            task = None
        if task is not None:
            await queue.push_task(task)
    async with asyncio.timeout(within(30)):
        task = await queue.pop_task()
    assert task is not None and task["retry_count"] == 0


async def statuses(queue: MemoryQueue, ids: list[str]) -> list[str]:
    return [str((await queue.get(task_id)).status) for task_id in ids]


async def test_task_done_settles_the_newest_of_the_calling_coroutine(queue: MemoryQueue) -> None:
    ids = [await queue.push_task({"type": "t"}) for _ in range(4)]

    async def other() -> None:
        task = await queue.pop_task(0)
        assert task is not None and task["task_id"] == ids[1]
        await asyncio.sleep(0)
        await queue.task_done()

    await queue.pop_task(0)
    await asyncio.create_task(other())
    await queue.pop_task(0)
    await queue.pop_task(0)
    assert await statuses(queue, ids) == ["running", "completed", "running", "running"]
    await queue.task_done()
    assert await statuses(queue, ids) == ["running", "completed", "running", "completed"]
    await queue.task_done(ids[2])
    await queue.task_done()
    assert await statuses(queue, ids) == ["completed"] * 4
    with pytest.raises(NoOpenTask, match="no popped task open"):
        await queue.task_done()
    with pytest.raises(NoOpenTask, match="was not popped here"):
        await queue.task_done(ids[2])
    with pytest.raises(ValueError, match="task_done"):  # as the standard library's queue
        await queue.task_done()


async def test_who_has_popped_nothing_settles_the_oldest_of_all(queue: MemoryQueue) -> None:
    """As with the standard library's queue, one coroutine may finish what others have popped."""
    ids = [await queue.push_task({"type": "t"}) for _ in range(4)]
    hold = asyncio.Event()

    async def pops(popped: asyncio.Event) -> None:
        assert await queue.pop_task(0) is not None
        popped.set()
        await hold.wait()

    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            popped = asyncio.Event()
            group.create_task(pops(popped))
            await popped.wait()
        await asyncio.create_task(queue.pop_task(0))  # its coroutine has ended: no reason to go before the others
        for settled in range(1, 4):
            await queue.task_done()
            assert await statuses(queue, ids) == ["completed"] * settled + ["running"] * (3 - settled) + ["pending"]
        with pytest.raises(NoOpenTask):
            await queue.task_done()
        hold.set()


def test_a_thread_settles_what_another_has_popped() -> None:
    queue = aiotaskq.sync.MemoryQueue()
    mine, *others = [queue.push_task({"type": "t", "task_id": str(number)}) for number in range(3)]
    assert queue.pop_task(0) is not None
    for _ in others:
        thread = threading.Thread(target=queue.pop_task, args=(0,))
        thread.start()
        thread.join()
    done = threading.Thread(target=lambda: [queue.task_done() for _ in range(2)])
    done.start()
    done.join()
    assert [str(queue.get(task_id).status) for task_id in (mine, *others)] == ["completed", "completed", "running"]
    queue.task_done()
    with pytest.raises(NoOpenTask):
        queue.task_done()


async def test_what_could_not_be_settled_stays_the_newest(queue: MemoryQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second try must not complete the one before it, whose handler has failed."""
    failed, done = [await queue.push_task({"type": "t"}) for _ in range(2)]
    await queue.pop_task(0)
    await queue.pop_task(0)
    with monkeypatch.context() as patch:
        patch.setattr(queue, "settle", AsyncMock(side_effect=DatabaseUnavailable("away")))
        for task_id in (None, None, done):
            with pytest.raises(DatabaseUnavailable):
                await queue.task_done(task_id)
    await queue.task_done()
    assert await statuses(queue, [failed, done]) == ["running", "completed"]


async def test_pop_inside_a_coroutine_that_has_ended_can_be_settled(queue: MemoryQueue) -> None:
    task_id = await queue.push_task({"type": "t"})
    await asyncio.create_task(queue.pop_task(1))  # what asyncio.wait_for does on Python 3.11
    await queue.task_done()
    assert (await queue.get(task_id)).status is Status.COMPLETED


@pytest.mark.parametrize("done_in_finally", [True, False])
async def test_retry_recipe(queue: MemoryQueue, done_in_finally: bool) -> None:
    task_id = await queue.push_task({"type": "t", "params": {"n": 1}})
    other = await queue.push_task({"type": "other"}, 1)
    for attempt in range(3):
        task = await queue.pop_task(0)
        assert task is not None and (task["task_id"], task["retry_count"]) == (task_id, attempt)
        if attempt < 2:
            task["retry_count"] += 1
            assert await queue.push_task(task) == task_id
            if done_in_finally:
                await queue.task_done()
        else:
            await queue.task_done()
    assert (await queue.get(task_id)).status is Status.COMPLETED
    task = await queue.pop_task(0)
    assert task is not None and task["task_id"] == other
    await queue.task_done()
    assert (await queue.get(other)).status is Status.COMPLETED


@pytest.mark.parametrize("who", ["the one that popped", "another"])
async def test_task_done_after_a_push_again_completes_no_older_pop(queue: MemoryQueue, who: str) -> None:
    """`finally: task_done()` is about the task that was just handed back, by the same consumer or another."""
    older, failed = [await queue.push_task({"type": "t"}) for _ in range(2)]
    await queue.pop_task(0)
    task = await queue.pop_task(0)
    assert task is not None

    async def fails() -> None:
        task["retry_count"] += 1
        await queue.push_task(task)
        await queue.task_done()

    await (fails() if who == "the one that popped" else asyncio.create_task(fails()))
    assert await statuses(queue, [older, failed]) == ["running", "pending"]
    await queue.task_done()
    assert await statuses(queue, [older, failed]) == ["completed", "pending"]


async def test_a_handed_back_pop_never_hides_a_real_one(queue: MemoryQueue) -> None:
    failed = await queue.push_task({"type": "t"})
    other = await queue.push_task({"type": "t"})
    task = await queue.pop_task(0)
    assert task is not None and task["task_id"] == failed
    task["retry_count"] += 1
    await queue.push_task(task, priority=9)  # and no task_done(), as the guide's own code forgets it
    await queue.pop_task(0)
    await queue.task_done()
    assert [str((await queue.get(i)).status) for i in (failed, other)] == ["pending", "completed"]


async def test_pushing_a_known_id(queue: MemoryQueue) -> None:
    await queue.push_task({"type": "t", "task_id": "mine", "params": {"n": 1}})
    assert await queue.push_task({"type": "t", "task_id": "mine", "params": {"n": 1}}) == "mine"
    assert await queue.get_queue_size() == 1
    with pytest.raises(TaskConflict, match="mine is pending with other content"):
        await queue.push_task({"type": "t", "task_id": "mine", "params": {"n": 2}})
    with pytest.raises(TaskConflict, match="mine is pending with other content"):
        await queue.push_task({"type": "t", "task_id": "mine", "params": {"n": 1}, "timeout": 5})
    assert (await queue.get("mine")).params == {"n": 1}


async def test_the_guides_nightly_task(queue: MemoryQueue) -> None:
    """A script pushes the same id each night: each time it runs."""
    nightly = {"task_id": "nightly", "type": "backup", "params": {"to": "/mnt"}}
    for night in range(3):
        assert await queue.push_task(nightly) == "nightly"
        assert await queue.push_task(nightly) == "nightly"  # twice in one night is once
        task = await queue.pop_task(0)
        assert task is not None and (task["task_id"], task["retry_count"]) == ("nightly", 0)
        assert await queue.is_empty()
        await queue.task_done()
        assert (await queue.get("nightly")).fence == 2 * night + 1  # a new push, and a claim
    assert await queue.push_task({"task_id": "nightly", "type": "other", "retry_count": 2}, priority=-1) == "nightly"
    task = await queue.pop_task(0)
    assert task is not None
    assert (task["type"], task["params"], task["retry_count"], task["priority"]) == ("other", {}, 2, -1)


async def test_negative_pop_timeout_is_refused(queue: MemoryQueue) -> None:
    for wrong in (-1, float("nan"), "1", True):
        with pytest.raises(ValidationError, match="timeout: "):
            await queue.pop_task(wrong)  # type: ignore[arg-type]


def test_nothing_is_kept_of_a_settled_pop() -> None:
    class Id(str):
        """An id that a weak reference can point to."""

    unacked, task_id = Unacked(), Id("one")
    kept = weakref.ref(task_id)
    unacked.add(new(task_id=task_id))
    assert unacked.take(None).task.task_id is task_id
    del task_id
    gc.collect()
    assert kept() is None


@pytest.mark.parametrize("when_full", ["raise", "drop_oldest", "wait"])
async def test_bounded_queue(when_full: str) -> None:  # H10
    queue = MemoryQueue(maxsize=3, when_full=when_full)
    ids = [await queue.push_task({"type": "t", "params": {"n": n}}) for n in range(3)]
    if when_full == "raise":
        with pytest.raises(QueueFull, match="maxsize of 3"):
            await queue.push_task({"type": "t"})
        assert await queue.get_queue_size() == 3
    elif when_full == "drop_oldest":
        await queue.push_task({"type": "t", "params": {"n": 3}})
        assert await queue.get_queue_size() == 3
        assert (await queue.get(ids[0])).error_message == "dropped: the queue is full"
        assert (await queue.pop_task(0))["params"]["n"] == 1  # type: ignore[index]
    else:
        waiting = asyncio.create_task(queue.push_task({"type": "t"}))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        await queue.pop_task(0)
        async with asyncio.timeout(within(30)):
            await waiting
    with pytest.raises(ValidationError, match="4 in one push never fit a queue of maxsize 3"):
        await queue.add([new_task("t", now=0) for _ in range(4)])
    with pytest.raises(ValidationError, match="when_full"):
        MemoryQueue(when_full="explode")
