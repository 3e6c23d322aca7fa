"""The blocking queue: the documented verbs from many threads."""

from __future__ import annotations

import concurrent.futures
import functools
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import aiotaskq
import aiotaskq.sync
import aiotaskq.sync.bridge
import aiotaskq.types
from aiotaskq.core.status import Status
from aiotaskq.errors import (
    NoOpenTask,
    ValidationError,
)
from tests.support.machine import watchdog, within
from tests.support.threads import in_thread
from tests.sync.threads import PROMPT, from_thread


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


def test_a_push_a_pop_and_a_settle_in_memory_need_no_loop(
    queue: aiotaskq.sync.MemoryQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.push_task({"type": "start the loop"})
    monkeypatch.setattr(
        aiotaskq.sync.bridge.loop_thread, "run", lambda *args, **options: pytest.fail("through the loop")
    )

    def act() -> None:
        for _ in range(5):
            queue.push_task({"type": "x"})
        popped = 0
        while queue.pop_task(0) is not None:
            queue.task_done()
            popped += 1
        assert popped == 6
        queue.set_public("a", 1)
        assert queue.get_public("a") == 1

    from_thread(act)


def test_a_cancel_that_has_a_listener_goes_through_the_loop() -> None:
    tq = aiotaskq.sync.TaskQ("memory://")
    heard = threading.Event()

    async def listen(event: aiotaskq.types.Event) -> None:
        heard.set()

    tq.on("cancelled", listen)
    assert from_thread(lambda: tq.cancel(tq.queue.push_task({"type": "x"})))
    assert heard.wait(watchdog())
    tq.close()


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
