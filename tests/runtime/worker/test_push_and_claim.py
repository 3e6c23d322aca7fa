"""A push claims for the free slots of a worker in its own process."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import os
import sqlite3
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from aiotaskq import Rate, TaskQ
from aiotaskq.backends.base import Backend
from aiotaskq.backends.listeners import READY, TAKEN
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core.status import Status
from aiotaskq.core.task import Task, new_task
from tests.runtime.worker.workers import asleep, started, until_counts
from tests.support.machine import within
from tests.support.waiting import eventually


class Counted:
    """How often each verb of a backend is called."""

    def __init__(self, backend: Backend, *verbs: str) -> None:
        self.calls: Counter[str] = Counter()
        for verb in verbs:
            setattr(backend, verb, functools.partial(self._call, verb, getattr(backend, verb)))

    async def _call(self, verb: str, real: Any, *args: Any, **options: Any) -> Any:
        self.calls[verb] += 1
        return await real(*args, **options)


async def test_a_push_brings_its_task_to_a_free_slot(tmp_path: Path) -> None:
    tq = TaskQ(f"sqlite:///{tmp_path}/x.db", poll_interval=3600, reap_interval=3600)
    calls: list[str] = []
    for name in ("pushed", "started", "completed"):
        tq.on(name, lambda event: calls.append(event.name))

    @tq.task
    async def work() -> None: ...

    async with asleep(tq, concurrency=2, scheduler=False):
        counted = Counted(tq.queue.backend, "push", "push_and_claim", "claim")
        handle = await work.push()
        assert await handle.result(within(30)) is None
        assert counted.calls == {"push_and_claim": 1}, "no claim of its own"
        await eventually(lambda: len(calls) == 3)  # the row may be seen before the listeners are called
    assert calls == ["pushed", "started", "completed"]


async def test_a_push_of_a_process_that_stood_still_waits_for_the_sweep_of_the_gates(tmp_path: Path) -> None:
    clock, release, calls = VirtualClock(), asyncio.Event(), list[int]()
    tq = TaskQ(f"sqlite:///{tmp_path}/x.db", clock=clock)

    @tq.task
    async def hold() -> None:
        await release.wait()

    @tq.task(rate=Rate(1, per=1, burst=2))
    async def call(number: int) -> None:
        calls.append(number)

    async with started(tq, concurrency=2):
        await tq.push_many([hold.call(), hold.call()])
        await eventually(lambda: tq.worker is not None and len(tq.worker.tasks) == 2)
        await tq.push_many([call.call(number=number) for number in range(6)])
        await eventually(lambda: tq.queue.limit_sweep.next_at is not None)
        clock._now += 10_000_000  # no timer of this process has rung meanwhile
        release.set()
        await tq.push_many([hold.call(), hold.call()])
        await until_counts(tq, pending=4, running=0)
    assert calls == [0, 1]


async def test_a_schedule_brings_its_task_to_a_free_slot(tmp_path: Path) -> None:
    tq = TaskQ(f"sqlite:///{tmp_path}/x.db", poll_interval=3600, reap_interval=3600)
    calls: list[str] = []
    for name in ("pushed", "fired", "started", "completed"):
        tq.on(name, lambda event: calls.append(event.name))

    @tq.task
    async def work() -> None: ...

    async with asleep(tq, concurrency=2):
        counted = Counted(tq.queue.backend, "push", "fire_and_claim", "claim")
        await tq.schedules.add("s", "work", at=1)
        await eventually(lambda: len(calls) == 4)
        assert counted.calls == {"fire_and_claim": 1}, "no claim of its own"
    assert calls == ["pushed", "fired", "started", "completed"]


async def test_the_pushes_of_one_producer_need_no_other_transaction(tmp_path: Path) -> None:
    """Each writes what came of the tasks before it, and claims, also once a round was under way beside one of them."""
    tq = TaskQ(f"sqlite:///{tmp_path}/x.db", poll_interval=3600, reap_interval=3600)
    backend = tq.queue.backend
    real, begun, go = backend.claim, asyncio.Event(), asyncio.Event()

    async def slowly(*args: Any, **options: Any) -> Any:
        begun.set()
        await go.wait()
        return await real(*args, **options)

    @tq.task
    async def work() -> None: ...

    async with asleep(tq, concurrency=10, scheduler=False):
        counted = Counted(backend, "push", "push_and_claim", "exchange")
        backend.claim = slowly  # type: ignore[method-assign]
        backend.listeners.notify(READY)
        async with asyncio.timeout(within(30)):
            await begun.wait()
        handles = [await work.push()]
        go.set()
        handles += [await work.push() for _ in range(39)]
        for handle in handles:
            assert await handle.result(within(30)) is None
    assert counted.calls["push_and_claim"] == 40
    assert counted.calls.total() < 60, counted.calls


async def test_tasks_beyond_the_slots_wait(tmp_path: Path) -> None:
    tq = TaskQ(f"sqlite:///{tmp_path}/x.db", poll_interval=3600, reap_interval=3600)
    go = asyncio.Event()

    @tq.task
    async def work() -> None:
        await go.wait()

    async with tq.running(concurrency=2, scheduler=False):
        await until_counts(tq, running=0)
        for _ in range(3):
            await tq.push_many([work.call(), work.call()])
        await until_counts(tq, running=2, pending=4)
        go.set()
        await until_counts(tq, completed=6)


async def test_a_worker_that_stops_or_has_stopped_takes_nothing_more(tmp_path: Path) -> None:
    tq = TaskQ(f"sqlite:///{tmp_path}/x.db", poll_interval=3600, reap_interval=3600)
    begun, go = asyncio.Event(), asyncio.Event()
    real = tq.queue.backend.push_and_claim

    async def slowly(*args: Any, **options: Any) -> Any:
        answer = await real(*args, **options)
        begun.set()
        await go.wait()
        return answer

    tq.queue.backend.push_and_claim = slowly  # type: ignore[method-assign]

    @tq.task
    async def work() -> None: ...

    async with tq:
        async with asleep(tq, concurrency=2, scheduler=False):
            pushing = asyncio.create_task(work.push())
            async with asyncio.timeout(within(30)):
                await begun.wait()  # committed and claimed: it has to be given back by a worker that stops
            asyncio.get_running_loop().call_later(0.1, go.set)
        handle = await pushing
        assert tq.queue.takers == []
        task = await tq.get(handle.task_id)
        assert (task.status, task.fence, task.retry_count) == (Status.PENDING, 1, 0)
        await work.push()
        assert (await tq.stats()).counts["pending"] == 2


async def test_a_push_that_fails_leaves_the_slots_to_others(tmp_path: Path) -> None:
    tq = TaskQ(f"sqlite:///{tmp_path}/x.db", poll_interval=3600, reap_interval=3600)

    def failing(real: Any) -> Any:
        async def push(tasks: Sequence[Task], *args: Any, **options: Any) -> Any:
            if any(task.params.get("bad") for task in tasks):
                raise ValueError("on purpose")
            return await real(tasks, *args, **options)

        return push

    for verb in ("push", "push_and_claim"):
        setattr(tq.queue.backend, verb, failing(getattr(tq.queue.backend, verb)))

    @tq.task
    async def work(bad: bool = False) -> int:
        return 1

    async with asleep(tq, concurrency=1, scheduler=False):
        good, bad, another = await asyncio.gather(work.push(), work.push(bad=True), work.push(), return_exceptions=True)
        assert isinstance(bad, ValueError)
        for handle in (good, another):
            assert not isinstance(handle, BaseException)
            assert await handle.result(within(30)) == 1
        assert await (await work.push()).result(within(30)) == 1


async def test_listeners_of_a_push_run_in_the_context_of_its_caller(tmp_path: Path) -> None:
    tq = TaskQ(f"sqlite:///{tmp_path}/x.db", poll_interval=3600, reap_interval=3600)
    caller: contextvars.ContextVar[int] = contextvars.ContextVar("caller")
    calls: list[tuple[int, int]] = []
    tq.on("pushed", lambda event: calls.append((event.task.params["n"], caller.get())))

    @tq.task
    async def work(n: int) -> None: ...

    async def push(n: int) -> None:
        caller.set(n)
        await work.push(n=n)

    async with tq.running(concurrency=2, scheduler=False):
        await until_counts(tq, running=0)
        await asyncio.gather(*(asyncio.create_task(push(n)) for n in range(3)))
        await until_counts(tq, completed=3)
    assert calls == [(0, 0), (1, 1), (2, 2)]


def held_lock(path: Path) -> sqlite3.Connection:
    """Another program that writes."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=30)
    connection.execute("BEGIN IMMEDIATE")
    return connection


async def test_a_task_that_becomes_due_while_slots_are_reserved_is_claimed(tmp_path: Path) -> None:
    """A round in that time has no room: it must not sleep on a hint, nor over a time that has come."""
    tq = TaskQ(f"sqlite:///{tmp_path}/x.db", poll_interval=3600, reap_interval=3600)
    ran: list[str] = []
    go = asyncio.Event()

    @tq.task
    async def work(name: str) -> None:
        ran.append(name)
        if name == "pushed":
            await go.wait()  # its end would bring a round as well

    async with asleep(tq, concurrency=4, scheduler=False):
        await tq.push("work", {"name": "due"}, delay=0.15)
        await asyncio.sleep(0.05)
        lock = held_lock(tmp_path / "x.db")
        pushing = asyncio.create_task(tq.push("work", {"name": "pushed"}))
        await asyncio.sleep(0.2)  # the other's time comes while this one waits for the lock
        lock.execute("ROLLBACK")
        await pushing
        async with asyncio.timeout(within(10)):
            await eventually(lambda: sorted(ran) == ["due", "pushed"])
        go.set()
        lock.close()


@pytest.mark.parametrize("late", [0.0, 0.3])
async def test_a_push_that_ends_after_the_worker_has_stopped_is_given_back(tmp_path: Path, late: float) -> None:
    tq = TaskQ(f"sqlite:///{tmp_path}/x.db", poll_interval=3600, reap_interval=3600)

    @tq.task
    async def work() -> None: ...

    async with tq:
        async with asleep(tq, concurrency=4, scheduler=False, drain=0.01, grace=0.01):
            lock = held_lock(tmp_path / "x.db")
            pushing = asyncio.create_task(work.push())
            await asyncio.sleep(0.05)
            asyncio.get_running_loop().call_later(1.3 + late, lock.execute, "ROLLBACK")
        handle = await pushing
        async with asyncio.timeout(within(30)):
            while await handle.status() is not Status.PENDING:
                await asyncio.sleep(0.01)
        assert (await tq.get(handle.task_id)).crashes == 0
        lock.close()


def test_only_a_worker_in_the_running_loop_claims_with_a_push(tmp_path: Path) -> None:  # E1
    tq = TaskQ(f"sqlite:///{tmp_path}/x.db", poll_interval=0.05)

    @tq.task
    async def work() -> int:
        return 1

    async def main() -> None:
        async with tq.running(concurrency=2, scheduler=False):
            await until_counts(tq, running=0)
            await eventually(lambda: [taker.wants for taker in tq.queue.takers] == [True])
            child = os.fork()  # as multiprocessing does; what is in our objects is not the child's
            if not child:
                try:
                    asyncio.run(tq.push("work", {}, task_id="of the child"))
                    os._exit(0)
                finally:
                    os._exit(1)
            assert os.waitstatus_to_exitcode((await asyncio.to_thread(os.waitpid, child, 0))[1]) == 0
            async with asyncio.timeout(within(30)):
                while (task := await tq.get("of the child")).status is not Status.COMPLETED:
                    await asyncio.sleep(0.02)
            assert (task.fence, task.crashes) == (1, 0)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: a fork beside threads
        asyncio.run(main())


async def test_a_claim_from_a_bounded_queue_wakes_waiting_pushes(tmp_path: Path) -> None:
    tq = TaskQ(f"sqlite:///{tmp_path}/x.db", poll_interval=3600, reap_interval=3600, maxsize=1)
    calls: list[str] = []
    tq.queue.backend.listeners.listen(lambda kind, _names: calls.append(kind))

    @tq.task
    async def work() -> None: ...

    async with asleep(tq, concurrency=2, scheduler=False):
        calls.clear()
        for _ in range(3):
            await (await work.push()).result(within(30))
        assert TAKEN in calls


async def test_a_push_writes_the_outcomes_that_came_during_the_push_before_it(tmp_path: Path) -> None:
    tq = TaskQ(f"sqlite:///{tmp_path}/x.db", poll_interval=3600, reap_interval=3600)

    @tq.task
    async def work() -> None: ...

    async with asleep(tq, concurrency=2, scheduler=False):
        counted = Counted(tq.queue.backend, "push", "push_and_claim", "exchange")
        handles = [await work.push() for _ in range(20)]
        for handle in handles:
            await handle.result(within(30))
    assert counted.calls["push_and_claim"] == 20 and counted.calls["exchange"] <= 10, "a transaction for most tasks"


async def test_an_outcome_that_cannot_be_written_fails_no_push(tmp_path: Path) -> None:
    tq = TaskQ(f"sqlite:///{tmp_path}/x.db", poll_interval=3600, reap_interval=3600)
    real, refused = tq.queue.backend.push_and_claim, 0

    async def push(tasks: Sequence[Task], wanted: Any, ended: Sequence[Any] = ()) -> Any:
        nonlocal refused
        if ended:
            refused += 1
            raise ValueError("on purpose")
        return await real(tasks, wanted, ended)

    tq.queue.backend.push_and_claim = push  # type: ignore[method-assign]

    @tq.task
    async def work() -> int:
        return 1

    async with asleep(tq, concurrency=2, scheduler=False):
        handles = [await work.push() for _ in range(20)]
        assert [await handle.result(within(30)) for handle in handles] == [1] * 20
    assert refused


async def test_an_outcome_that_a_push_could_not_write_is_left_to_a_round(tmp_path: Path) -> None:
    """Else each push of a producer that never pauses would take it, and be refused again."""
    tq = TaskQ(f"sqlite:///{tmp_path}/x.db", poll_interval=3600, reap_interval=3600)
    real, refused = tq.queue.backend.push_and_claim, 0

    async def push(tasks: Sequence[Task], wanted: Any, ended: Sequence[Any] = ()) -> Any:
        nonlocal refused
        stored, _, claimed = await real(tasks, wanted)
        refused += bool(ended)
        return stored, [False] * len(ended), claimed

    tq.queue.backend.push_and_claim = push  # type: ignore[method-assign]

    @tq.task
    async def work() -> None: ...

    async with asleep(tq, concurrency=2, scheduler=False):
        handle = await work.push()
        for _ in range(20):
            await tq.push("work", {}, delay=3600)
        assert refused == 1
        assert await handle.status() is Status.COMPLETED


async def test_what_a_push_has_written_is_told_after_its_caller_was_cancelled(tmp_path: Path) -> None:
    tq = TaskQ(f"sqlite:///{tmp_path}/x.db", poll_interval=3600, reap_interval=3600)
    real, begun, go, ends = tq.queue.backend.push_and_claim, 0, asyncio.Event(), asyncio.Event()
    calls: list[tuple[str, str]] = []
    tq.on("failed", lambda event: calls.append((event.name, event.task.type)))

    async def slowly(*args: Any) -> Any:
        nonlocal begun
        answer = await real(*args)
        begun += 1
        await go.wait()
        return answer

    @tq.task(max_retries=0)
    async def fail() -> None:
        await ends.wait()
        raise ValueError("on purpose")

    @tq.task
    async def work() -> None: ...

    async with tq.running(concurrency=4, scheduler=False):
        await eventually(lambda: any(taker.wants for taker in tq.queue.takers))
        failing = await fail.push()
        await until_counts(tq, running=1)
        tq.queue.backend.push_and_claim = slowly  # type: ignore[method-assign]
        (taker,) = tq.queue.takers
        tasks = [new_task("work", {}, now=tq.queue.clock.now()) for _ in range(2)]
        pushes = [asyncio.create_task(taker.push(tasks[:1]))]
        await eventually(lambda: begun == 1)
        ends.set()
        await eventually(lambda: not tq.worker.tasks)  # type: ignore[union-attr]
        pushes.append(asyncio.create_task(taker.push(tasks[1:])))  # with the outcome
        await eventually(lambda: begun == 2)
        pushes[1].cancel()
        await asyncio.wait(pushes[1:])
        go.set()
        await until_counts(tq, completed=2, failed=1)
        assert await failing.status() is Status.FAILED
        await eventually(lambda: calls == [("failed", "fail")])
