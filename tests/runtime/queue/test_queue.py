"""The queue actor: the documented verbs, keys, bounded queues, the operator's verbs, on memory and SQLite."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest

import aiotaskq.sync
from aiotaskq import (
    DatabaseQueue,
    DatabaseUnavailable,
    LeaseLost,
    MemoryQueue,
    NoOpenTask,
    NotFound,
    QueueFull,
    ResultTimeout,
    Status,
    TaskConflict,
    TaskQ,
    UnknownHandler,
    ValidationError,
)
from aiotaskq.backends import connect
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core.outcome import IllegalTransition
from aiotaskq.core.task import SECOND, new_task
from aiotaskq.runtime.queue.queue import Queue
from tests.support.machine import within


@pytest.fixture(params=["memory", "sqlite"])
async def queue(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    made = MemoryQueue() if request.param == "memory" else DatabaseQueue(f"sqlite:///{tmp_path}/q.db")
    yield made
    await made.close()


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
    """`finally: task_done()` is about the task that was just handed back, whoever worked on it."""
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
        assert (await queue.get("nightly")).fence == night + 1
    assert await queue.push_task({"task_id": "nightly", "type": "other", "retry_count": 2}, priority=-1) == "nightly"
    task = await queue.pop_task(0)
    assert task is not None
    assert (task["type"], task["params"], task["retry_count"], task["priority"]) == ("other", {}, 2, -1)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("x", "task: a dict is needed (got str)"),
        ({}, "type: missing"),
        ({"type": ""}, "type: must not be empty"),
        ({"type": 3}, "type: a string is needed (got int)"),
        ({"type": "a\x00b"}, "type: NUL"),
        ({"type": "t", "params": [1]}, "params: a dict is needed (got list)"),
        ({"type": "t", "priority": 1.5}, "priority: an int is needed (got float"),
        ({"type": "t", "priority": True}, "priority: an int is needed (got bool"),
        ({"type": "t", "timeout": -1}, "timeout: must be more than 0 seconds"),
        ({"type": "t", "timeout": float("nan")}, "timeout: nan is not a number of seconds"),
        ({"type": "t", "max_retries": -1}, "max_retries: -1 is not in 0.."),
        ({"type": "t", 5: 1}, "task: key 5 is int"),
    ],
)
async def test_bad_task_dicts_are_refused_before_anything_is_written(
    queue: MemoryQueue, task: Any, message: str
) -> None:  # I9
    with pytest.raises(ValidationError) as caught:
        await queue.push_task(task)
    assert str(caught.value).startswith(message)
    assert isinstance(caught.value, ValueError)
    assert await queue.is_empty()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"items": [1, 2, 3, {1}]}, "params.items[3]: set is not JSON"),
        ({"x": float("nan")}, "params.x: nan is not JSON"),
        ({"x": "a\x00"}, "params.x: NUL"),
        ({"x": "\ud800"}, "params.x: a lone surrogate"),
        ({"x": 2**64}, "params.x: an int over 64 bits"),
        ({"x": "y" * 300_000}, "params: 300,008 bytes of JSON are more than 262,144"),
        ({3: 1}, "params: key 3 is int"),
        ({"x": b"raw"}, "params.x: bytes is not JSON; encode it as text"),
    ],
)
async def test_durable_queues_take_json_only(tmp_path: Path, params: Any, message: str) -> None:  # I1, I2, I3
    queue = DatabaseQueue(f"sqlite:///{tmp_path}/j.db")
    with pytest.raises(ValidationError) as caught:
        await queue.push_task({"type": "t", "params": params})
    assert str(caught.value).startswith(message)
    assert await queue.is_empty()
    await queue.close()


@pytest.mark.parametrize(
    ("task_id", "message"),
    [
        ("x" * 37, "task_id: 37 characters are more than 36"),
        ("", "task_id: must not be empty"),
        (5, "task_id: a string is needed (got int)"),
    ],
)
async def test_ids_on_a_durable_queue_are_short_text(tmp_path: Path, task_id: Any, message: str) -> None:
    queue = DatabaseQueue(f"sqlite:///{tmp_path}/i.db")
    with pytest.raises(ValidationError) as caught:
        await queue.push_task({"type": "t", "task_id": task_id})
    assert str(caught.value).startswith(message)
    assert await queue.is_empty()
    await queue.close()


IDS: list[Any] = ["x" * 1_000, "", "a\x00b", 5, ("job", 1), b"raw", frozenset({1})]


async def test_in_memory_an_id_is_any_hashable_value() -> None:
    """As the dict of the old queue took them: pushed, popped, retried, settled by name and pushed again."""
    queue = MemoryQueue()
    for task_id in IDS:
        assert await queue.push_task({"type": "t", "task_id": task_id}) == task_id
        assert await queue.push_task({"type": "t", "task_id": task_id}) == task_id
        with pytest.raises(TaskConflict, match="is pending with other content"):
            await queue.push_task({"type": "u", "task_id": task_id})
    for task_id in IDS:
        task = await queue.pop_task(0)
        assert task is not None and task["task_id"] == task_id
        task["retry_count"] += 1
        assert await queue.push_task(task, priority=1) == task_id
        await queue.task_done()
    for task_id in IDS:
        task = await queue.pop_task(0)
        assert task is not None and (task["task_id"], task["retry_count"]) == (task_id, 1)
        await queue.task_done(task_id)
        assert (await queue.get(task_id)).status is Status.COMPLETED
        assert await queue.push_task({"type": "t", "task_id": task_id}) == task_id
        assert await queue.cancel(task_id)
    with pytest.raises(NoOpenTask, match=r"\('job', 1\) was not popped here"):
        await queue.task_done(IDS[4])
    assert len(await queue.find()) == len(IDS)
    with pytest.raises(ValidationError, match=r"^task_id: list is not hashable, so it cannot be a key$"):
        await queue.push_task({"type": "t", "task_id": ["x"]})


async def test_memory_keeps_python_values_as_they_are() -> None:
    queue = MemoryQueue()
    value = object()
    await queue.push_task({"type": "t", "params": {"o": value, "s": {1}}})
    task = await queue.pop_task(0)
    assert task is not None and task["params"]["o"] is value


async def test_negative_pop_timeout_is_refused(queue: MemoryQueue) -> None:
    for wrong in (-1, float("nan"), "1", True):
        with pytest.raises(ValidationError, match="timeout: "):
            await queue.pop_task(wrong)  # type: ignore[arg-type]


async def test_visibility_timeout_counts_retries_then_fails(tmp_path: Path) -> None:
    clock = VirtualClock()
    backend = connect(f"sqlite:///{tmp_path}/v.db")
    queue = Queue(backend, clock, visibility=300)
    task_id = await queue.push_task({"type": "t", "max_retries": 2})
    for attempt in range(3):
        task = await queue.pop_task(0)
        assert task is not None and task["retry_count"] == attempt
        assert await queue.pop_task(0) is None
        clock.step(301)
        await _reap(queue, backend, clock)
        with pytest.raises(LeaseLost, match="visibility timeout"):
            await queue.task_done(task_id)
    last = await queue.get(task_id)
    assert (last.status, last.error_message) == (Status.FAILED, "not settled within its visibility timeout")
    await backend.close()


async def _reap(queue: Queue, backend: Any, clock: VirtualClock) -> None:
    from aiotaskq.runtime.worker.worker import Worker

    await Worker(queue, backend, clock, {})._reap()


async def test_a_reaper_leaves_what_its_own_worker_holds(tmp_path: Path) -> None:  # A6, A7
    clock = VirtualClock()
    backend = connect(f"sqlite:///{tmp_path}/v.db")
    queue = Queue(backend, clock)
    lost: list[str] = []
    queue.events.on("lost", lambda event: lost.append(event.task.task_id))
    ids = [await queue.push_task({"type": "t"}) for _ in range(3)]
    end = clock.now() + SECOND
    mine = [*await backend.claim("worker", clock.now(), 2, lease_until=end)]
    mine += await backend.claim("another", clock.now(), 1, lease_until=end)
    clock.step(2)  # longer than the leases: the heartbeat is late, or its answer is

    holds = {(mine[0].task_id, mine[0].fence), (mine[1].task_id, mine[1].fence + 1)}
    await queue.reaper.reap(owner="worker", holds=holds)
    found = [await queue.get(task_id) for task_id in ids]
    assert [task.status for task in found] == [Status.RUNNING, Status.PENDING, Status.PENDING]
    assert [task.crashes for task in found] == [0, 0, 1], "the second was never held: nobody crashed"
    assert lost == ids[1:]
    await backend.close()


async def test_unsettled_pops_in_memory_stay_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiotaskq.runtime.queue.unacked.MAX_OPEN", 100)
    queue = MemoryQueue()
    for _ in range(1000):
        await queue.push_task({"type": "t"})
        await queue.pop_task(0)
    await asyncio.sleep(0)
    assert len(queue._pops._open) == 100
    assert (await queue.stats()).counts["running"] <= 101


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


# ---- TaskQ.push ----


@pytest.fixture(params=["memory", "sqlite"])
async def tq(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/t.db"
    async with TaskQ(url, clock=VirtualClock()) as made:
        yield made


async def test_unique_and_idempotency_keys(tq: TaskQ) -> None:
    first = await tq.push("t", unique_key="u", idempotency_key="i")
    assert first.created
    for options in ({"unique_key": "u"}, {"idempotency_key": "i"}, {"unique_key": "u", "idempotency_key": "other"}):
        again = await tq.push("t", **options)  # type: ignore[arg-type]
        assert (again.task_id, again.created) == (first.task_id, False)
    both = await asyncio.gather(*[tq.push("t", unique_key="many") for _ in range(50)])
    assert len({handle.task_id for handle in both}) == 1 and sum(handle.created for handle in both) == 1
    await tq.cancel(first.task_id)
    assert (await tq.push("t", unique_key="u")).created  # A18: the lock is the live row itself
    assert not (await tq.push("t", idempotency_key="i")).created


async def test_retry_does_not_break_uniqueness(tq: TaskQ) -> None:
    first = await tq.push("t", unique_key="u")
    await tq.cancel(first.task_id)
    second = await tq.push("t", unique_key="u")
    with pytest.raises(TaskConflict, match="newer task holds its unique key"):
        await tq.retry(first.task_id)
    await tq.cancel(second.task_id)
    assert await (await tq.retry(first.task_id)).status() is Status.PENDING


async def test_delay_at_and_expiry(tq: TaskQ) -> None:  # B1
    clock: VirtualClock = tq._clock  # type: ignore[assignment]
    later = await tq.push("t", delay=60)
    dying = await tq.push("t", expires=30)
    assert await tq.queue.get_queue_size() == 1
    clock._now += 31 * SECOND
    assert await tq.queue.pop_task(0) is None
    await _reap(tq.queue, tq._backend, clock)
    assert await dying.status() is Status.EXPIRED
    clock._now += 29 * SECOND - 1
    assert await tq.queue.pop_task(0) is None
    clock._now += 1
    task = await tq.queue.pop_task(0)
    assert task is not None and task["task_id"] == later.task_id


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delay": -1}, "delay: must be at least 0 seconds"),
        ({"delay": float("inf")}, "delay: inf is not a number"),
        ({"delay": 1, "at": 5}, "delay, at: give one of the two"),
        ({"at": "soon"}, "at: epoch seconds or an aware datetime"),
        ({"unique_key": ""}, "unique_key: must not be empty"),
        ({"unique_key": "a\nb"}, "unique_key: control characters"),
        ({"queue": 4}, "queue: a string is needed"),
        ({"priority": 2**40}, "priority: 1099511627776 is not in"),
        ({"colour": "red"}, "push: unknown option colour; use delay"),
        ({"max_retries": 1.0}, "max_retries: an int is needed"),
    ],
)
async def test_bad_push_options(tq: TaskQ, options: dict[str, Any], message: str) -> None:  # I9
    with pytest.raises(ValidationError) as caught:
        await tq.push("t", {}, **options)
    assert str(caught.value).startswith(message)
    assert sum((await tq.stats()).counts.values()) == 0


async def test_unknown_handler_names_the_near_one(tq: TaskQ) -> None:
    @tq.task
    async def send_mail(to: str) -> None: ...

    with pytest.raises(
        UnknownHandler, match="no handler is registered for 'send_mial'; did you mean 'send_mail'\\?"
    ) as caught:
        await tq.push("send_mial")
    assert isinstance(caught.value, LookupError) and isinstance(caught.value, ValueError)
    tq.elsewhere("of.another.service")
    await tq.push("of.another.service")
    with pytest.raises(TypeError, match=r"send_mail\(\): missing a required argument: 'to'"):
        await send_mail.push()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected keyword argument 'cc'"):
        await send_mail.push(to="x", cc="y")  # type: ignore[call-arg]


async def test_push_many_is_all_or_none(tq: TaskQ) -> None:  # A15
    with pytest.raises(ValidationError):
        await tq.push_many([("t", {}), ("", {}), ("t", {})])
    with pytest.raises(ValidationError, match="push_many: each item"):
        await tq.push_many(["t"])  # type: ignore[list-item]
    assert sum((await tq.stats()).counts.values()) == 0
    handles = await tq.push_many([("t", {"n": 1}), {"type": "t", "params": {"n": 2}, "priority": -1}])
    assert [(await handle.task()).params["n"] for handle in handles] == [1, 2]
    assert await tq.push_many([]) == []
    popped = await tq.queue.pop_task(0)
    assert popped is not None and popped["params"]["n"] == 2


async def test_operators_verbs(tq: TaskQ) -> None:
    handles = [await tq.push("t", {"n": n}, queue="a" if n % 2 else "b") for n in range(6)]
    newest_first = [handle.task_id for handle in reversed(handles)]
    assert [task.task_id for task in await tq.find()] == newest_first
    page = await tq.find(limit=2)
    assert [t.task_id for t in await tq.find(limit=2, after=page[-1].task_id)] == newest_first[2:4]
    await tq.pause("a")
    assert (await tq.stats()).paused == ["a"]
    assert [(await tq.queue.pop_task(0))["params"]["n"] for _ in range(3)] == [0, 2, 4]  # type: ignore[index]
    assert await tq.queue.pop_task(0) is None
    await tq.resume("a")
    assert await tq.queue.get_queue_size() == 3
    assert await tq.cancel(handles[1].task_id) is True
    assert await tq.cancel(handles[1].task_id) is False
    with pytest.raises(TaskConflict, match="only failed, cancelled or expired"):
        await tq.retry(handles[3].task_id)
    for missing in (tq.get, tq.cancel, tq.retry):
        with pytest.raises(NotFound, match="there is no task nobody"):
            await missing("nobody")
    with pytest.raises(ValidationError, match="only ended tasks are purged, not running"):
        await tq.purge(status="running")
    with pytest.raises(ValidationError, match="status: 'done' is unknown; use pending"):
        await tq.find(status="done")
    for verb in (tq.purge, tq.find):
        with pytest.raises(ValidationError, match="status: an empty list names none"):
            await verb(status=[])
    with pytest.raises(NotFound):
        await tq.find(after="gone")
    with pytest.raises(ValidationError, match="params: a dict is needed"):
        await tq.push_many([{"type": "t", "params": []}])
    assert await tq.purge(status="cancelled", older_than=10) == 0
    assert await tq.purge(status=["cancelled", "failed"], type="t") == 1
    stats = await tq.stats()
    assert stats.counts == {"pending": 2, "running": 3, "completed": 0, "failed": 0, "cancelled": 0, "expired": 0}
    assert (stats.ready, stats.queues) == (2, {"a": {"pending": 2}, "b": {"running": 3}})
    assert stats.oldest_age == 0.0


async def test_result_waits_and_gives_up(tmp_path: Path) -> None:
    tq = TaskQ("memory://")
    handle = await tq.push("t")
    with pytest.raises(ResultTimeout, match=r"is pending after 0\.01 s"):
        await handle.result(0.01)
    with pytest.raises(TimeoutError):
        await handle.result(0)
    with pytest.raises(NotFound):
        await tq.handle("nobody").result(1)
    waiting = asyncio.create_task(handle.result())
    await asyncio.sleep(0)
    await handle.cancel()
    with pytest.raises(Exception, match="cancelled"):
        await waiting


async def test_illegal_transitions_raise(tq: TaskQ) -> None:
    from aiotaskq.core.outcome import Completed

    handle = await tq.push("t")
    with pytest.raises(IllegalTransition, match="is pending: Completed is not possible"):
        await tq.queue.settle(await handle.task(), Completed())
