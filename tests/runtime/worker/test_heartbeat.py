"""The heartbeat by itself: the lease that it renews and trusts, what it compares, and when it fences its worker."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from pathlib import Path
from typing import Any

import pytest

from aiotaskq import TaskQ
from aiotaskq.backends.base import Change
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.concurrency.poller import MAX_BACKOFF
from aiotaskq.core.outcome import Released, marked, settle
from aiotaskq.core.task import SECOND, Task
from aiotaskq.core.worker_info import WorkerInfo
from aiotaskq.errors import DatabaseUnavailable
from aiotaskq.runtime.owner import renewing
from aiotaskq.runtime.worker.heartbeat import DEAD_AFTER, Heartbeat, Key
from aiotaskq.testing.durable_fake import DurableFake
from tests.support.rows import new

LEASE = 2.0


class Remote(DurableFake):
    """A store that answers as a test says, and takes as long."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self.clock = clock
        self.away = False
        self.slow = 0.0
        self.beats: list[WorkerInfo] = []
        self.answer_lost = False
        registry: Any = self.workers
        register, heartbeat, held = registry.register, registry.heartbeat, registry.held

        async def registered(worker: WorkerInfo) -> None:
            self._pass()
            await register(worker)
            self._lose_answer()

        async def beaten(worker: WorkerInfo) -> bool:
            self._pass()
            self.beats.append(worker)
            return bool(await heartbeat(worker))

        async def read(owner: str) -> Any:
            self._pass()
            return await held(owner)

        registry.register, registry.heartbeat, registry.held = registered, beaten, read

    def _pass(self) -> None:
        self.clock._now += int(self.slow * SECOND)
        if self.away:
            raise DatabaseUnavailable("away")

    def _lose_answer(self) -> None:
        if self.answer_lost:
            self.answer_lost = False
            raise DatabaseUnavailable("the answer was lost")


class Bench:
    """A heartbeat on virtual time; a test starts its rounds."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.store = Remote(self.clock)
        self.answers: list[tuple[Key, bool | None]] = []
        self.unknown: list[Key] = []
        self.fenced = 0
        self.heartbeat = Heartbeat(
            self.store,
            self.clock,
            lease=LEASE,
            heartbeat=0.5,
            answered=lambda held, answers: self.answers.extend(zip(held, answers, strict=True)),
            fenced=self._fence,
            unknown=self.unknown.extend,
            describe=lambda: (("q",), 10, 3, (), ()),
        )

    def _fence(self) -> None:
        self.fenced += 1

    async def begin(self) -> None:
        """Register, without the rounds."""
        self.heartbeat._bound.bind()
        self.heartbeat._alive = self.clock.ticks()
        await self.heartbeat._register(self.heartbeat.owner)

    async def round(self) -> None:
        with contextlib.suppress(DatabaseUnavailable):
            await self.heartbeat._renew()
        await asyncio.sleep(0)  # what was posted to the worker's loop

    async def rounds(self, number: int) -> None:
        for _ in range(number):
            await self.round()

    def pass_time(self, seconds: float) -> None:
        self.clock._now += int(seconds * SECOND)

    async def claim(self) -> Task:
        """Claim a task in the store, whose answer has not come yet."""
        await self.store.push([new(run_at=self.clock.now())])
        (task,) = await self.store.claim(self.heartbeat.owner, self.clock.now(), 1)
        return task

    def hold(self, task: Task) -> bool:
        return self.heartbeat.hold(key_of(task), task.lease_owner)

    async def claim_and_hold(self) -> Task:
        task = await self.claim()
        assert self.hold(task)
        return task

    def holds(self, task: Task) -> bool:
        return self.heartbeat.holds(key_of(task), self.clock.ticks())

    async def remove(self) -> None:
        """Take the worker for dead, as another worker's reaper does."""
        (row,) = await self.store.workers.all()
        assert await self.store.workers.remove(row)


def key_of(task: Task) -> Key:
    return (task.task_id, task.fence)


@pytest.fixture
async def bench() -> Bench:
    bench = Bench()
    await bench.begin()
    return bench


async def test_a_worker_is_registered_and_its_row_renewed(bench: Bench) -> None:  # B2
    (row,) = await bench.store.workers.all()
    assert (row.owner, row.queues, row.concurrency, row.busy) == (bench.heartbeat.owner, ("q",), 10, 3)
    assert row.seen_at == bench.clock.now() and row.lease_until == bench.clock.now() + 2 * SECOND
    bench.pass_time(0.5)
    await bench.round()
    (renewed,) = await bench.store.workers.all()
    assert (renewed.started_at, renewed.seen_at) == (row.started_at, bench.clock.now())
    assert renewed.lease_until == bench.clock.now() + 2 * SECOND


@pytest.mark.parametrize("tasks", [0, 1, 1_000])
async def test_a_heartbeat_writes_one_row_however_many_tasks_run(bench: Bench, tasks: int) -> None:
    rows = [await bench.claim_and_hold() for _ in range(tasks)]
    await bench.round()
    assert len(bench.store.beats) == 1
    assert await bench.store.get([task.task_id for task in rows]) == rows
    assert bench.answers and {answer for _, answer in bench.answers} == {False} if tasks else not bench.answers


async def test_the_comparison_tells_of_cancels_and_of_lost_tasks(bench: Bench) -> None:
    stays, cancelled, taken = [await bench.claim_and_hold() for _ in range(3)]
    await bench.store.request_cancel([cancelled.task_id])
    await bench.store.update([Change(taken, settle(taken, Released("taken away by a test"), bench.clock.now()))])
    await bench.round()
    assert dict(bench.answers) == {key_of(stays): False, key_of(cancelled): True, key_of(taken): None}
    bench.answers.clear()
    bench.heartbeat.drop(key_of(taken))
    assert not bench.holds(taken)
    await bench.round()
    assert dict(bench.answers) == {key_of(stays): False, key_of(cancelled): True}


async def test_trust_counts_from_the_sending(bench: Bench) -> None:  # B14
    bench.store.slow = 0.9 * LEASE
    await bench.round()
    bench.store.slow = 0
    assert not bench.heartbeat.trusted, "the comparison was slow as well"
    await bench.round()
    assert bench.heartbeat.trusted
    bench.pass_time(1.1 * LEASE)
    assert not bench.heartbeat.trusted


async def test_a_task_claimed_before_a_pause_of_the_process_is_not_trusted(bench: Bench) -> None:
    """A claim is sent, the process stands still, and others take it for dead before the claim's answer is read."""
    task = await bench.claim()
    bench.pass_time(1.1 * LEASE)
    assert bench.hold(task), "the answer is read before the heartbeat wakes"
    assert not bench.holds(task)
    await bench.remove()
    await bench.heartbeat._renew()  # in the heartbeat's thread: the worker's loop has not run since
    assert not bench.heartbeat.trusted and not bench.holds(task)
    late = await bench.claim()
    assert bench.hold(late) and not bench.holds(late)
    await asyncio.sleep(0)
    assert dict(bench.answers) == {key_of(task): None, key_of(late): None}
    assert bench.heartbeat.trusted and not bench.holds(task)
    assert not bench.hold(late), "it was claimed under the id that was removed"
    await bench.round()
    assert not bench.holds(late)


async def test_a_pause_that_nobody_has_noticed_costs_nothing(bench: Bench) -> None:
    task = await bench.claim_and_hold()
    bench.pass_time(1.1 * LEASE)
    assert not bench.holds(task)
    await bench.round()
    assert bench.holds(task) and bench.answers == [(key_of(task), False)]


async def test_a_removed_worker_goes_on_under_another_id(bench: Bench) -> None:
    first = bench.heartbeat.owner
    task = await bench.claim_and_hold()
    assert first in renewing
    await bench.remove()
    await bench.round()
    (row,) = await bench.store.workers.all()
    assert row.owner == bench.heartbeat.owner != first
    assert first not in renewing and row.owner in renewing
    assert bench.answers == [(key_of(task), None)] and not bench.holds(task)
    assert [late.task_id for late in await bench.store.overdue(bench.clock.now(), 10)] == [task.task_id]
    assert bench.holds(await bench.claim_and_hold())
    await bench.rounds(3)
    assert bench.unknown == [], "what another id holds is none of its business"
    renewing.discard(row.owner)


async def test_a_removed_worker_claims_nothing_until_it_is_registered(bench: Bench) -> None:
    task = await bench.claim_and_hold()
    first = bench.heartbeat.owner
    await bench.remove()
    bench.store.answer_lost = True  # of the registration
    await bench.round()
    assert not bench.heartbeat.trusted and bench.heartbeat.owner == first
    assert bench.answers == [(key_of(task), None)], "its handlers are stopped at once"
    await bench.round()
    assert bench.heartbeat.trusted and bench.heartbeat.owner != first
    owners = {row.owner for row in await bench.store.workers.all()}
    assert len(owners) == 2 and bench.heartbeat.owner in owners, "the one of the lost answer ends with its lease"


async def test_a_lease_without_an_answer_fences_the_worker_until_the_store_answers(bench: Bench) -> None:  # B8
    task = await bench.claim_and_hold()
    bench.store.away = True
    for _ in range(4):
        await bench.round()
        bench.pass_time(LEASE / 4)
    assert (bench.fenced, bench.heartbeat.trusted) == (0, True)
    bench.pass_time(0.1)
    assert not bench.heartbeat.trusted and not bench.holds(task)
    await bench.round()
    assert bench.fenced == 1
    bench.heartbeat.drop(key_of(task))  # the worker has let go of everything
    await bench.round()
    assert (bench.fenced, bench.heartbeat.trusted) == (2, False)
    bench.store.away = False
    await bench.round()
    assert bench.heartbeat.trusted


async def test_a_loop_that_stands_still_for_five_leases_is_given_up(bench: Bench) -> None:  # B3
    owner = bench.heartbeat.owner
    for _ in range(DEAD_AFTER):  # `_renew` by hand, without letting the loop do anything
        await bench.heartbeat._renew()
        bench.pass_time(LEASE)
    assert len(bench.store.beats) == DEAD_AFTER
    bench.pass_time(0.1)
    await bench.heartbeat._renew()
    assert len(bench.store.beats) == DEAD_AFTER and owner not in renewing
    await asyncio.sleep(0)  # it moves again
    await bench.round()
    assert len(bench.store.beats) == DEAD_AFTER + 1 and owner in renewing


async def test_renewal_is_retried_within_half_a_lease(bench: Bench) -> None:  # F20: its reapers wait for just one lease
    tries: list[int] = []
    registry: Any = bench.store.workers
    heartbeat = registry.heartbeat

    async def noted(worker: WorkerInfo) -> bool:
        tries.append(bench.clock.now())
        return bool(await heartbeat(worker))

    registry.heartbeat = noted
    await bench.heartbeat.start()
    bench.store.away = True
    await bench.clock.advance(60)
    assert max(after - before for before, after in itertools.pairwise(tries)) <= LEASE / 2 * SECOND
    await bench.heartbeat.stop()


# ---- what the worker does not know ----------------------------------------------------------------------------------


async def test_a_task_whose_answer_was_lost_is_given_back_at_the_second_comparison(bench: Bench) -> None:  # A9
    claim = bench.heartbeat.begin_claim()
    task = await bench.claim()
    bench.heartbeat.end_claim(claim)  # the connection broke
    await bench.round()
    assert bench.unknown == []
    await bench.round()
    assert bench.unknown == [key_of(task)]


async def test_a_claim_under_way_is_not_given_back_however_long_it_takes(bench: Bench) -> None:  # A7
    claim = bench.heartbeat.begin_claim()
    task = await bench.claim()
    for _ in range(3):
        await bench.rounds(1)
        bench.heartbeat.end_claim(bench.heartbeat.begin_claim())  # quicker ones come and go
    assert bench.unknown == []
    assert bench.hold(task)
    bench.heartbeat.end_claim(claim)
    await bench.rounds(3)
    assert bench.unknown == [] and bench.holds(task)


async def test_a_claim_that_began_later_keeps_nothing_back(bench: Bench) -> None:
    task = await bench.claim()
    await bench.round()
    claim = bench.heartbeat.begin_claim()
    await bench.round()
    assert bench.unknown == [key_of(task)]
    bench.heartbeat.end_claim(claim)


async def test_two_claims_that_overlap_do_not_hide_each_other(bench: Bench) -> None:
    first = bench.heartbeat.begin_claim()
    task = await bench.claim()
    await bench.round()
    second = bench.heartbeat.begin_claim()
    bench.heartbeat.end_claim(first)
    await bench.round()
    assert bench.unknown == [key_of(task)], "no claim is left that could bring it"
    bench.heartbeat.end_claim(second)


async def test_a_task_that_is_settled_while_the_rows_are_read_is_not_unknown(bench: Bench) -> None:
    task = await bench.claim_and_hold()
    held = bench.store.workers.held

    async def settled_meanwhile(owner: str) -> Any:
        rows = await held(owner)
        bench.heartbeat.drop(key_of(task))
        return rows

    bench.store.workers.held = settled_meanwhile  # type: ignore[method-assign]
    await bench.round()
    bench.store.workers.held = held  # type: ignore[method-assign]
    await bench.store.update([Change(task, settle(task, Released("settled"), bench.clock.now()))])
    await bench.rounds(2)
    assert bench.unknown == []


async def test_a_marked_task_is_known(bench: Bench) -> None:
    task = await bench.claim_and_hold()
    await bench.store.update([Change(task, marked(task))])
    await bench.rounds(3)
    assert bench.unknown == [] and {answer for _, answer in bench.answers} == {False}


async def test_a_worker_that_stops_leaves_the_registry(bench: Bench) -> None:
    await bench.heartbeat.start()
    await bench.heartbeat.stop()
    assert await bench.store.workers.all() == []
    assert bench.heartbeat.owner not in renewing


@pytest.mark.parametrize("holds", ["tasks", "a store that is away"])
async def test_a_worker_that_cannot_leave_is_removed_when_its_lease_is_over(bench: Bench, holds: str) -> None:
    await bench.heartbeat.start()
    bench.store.away = holds != "tasks"
    remove = bench.store.workers.remove

    async def away(worker: WorkerInfo) -> bool:
        bench.store._pass()
        return await remove(worker)

    bench.store.workers.remove = away  # type: ignore[method-assign]
    await bench.heartbeat.stop(leave=holds != "tasks")
    (row,) = await bench.store.workers.all()
    assert row.owner == bench.heartbeat.owner and row.owner not in renewing


async def test_the_fetcher_retries_as_often_as_the_heartbeat(tmp_path: Path) -> None:  # F20
    for lease, most in ((2.0, 1.0), (60.0, MAX_BACKOFF)):
        async with TaskQ(f"sqlite:///{tmp_path}/{lease}.db", lease=lease, heartbeat=0.5).running(concurrency=1) as tq:
            assert tq.worker is not None
            assert tq.worker._fetcher._max_backoff == most
