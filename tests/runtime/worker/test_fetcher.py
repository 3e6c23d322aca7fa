"""Claiming ahead, writing behind, and timeouts on one timer: what makes workers quick must cost nobody anything."""

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
from hypothesis import given
from hypothesis import strategies as st

from aiotaskq import TaskQ
from aiotaskq.backends.base import TAKEN, Backend, Change
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.concurrency.deadlines import Deadlines
from aiotaskq.core.task import SECOND, Status, Task
from aiotaskq.errors import DatabaseUnavailable
from aiotaskq.runtime.queue.claims import Claims
from aiotaskq.runtime.worker.prefetch import HORIZON, MOST, Prefetch
from aiotaskq.runtime.worker.worker import ExitCode
from tests.support.machine import within

# ---- how far ahead ----


def test_nothing_is_claimed_ahead_until_tasks_are_known_to_be_quick() -> None:  # H4
    pace = Prefetch()
    assert pace.ahead == 0
    for _ in range(100):
        pace.took(30)
    assert pace.ahead == MOST


def test_one_slow_task_ends_it() -> None:  # H4
    pace = Prefetch()
    for _ in range(200):
        pace.took(30)
    pace.took(SECOND)
    assert pace.ahead == 0
    for _ in range(200):
        pace.took(30)
    assert pace.ahead == MOST
    pace.stalled()
    assert pace.ahead == 0


@given(st.lists(st.integers(0, 3600 * SECOND), min_size=1))
def test_no_task_waits_longer_than_the_horizon_for_those_claimed_before_it(durations: list[int]) -> None:
    pace = Prefetch()
    for duration in durations:
        pace.took(duration)
    assert 0 <= pace.ahead <= MOST
    if min(durations) > HORIZON:
        assert pace.ahead == 0


async def test_slow_tasks_are_claimed_for_free_slots_only() -> None:  # H4
    tq = TaskQ("memory://")
    started: list[int] = []
    go = asyncio.Event()

    @tq.task
    async def slow(number: int) -> None:
        started.append(number)
        await go.wait()

    async with tq.running(concurrency=2):
        for number in range(5):
            await slow.push(number=number)
        await until(lambda: len(started) == 2)
        assert (await tq.stats()).counts["running"] == 2
        go.set()
        await until_counts(tq, completed=5)


async def test_what_waits_behind_a_task_that_became_slow_goes_back() -> None:  # H4
    clock = VirtualClock()
    tq = TaskQ("memory://", clock=clock)
    go = asyncio.Event()

    @tq.task
    async def work(slow: bool = False) -> None:
        if slow:
            await go.wait()

    async with tq.running(concurrency=1, scheduler=False):
        await tq.push_many([work.call() for _ in range(300)])
        await until_counts(tq, completed=300)
        await tq.push_many([work.call(slow=True), *(work.call() for _ in range(100))])
        await clock.settle()
        assert (await tq.stats()).counts["running"] > 1, "claimed ahead, as they were all quick"
        await clock.advance(0.6)
        assert (await tq.stats()).counts["running"] == 1, "another process may have them"
        go.set()
        await until_counts(tq, completed=401)


async def test_what_waits_behind_many_that_became_slower_goes_back() -> None:  # H4
    clock = VirtualClock()
    tq = TaskQ("memory://", clock=clock)

    @tq.task
    async def work(seconds: float = 0) -> None:
        if seconds:
            await clock.sleep(seconds)

    async with tq.running(concurrency=1, scheduler=False):
        await tq.push_many([work.call() for _ in range(300)])
        await until_counts(tq, completed=300)
        await tq.push_many([work.call(seconds=0.2) for _ in range(100)])
        await clock.settle()
        assert (await tq.stats()).counts["running"] > 1, "claimed ahead, as they were all quick"
        await clock.advance(0.7)  # a slot becomes free every 0.2 s, so nothing ever stands still
        counts = (await tq.stats()).counts
        assert (counts["running"], counts["completed"]) == (1, 303), "another process may have the others"
        await clock.advance(100 * 0.2)
        await until_counts(tq, completed=400)


# ---- writing behind ----


async def test_quick_tasks_are_written_by_the_hundred(monkeypatch: pytest.MonkeyPatch) -> None:
    async with TaskQ("memory://") as tq:
        count, written = 4_000, asyncio.Event()

        @tq.task
        async def quick(left: int) -> None:
            if not left:
                written.set()

        await tq.push_many([("quick", {"left": count - number - 1}) for number in range(count)])
        exchanges = 0
        exchange = Claims.exchange

        async def counted(*args: Any, **options: Any) -> Any:
            nonlocal exchanges
            exchanges += 1
            return await exchange(*args, **options)

        monkeypatch.setattr(Claims, "exchange", counted)
        async with tq.running(concurrency=10):
            await written.wait()
    # One for each 500 at best; a slow machine claims less ahead. One for each turn of the loop would be 200.
    assert exchanges <= 80


async def test_a_store_that_is_away_is_not_asked_by_each_task_that_ends() -> None:  # A17
    clock = VirtualClock()
    tq = TaskQ("memory://", clock=clock)
    tries = 0

    async def away(*_args: Any, **_options: Any) -> Any:
        nonlocal tries
        tries += 1
        raise DatabaseUnavailable("away")

    @tq.task
    async def work(seconds: float) -> None:
        await clock.sleep(seconds)

    async with tq.running(concurrency=200, scheduler=False):
        await tq.push_many([work.call(seconds=number / 20) for number in range(1, 201)])
        await clock.settle()
        tq._backend.exchange = away  # type: ignore[method-assign]
        await clock.advance(10.0)
        del tq._backend.exchange  # type: ignore[method-assign]
        await clock.advance(4.0)
        assert (await tq.stats()).counts["completed"] == 200
    assert 3 <= tries < 20, "one after the other by the back-off, not one for each"


@pytest.mark.parametrize("back", ["before the stop", "in the drain"])
async def test_a_stop_asks_a_store_that_was_away_at_once(monkeypatch: pytest.MonkeyPatch, back: str) -> None:  # A17
    monkeypatch.setattr(
        "aiotaskq.concurrency.poller.random.uniform", lambda _low, high: high
    )  # tries every 4 s in the end
    clock = VirtualClock()
    tq = TaskQ("memory://", clock=clock)

    async def away(*_args: Any, **_options: Any) -> Any:
        raise DatabaseUnavailable("away")

    @tq.task
    async def work(seconds: float) -> None:
        await clock.sleep(seconds)

    async with tq.running(concurrency=3, scheduler=False):
        await tq.push_many([work.call(seconds=seconds) for seconds in (1.0, 20.5, 60.0)])
        await clock.settle()
        tq._backend.exchange = away  # type: ignore[method-assign]
        await clock.advance(20.0)
        if back == "before the stop":
            del tq._backend.exchange  # type: ignore[method-assign]
        assert tq.worker is not None
        stopping = asyncio.create_task(tq.worker.stop(drain=1.0, grace=1.0))
        await clock.advance(0.7)
        if back == "in the drain":
            del tq._backend.exchange  # type: ignore[method-assign]
        await clock.advance(3.0)
        code, counts = await stopping, (await tq.stats()).counts
    assert (code, counts["completed"], counts["pending"]) == (ExitCode.GIVEN_BACK, 2, 1)


async def test_an_error_of_one_outcome_fails_no_other(tmp_path: Path) -> None:
    tq = TaskQ(f"sqlite:///{tmp_path}/x.db", poll_interval=0.05)
    exchange, update = tq._backend.exchange, tq.queue._updates._write

    def check(changes: Sequence[Change]) -> None:
        if any(change.before.params["number"] == 7 for change in changes):
            raise ValueError("cannot be written")

    async def exchanging(changes: Any, *args: Any, **options: Any) -> Any:
        check(changes)
        return await exchange(changes, *args, **options)

    async def updating(changes: Any) -> Any:
        check(changes)
        return await update(changes)

    tq._backend.exchange = exchanging  # type: ignore[method-assign]
    tq.queue._updates._write = updating

    @tq.task
    async def work(number: int) -> int:
        return number

    async with tq.running(concurrency=5):
        handles = await tq.push_many([("work", {"number": number}) for number in range(20)])
        await until_counts(tq, completed=19)
        assert await handles[7].status() is Status.RUNNING, "it comes back when its lease ends"


@pytest.mark.parametrize("committed", [False, True])
async def test_an_answer_that_was_lost_is_asked_for_again(tmp_path: Path, committed: bool) -> None:  # A20, G-5
    tq = TaskQ(f"sqlite:///{tmp_path}/x.db", poll_interval=0.05)
    exchange = tq._backend.exchange
    cuts = 2
    told: list[str] = []
    runs: list[int] = []

    async def cut(changes: Any, *args: Any, **options: Any) -> Any:
        nonlocal cuts
        answer = await exchange(changes, *args, **options) if committed or not cuts else None
        if changes and cuts:
            cuts -= 1
            raise DatabaseUnavailable("cut off")
        return answer or await exchange(changes, *args, **options)

    tq._backend.exchange = cut  # type: ignore[method-assign]
    tq.on("completed", lambda event: told.append(event.task.task_id))
    tq.on("lost", lambda event: told.append("lost"))

    @tq.task
    async def work() -> str:
        runs.append(1)
        return "done"

    async with tq.running(concurrency=1):
        handle = await work.push()
        assert await handle.result(within(10)) == "done"
        await until(lambda: told)
    assert (runs, told, cuts) == ([1], [handle.task_id], 0)


async def test_an_outcome_that_the_store_does_not_answer_for_is_not_called_drained(tmp_path: Path) -> None:  # F8
    tq = TaskQ(f"sqlite:///{tmp_path}/x.db", poll_interval=0.05)
    silent, answers = asyncio.Event(), asyncio.Event()
    exchange = tq._backend.exchange

    async def hang(*args: Any, **options: Any) -> Any:
        silent.set()
        await answers.wait()
        return await exchange(*args, **options)

    tq._backend.exchange = hang  # type: ignore[method-assign]

    @tq.task
    async def work() -> None: ...

    async with tq.running(concurrency=1):
        await work.push()
        await silent.wait()
        assert tq.worker is not None
        code = await tq.worker.stop(0, 0)
        answers.set()
    assert code is ExitCode.ABANDONED


# ---- timeouts ----


async def test_deadlines_ring_in_their_order_and_only_if_not_taken_back() -> None:
    clock = VirtualClock()
    rung: list[tuple[str, int]] = []
    start = clock.ticks()
    deadlines: Deadlines[str] = Deadlines(clock, lambda what: rung.append((what, clock.ticks() - start)))
    numbers = [deadlines.add(seconds, what) for what, seconds in (("five", 5), ("one", 1), ("three", 3), ("two", 2))]
    deadlines.cancel(numbers[2])
    deadlines.cancel(numbers[2])
    assert len(deadlines) == 3
    await clock.advance(10)
    assert rung == [("one", SECOND), ("two", 2 * SECOND), ("five", 5 * SECOND)]
    assert len(deadlines) == 0
    deadlines.add(1, "late")
    deadlines.close()
    await clock.advance(10)
    assert len(rung) == 3


async def test_deadlines_that_are_taken_back_leave_nothing_behind() -> None:  # H3
    deadlines: Deadlines[int] = Deadlines(VirtualClock(), print)
    for number in range(10_000):
        deadlines.cancel(deadlines.add(3600, number))
    assert len(deadlines._heap) < 1_100
    assert len(deadlines) == 0


# ---- helpers ----


async def until(fact: Any) -> None:
    async with asyncio.timeout(within(30)):
        while not fact():
            await asyncio.sleep(0.005)


async def until_counts(tq: TaskQ, **counts: int) -> None:
    async with asyncio.timeout(within(30)):
        while {name: (await tq.stats()).counts[name] for name in counts} != counts:
            await asyncio.sleep(0.005)


# ---- what is pushed in the process that runs it ----


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
    told: list[str] = []
    for name in ("pushed", "started", "completed"):
        tq.on(name, lambda event: told.append(event.name))

    @tq.task
    async def work() -> None: ...

    async with tq.running(concurrency=2, scheduler=False):
        await until_counts(tq, running=0)
        await asyncio.sleep(0.1)  # its first rounds, which find nothing
        counted = Counted(tq._backend, "push", "push_and_claim", "claim")
        handle = await work.push()
        assert await handle.result(within(30)) is None
        assert counted.calls == {"push_and_claim": 1}, "no claim of its own"
        await until(lambda: len(told) == 3)  # who waits for the row may see it before the listeners are told
    assert told == ["pushed", "started", "completed"]


async def test_more_than_the_slots_waits_for_all(tmp_path: Path) -> None:
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
    real = tq._backend.push_and_claim

    async def slowly(*args: Any, **options: Any) -> Any:
        answer = await real(*args, **options)
        begun.set()
        await go.wait()
        return answer

    tq._backend.push_and_claim = slowly  # type: ignore[method-assign]

    @tq.task
    async def work() -> None: ...

    async with tq:
        async with tq.running(concurrency=2, scheduler=False):
            await until_counts(tq, running=0)
            await asyncio.sleep(0.1)
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
        setattr(tq._backend, verb, failing(getattr(tq._backend, verb)))

    @tq.task
    async def work(bad: bool = False) -> int:
        return 1

    async with tq.running(concurrency=1, scheduler=False):
        await until_counts(tq, running=0)
        await asyncio.sleep(0.1)
        good, bad, another = await asyncio.gather(work.push(), work.push(bad=True), work.push(), return_exceptions=True)
        assert isinstance(bad, ValueError)
        for handle in (good, another):
            assert not isinstance(handle, BaseException)
            assert await handle.result(within(30)) == 1
        assert await (await work.push()).result(within(30)) == 1


async def test_who_is_told_of_a_push_hears_it_as_its_caller(tmp_path: Path) -> None:
    tq = TaskQ(f"sqlite:///{tmp_path}/x.db", poll_interval=3600, reap_interval=3600)
    who: contextvars.ContextVar[int] = contextvars.ContextVar("who")
    heard: list[tuple[int, int]] = []
    tq.on("pushed", lambda event: heard.append((event.task.params["n"], who.get())))

    @tq.task
    async def work(n: int) -> None: ...

    async def push(n: int) -> None:
        who.set(n)
        await work.push(n=n)

    async with tq.running(concurrency=2, scheduler=False):
        await until_counts(tq, running=0)
        await asyncio.gather(*(asyncio.create_task(push(n)) for n in range(3)))
        await until_counts(tq, completed=3)
    assert heard == [(0, 0), (1, 1), (2, 2)]


def held_lock(path: Path) -> sqlite3.Connection:
    """Another program that writes."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=30)
    connection.execute("BEGIN IMMEDIATE")
    return connection


async def test_what_came_while_slots_were_kept_is_not_forgotten(tmp_path: Path) -> None:
    """A round in that time has no room: it must not sleep on a hint, nor over a time that has come."""
    tq = TaskQ(f"sqlite:///{tmp_path}/x.db", poll_interval=3600, reap_interval=3600)
    ran: list[str] = []
    go = asyncio.Event()

    @tq.task
    async def work(name: str) -> None:
        ran.append(name)
        if name == "pushed":
            await go.wait()  # its end would bring a round as well

    async with tq.running(concurrency=4, scheduler=False):
        await until_counts(tq, running=0)
        await asyncio.sleep(0.1)
        await tq.push("work", {"name": "due"}, delay=0.15)
        await asyncio.sleep(0.05)
        lock = held_lock(tmp_path / "x.db")
        pushing = asyncio.create_task(tq.push("work", {"name": "pushed"}))
        await asyncio.sleep(0.2)  # the other's time comes while this one waits for the lock
        lock.execute("ROLLBACK")
        await pushing
        async with asyncio.timeout(within(10)):
            await until(lambda: sorted(ran) == ["due", "pushed"])
        go.set()
        lock.close()


@pytest.mark.parametrize("late", [0.0, 0.3])
async def test_what_comes_after_the_worker_has_stopped_goes_back(tmp_path: Path, late: float) -> None:
    tq = TaskQ(f"sqlite:///{tmp_path}/x.db", poll_interval=3600, reap_interval=3600)

    @tq.task
    async def work() -> None: ...

    async with tq:
        async with tq.running(concurrency=4, scheduler=False, drain=0.01, grace=0.01):
            await until_counts(tq, running=0)
            await asyncio.sleep(0.1)
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


def test_only_a_worker_in_the_running_loop_takes_what_is_pushed(tmp_path: Path) -> None:  # E1
    tq = TaskQ(f"sqlite:///{tmp_path}/x.db", poll_interval=0.05)

    @tq.task
    async def work() -> int:
        return 1

    async def main() -> None:
        async with tq.running(concurrency=2, scheduler=False):
            await until_counts(tq, running=0)
            await asyncio.sleep(0.1)
            assert [taker.wants for taker in tq.queue.takers] == [True]
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


async def test_a_bounded_queue_tells_that_it_has_room_again(tmp_path: Path) -> None:
    tq = TaskQ(f"sqlite:///{tmp_path}/x.db", poll_interval=3600, reap_interval=3600, maxsize=1)
    told: list[str] = []
    tq._backend.hints.listen(lambda kind, _names: told.append(kind))

    @tq.task
    async def work() -> None: ...

    async with tq.running(concurrency=2, scheduler=False):
        await until_counts(tq, running=0)
        await asyncio.sleep(0.1)
        told.clear()
        for _ in range(3):
            await (await work.push()).result(within(30))
        assert TAKEN in told
