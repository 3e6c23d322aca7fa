"""The documented queue on each store: ``task_done``, and a push of an id that is stored already."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from aiotaskq import TaskQ
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core.outcome import Cancelled, Completed, Expired, Failed, Outcome, Released
from aiotaskq.core.status import FINAL, Status
from aiotaskq.core.task import SECOND, Task, new_task
from aiotaskq.errors import TaskConflict, ValidationError
from aiotaskq.runtime.queue.queue import Queue
from tests.support.backends import Store
from tests.support.logs import logged
from tests.support.machine import within
from tests.support.rows import NOW

VISIBILITY = 300.0  # seconds


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(NOW)


@pytest.fixture
def queue(store: Store, clock: VirtualClock) -> Queue:
    return Queue(store.backend, clock, visibility=VISIBILITY)


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """What is logged as a warning."""
    with logged() as lines:
        yield lines


# ---- the guide's worker ---------------------------------------------------------------------------------------------


async def work(queue: Queue, handle: Callable[[dict[str, Any]], None]) -> list[str]:
    """Work as the guide's worker does until nothing is ready: ``task_done`` only after success."""
    errors = []
    while (task := await queue.pop_task(timeout=0)) is not None:
        try:
            handle(task)
            await queue.task_done()
        except ConnectionError as error:
            errors.append(f"{task['task_id']}: {error}")
    return errors


@pytest.mark.stores("durable_fake", "sqlite", "postgresql", "mysql", "redis")
async def test_the_guides_worker_under_failures(queue: Queue, clock: VirtualClock, warnings: list[str]) -> None:
    runs: list[tuple[str, int]] = []

    def handle(task: dict[str, Any]) -> None:
        runs.append((task["task_id"], task["retry_count"]))
        if task["type"] == "fails":
            raise ConnectionError("as told")

    await queue.push_task({"task_id": "A", "type": "fails", "max_retries": 2})
    await queue.push_task({"task_id": "B", "type": "works"})
    assert await work(queue, handle) == ["A: as told"]
    assert [(await queue.get(name)).status for name in "AB"] == [Status.RUNNING, Status.COMPLETED]
    assert warnings == ["fails A was popped and not settled; it comes back after its visibility timeout"]

    await clock.advance(VISIBILITY - 1)
    assert await work(queue, handle) == []  # it is still invisible
    for retry in (1, 2):
        await clock.advance(VISIBILITY)
        await queue.push_task({"task_id": f"later {retry}", "type": "works"})
        assert await work(queue, handle) == ["A: as told"]
        assert ((await queue.get("A")).status, (await queue.get("A")).retry_count) == (Status.RUNNING, retry)
    await clock.advance(VISIBILITY)
    assert await work(queue, handle) == []

    dead = await queue.get("A")
    assert (dead.status, dead.error_message) == (Status.FAILED, "not settled within its visibility timeout")
    assert runs == [("A", 0), ("B", 0), ("A", 1), ("later 1", 0), ("A", 2), ("later 2", 0)]
    assert (await queue.stats()).counts["completed"] == 3


# ---- an id that has ended is pushed again ---------------------------------------------------------------------------


async def end(queue: Queue, clock: VirtualClock, status: Status, task_id: str) -> Task:
    """Let a pending task come to its end, the longer way where there are two."""
    if status is Status.EXPIRED:
        assert await queue.settle(await queue.get(task_id), Expired()) is not None
    else:
        assert await queue.pop_task(0) is not None
        ends: dict[Status, Outcome] = {
            Status.COMPLETED: Completed({"sum": 1}),
            Status.FAILED: Failed("boom", retryable=False),
            Status.CANCELLED: Cancelled("by an operator"),
        }
        if status is Status.CANCELLED:
            assert await queue.cancel(task_id)
        assert await queue.settle(await queue.get(task_id), ends[status]) is not None
    await clock.advance(7)
    return await queue.get(task_id)


@pytest.mark.parametrize("status", sorted(FINAL))
async def test_a_pushed_id_that_has_ended_runs_again(queue: Queue, clock: VirtualClock, status: Status) -> None:
    first = {"task_id": "nightly", "type": "backup", "params": {"n": 1}, "own": "a", "timeout": 5, "max_retries": 9}
    await queue.push_task({**first, "scheduler_task_id": "s1"}, priority=4)
    ended = await end(queue, clock, status, "nightly")
    assert (ended.status, ended.fence) == (status, int(status is not Status.EXPIRED))

    second = {"task_id": "nightly", "type": "restore", "params": {"n": 2}, "more": [1], "scheduler_task_id": "s2"}
    assert await queue.push_task(second) == "nightly"
    row = await queue.get("nightly")
    assert row == Task(
        task_id="nightly",
        type="restore",
        params={"n": 2},
        extra={"more": [1]},
        scheduler_task_id="s2",
        created_at=clock.now() // SECOND,
        run_at=clock.now(),
        fence=ended.fence + 1,
        seq=row.seq,
    )
    assert row.seq > ended.seq
    assert await queue.backend.active(["s1", "s2"]) == {"s1": 0, "s2": 1}
    task = await queue.pop_task(0)
    assert task is not None and (task["type"], task["params"], task["more"]) == ("restore", {"n": 2}, [1])
    assert "own" not in task and "timeout" not in task
    await queue.task_done()
    again = await queue.get("nightly")
    assert (again.status, again.fence) == (Status.COMPLETED, row.fence + 1)
    assert (await queue.stats()).counts == {**dict.fromkeys(Status, 0), "completed": 1}


async def test_a_write_of_the_run_before_does_not_reach_the_one_that_runs_again(
    queue: Queue, clock: VirtualClock
) -> None:
    await queue.push_task({"task_id": "x", "type": "t"})
    assert await queue.pop_task(0) is not None
    zombie = await queue.get("x")
    assert await queue.settle(zombie, Failed("its worker was taken for dead", retryable=False)) is not None
    await queue.push_task({"task_id": "x", "type": "t"})
    assert await queue.settle(zombie, Completed("late")) is None
    assert await queue.pop_task(0) is not None
    assert await queue.settle(zombie, Completed("late")) is None
    assert (await queue.get("x")).status is Status.RUNNING


@pytest.mark.parametrize("then", ["pending", "running", "ended"])
async def test_a_repeated_push_of_an_id_that_ran_again_is_the_same_push(
    queue: Queue, clock: VirtualClock, then: str
) -> None:
    """The answer was lost, and the store's own layer sends the push once more."""
    await queue.push_task({"task_id": "x", "type": "t"})
    await end(queue, clock, Status.COMPLETED, "x")
    await queue.push_task({"task_id": "x", "type": "t", "params": {"n": 2}})
    again = await queue.get("x")
    if then != "pending":
        await queue.pop_task(0)
    if then == "ended":
        await queue.task_done()
    row = await queue.get("x")
    (stored,) = await queue.add([again])
    assert stored is again
    assert await queue.get("x") == row


async def test_two_concurrent_pushes_of_an_ended_id_give_one_run(queue: Queue, clock: VirtualClock) -> None:
    await queue.push_task({"task_id": "x", "type": "t"})
    await end(queue, clock, Status.COMPLETED, "x")
    assert await asyncio.gather(*(queue.push_task({"task_id": "x", "type": "t"}) for _ in range(10))) == ["x"] * 10
    assert await queue.pop_task(0) is not None
    assert await queue.pop_task(0) is None


async def test_an_ended_id_does_not_come_back_beside_a_newer_task_with_its_unique_key(
    queue: Queue, clock: VirtualClock
) -> None:
    await queue.add([new_task("t", task_id="old", unique_key="u", now=clock.now())])
    ended = await end(queue, clock, Status.FAILED, "old")
    (newer,) = await queue.add([new_task("t", unique_key="u", now=clock.now())])
    with pytest.raises(TaskConflict, match=r"^task_id: a newer task holds the unique key of old$"):
        await queue.push_task({"task_id": "old", "type": "t"})
    assert await queue.get("old") == ended
    assert await queue.cancel(newer.task_id)
    await queue.push_task({"task_id": "old", "type": "t"})
    assert ((await queue.get("old")).status, (await queue.get("old")).unique_key) == (Status.PENDING, "u")
    assert [row.task_id for row in await queue.add([new_task("t", unique_key="u", now=clock.now())])] == ["old"]


async def test_a_running_id_that_is_pushed_again_has_no_expiry_of_before(queue: Queue, clock: VirtualClock) -> None:
    expires_at = clock.now() + 10 * SECOND
    await queue.add([new_task("t", task_id="x", expires_at=expires_at, now=clock.now())])
    assert await queue.pop_task(0) is not None
    await clock.advance(20)
    await queue.push_task({"task_id": "x", "type": "t", "params": {"n": 2}})
    await queue.reaper.reap()
    row = await queue.get("x")
    assert (row.status, row.expires_at) == (Status.PENDING, None)
    again = await queue.pop_task(0)
    assert again is not None and again["params"] == {"n": 2}
    await queue.task_done()
    assert (await queue.get("x")).status is Status.COMPLETED


# ---- the retry recipe -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settles", ["first", "in finally", "after success"])
async def test_the_guides_retry_recipe(queue: Queue, settles: str) -> None:
    """``task["retry_count"] += 1; push_task(task)``, wherever the worker calls ``task_done``."""
    await queue.push_task({"task_id": "flaky", "type": "t", "max_retries": 2})
    await queue.push_task({"task_id": "sound", "type": "t"}, priority=5)
    runs = []
    while (task := await queue.pop_task(timeout=0)) is not None:
        if settles == "first":
            await queue.task_done()
        try:
            runs.append((task["task_id"], task["retry_count"]))
            if task["task_id"] == "flaky":
                raise ConnectionError
        except ConnectionError:
            if task["retry_count"] < task["max_retries"]:
                task["retry_count"] += 1
                await queue.push_task(task)
        else:
            if settles == "after success":
                await queue.task_done()
        finally:
            if settles == "in finally":
                await queue.task_done()
    assert runs == [("flaky", 0), ("flaky", 1), ("flaky", 2), ("sound", 0)]
    left = Status.RUNNING if settles == "after success" else Status.COMPLETED
    assert [(await queue.get(name)).status for name in ("flaky", "sound")] == [left, Status.COMPLETED]


# ---- what is the caller's, and what the worker's ------------------------------------------------------------------


async def test_the_params_of_caller_store_and_worker_are_apart(queue: Queue) -> None:
    params = {"step": 1}
    for number in range(2):
        task = {"task_id": str(number), "type": "t", "params": params}
        await queue.push_task(task if number else {**task, "mine": 1})
        params["step"] += 1
    for number in range(2):
        popped = await queue.pop_task(timeout=0)
        assert popped is not None and popped["params"] == {"step": number + 1}
        popped["params"]["step"] = "of the worker"
        assert (await queue.get(str(number))).params == {"step": number + 1}
    assert params == {"step": 3}


@pytest.mark.parametrize("wrong", [["x"], {}, {1}, bytearray(b"x")], ids=["list", "dict", "set", "bytearray"])
async def test_what_cannot_be_an_id_is_refused_alike_on_each_store(queue: Queue, wrong: Any) -> None:
    await queue.push_task({"type": "t"})
    await queue.pop_task(timeout=0)
    for verb in (queue.get, queue.cancel, queue.retry, queue.delete, queue.task_done):
        with pytest.raises(ValidationError, match=r"^task_id: "):
            await verb(wrong)
    await queue.task_done()  # it is still open


# ---- the modern front -----------------------------------------------------------------------------------------------


@pytest.fixture
async def tq(store: Store, clock: VirtualClock) -> AsyncIterator[TaskQ]:
    async with TaskQ(store.url, clock=clock) as made:
        yield made


@pytest.mark.parametrize("status", sorted(FINAL))
async def test_an_ended_id_is_refused_or_runs_again(tq: TaskQ, clock: VirtualClock, status: Status) -> None:
    pushed: list[str] = []
    tq.on("pushed", lambda event: pushed.append(event.task.task_id))
    assert (await tq.push("t", {"n": 1}, task_id="x")).created
    for _ in range(2):  # pending, and then running
        assert not (await tq.push("t", {"n": 1}, task_id="x", if_ended="retry")).created
        await tq.queue.pop_task(0)
    await tq.queue.settle(await tq.get("x"), Released("so that it can end in any way"))
    ended = await end(tq.queue, clock, status, "x")
    with pytest.raises(TaskConflict, match=f"^task_id: x is {status}; use another id, or if_ended='retry'$"):
        await tq.push("t", {"n": 1}, task_id="x")
    assert await tq.get("x") == ended

    handle = await tq.push(
        "u", {"n": 2}, task_id="x", if_ended="retry", on_failure="mail", delay=60, expires=90, timeout=3
    )
    now, row = clock.now(), await handle.task()
    assert (handle.task_id, handle.created) == ("x", True)
    assert row == Task(
        task_id="x",
        type="u",
        params={"n": 2},
        created_at=now // SECOND,
        run_at=now + 60 * SECOND,
        expires_at=now + 150 * SECOND,
        timeout=3.0,
        on_failure="mail",
        fence=ended.fence + 1,
        seq=row.seq,
    )
    assert pushed == ["x", "x"]
    assert await tq.queue.pop_task(0) is None
    await clock.advance(60)
    task = await tq.queue.pop_task(0)
    assert task is not None and task["params"] == {"n": 2}


async def test_many_are_pushed_or_none_where_one_has_ended(tq: TaskQ, clock: VirtualClock) -> None:
    await tq.push("t", task_id="old")
    await end(tq.queue, clock, Status.COMPLETED, "old")
    calls: list[Any] = [("t", {}), {"type": "t", "task_id": "old"}, {"type": "t", "task_id": "new"}]
    with pytest.raises(TaskConflict, match="old is completed"):
        await tq.push_many(calls)
    assert (await tq.stats()).counts == {**dict.fromkeys(Status, 0), "completed": 1}
    calls[1]["if_ended"] = "retry"
    handles = await tq.push_many([*calls, *calls[1:]])
    assert [handle.created for handle in handles] == [True, True, True, False, False]
    assert (await tq.stats()).counts == {**dict.fromkeys(Status, 0), "pending": 3}


async def test_keys_and_an_id_that_has_ended(tq: TaskQ, clock: VirtualClock) -> None:
    keys: Any = {"task_id": "x", "unique_key": "u", "idempotency_key": "i"}
    await tq.push("t", **keys)
    ended = await end(tq.queue, clock, Status.COMPLETED, "x")
    assert not (await tq.push("t", **keys)).created  # its idempotency key says that it is the same push
    for other in ({"unique_key": "v"}, {"idempotency_key": "j"}):
        (key,) = other
        with pytest.raises(TaskConflict, match=f"^{key}: x was pushed with another one"):
            await tq.push("t", **{**keys, **other, "if_ended": "retry"})
        with pytest.raises(TaskConflict, match=f"^{key}: x was pushed with another one"):
            await tq.push_many([("t", {}), {"type": "t", **keys, **other, "if_ended": "retry"}])
    assert await tq.get("x") == ended
    assert (await tq.stats()).counts["pending"] == 0
    assert (await tq.push("t", **keys, if_ended="retry")).created
    assert ((await tq.get("x")).unique_key, (await tq.get("x")).idempotency_key) == ("u", "i")


async def test_if_ended_is_checked(tq: TaskQ) -> None:
    with pytest.raises(ValidationError, match=r"^if_ended: it is about an id that has ended; give its task_id, too"):
        await tq.push("t", if_ended="retry")
    with pytest.raises(ValidationError, match=r"^if_ended: 'yes' is unknown; use 'retry', or leave it out"):
        await tq.push("t", task_id="x", if_ended="yes")  # type: ignore[typeddict-item]
    assert (await tq.push("t", task_id="x", if_ended="retry")).created


@pytest.mark.stores("sqlite", "postgresql", "mysql")
@pytest.mark.parametrize("ending", ["commit", "rollback"])
async def test_an_id_runs_again_in_the_callers_transaction(
    store: Store, tq: TaskQ, clock: VirtualClock, ending: str
) -> None:
    await tq.push("t", task_id="x")
    ended = await end(tq.queue, clock, Status.COMPLETED, "x")
    pushed = asyncio.Event()
    tq.on("pushed", lambda event: pushed.set())
    engine = create_async_engine(store.place)
    async with AsyncSession(engine) as session:
        with pytest.raises(TaskConflict, match="x is completed"):
            await tq.push("t", task_id="x", session=session)
        assert (await tq.push("t", task_id="x", session=session, if_ended="retry")).created
        assert not (await tq.push("t", task_id="x", session=session, if_ended="retry")).created
        assert await tq.get("x") == ended
        assert not pushed.is_set()
        await (session.commit() if ending == "commit" else session.rollback())
    await engine.dispose()
    assert (await tq.get("x")).status is (Status.PENDING if ending == "commit" else Status.COMPLETED)
    if ending == "commit":
        async with asyncio.timeout(within(30)):
            await pushed.wait()
