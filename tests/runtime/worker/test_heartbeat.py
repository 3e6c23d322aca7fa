"""The lease keeper and the store's clock, by themselves: what they trust, whom they tell, when they stop."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from aiotaskq import TaskQ
from aiotaskq.backends.memory.backend import MemoryBackend
from aiotaskq.concurrency.clock import StoreClock, VirtualClock
from aiotaskq.concurrency.poller import MAX_BACKOFF
from aiotaskq.core.task import SECOND
from aiotaskq.errors import DatabaseUnavailable
from aiotaskq.runtime.worker.heartbeat import DEAD_AFTER, Heartbeat

LEASE = 2.0
KEY = ("task", 1)


class Remote(MemoryBackend):
    """A shared store that answers as a test says, and takes as long."""

    shared = True

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self.clock = clock
        self.away = False
        self.slow = 0.0
        self.asked: list[tuple[list[tuple[str, int]], int]] = []
        self.pings = 0
        self.gone: set[tuple[str, int]] = set()

    async def heartbeat(self, held: Sequence[tuple[str, int]], lease_until: int) -> list[bool | None]:
        self.clock._now += int(self.slow * SECOND)
        if self.away:
            raise DatabaseUnavailable("away")
        self.asked.append((list(held), lease_until))
        return [None if key in self.gone else False for key in held]

    async def ping(self) -> int | None:
        self.pings += 1
        if self.away:
            raise DatabaseUnavailable("away")
        return None


class Kept:
    """A keeper on virtual time whose rounds a test does by hand."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.store = Remote(self.clock)
        self.answers: list[Any] = []
        self.fenced = 0
        self.heartbeat = Heartbeat(
            self.store,
            self.clock,
            lease=LEASE,
            heartbeat=0.5,
            answered=lambda held, answers: self.answers.extend(zip(held, answers, strict=True)),
            fenced=self._fence,
        )

    def _fence(self) -> None:
        self.fenced += 1

    async def round(self) -> None:
        try:
            await self.heartbeat._renew()
        except DatabaseUnavailable:
            assert self.store.away
        await asyncio.sleep(0)  # what was posted to the worker's loop

    def pass_time(self, seconds: float) -> None:
        self.clock._now += int(seconds * SECOND)


@pytest.fixture
async def kept() -> Kept:
    kept = Kept()
    kept.heartbeat._bound.bind()
    kept.heartbeat._trusted = kept.heartbeat._alive = kept.clock.ticks()
    return kept


async def test_renews_what_is_held_and_nothing_else(kept: Kept) -> None:  # B2
    await kept.round()
    assert kept.store.asked == []
    kept.heartbeat.hold(KEY, kept.clock.ticks())
    await kept.round()
    assert kept.store.asked == [([KEY], kept.clock.now() + 2 * SECOND)]
    assert kept.answers == [(KEY, False)]
    kept.heartbeat.drop(KEY)
    await kept.round()
    assert len(kept.store.asked) == 1


async def test_trust_counts_from_the_sending(kept: Kept) -> None:  # B14
    kept.heartbeat.hold(KEY, kept.clock.ticks())
    kept.store.slow = 0.9 * LEASE
    await kept.round()
    assert kept.heartbeat.trusted
    kept.pass_time(0.2 * LEASE)
    assert not kept.heartbeat.trusted


async def test_what_was_asked_for_before_the_process_stood_still_is_not_held(kept: Kept) -> None:
    """A claim is sent, the process stands still, and a heartbeat is answered before the claim's answer is read."""
    asked = kept.clock.ticks()
    kept.pass_time(1.1 * LEASE)
    await kept.round()
    assert kept.heartbeat.trusted
    kept.heartbeat.hold(KEY, asked)
    assert not kept.heartbeat.holds(KEY, kept.clock.ticks())
    await kept.round()  # nobody has taken it
    assert kept.heartbeat.holds(KEY, kept.clock.ticks())


async def test_what_was_taken_is_not_held_before_the_worker_has_heard_of_it(kept: Kept) -> None:
    kept.heartbeat.hold(KEY, kept.clock.ticks())
    kept.pass_time(1.1 * LEASE)
    kept.store.gone.add(KEY)
    await kept.heartbeat._renew()  # on the thread of the keeper: the worker's loop has not run since
    assert (kept.answers, kept.heartbeat.trusted) == ([], True)
    assert not kept.heartbeat.holds(KEY, kept.clock.ticks())


async def test_without_an_answer_for_a_lease_it_fences_and_recovers_alone(kept: Kept) -> None:  # B8
    kept.heartbeat.hold(KEY, kept.clock.ticks())
    kept.store.away = True
    for _ in range(4):
        await kept.round()
        kept.pass_time(LEASE / 4)
    assert (kept.fenced, kept.heartbeat.trusted) == (0, True)
    kept.pass_time(0.1)
    assert not kept.heartbeat.trusted
    await kept.round()
    assert kept.fenced == 1
    # The worker has let go of everything; only a round trip tells that the store is back.
    kept.heartbeat.drop(KEY)
    await kept.round()
    assert (kept.fenced, kept.heartbeat.trusted, kept.store.pings) == (2, False, 1)
    kept.store.away = False
    await kept.round()
    assert kept.heartbeat.trusted
    await kept.round()
    assert kept.store.pings == 2, "an idle worker asks nothing while all is well"


async def test_a_loop_that_stands_still_for_five_leases_is_given_up(kept: Kept) -> None:  # B3
    kept.heartbeat.hold(KEY, kept.clock.ticks())
    for _ in range(DEAD_AFTER):  # `_renew` by hand, without letting the loop do anything
        await kept.heartbeat._renew()
        kept.pass_time(LEASE)
    assert len(kept.store.asked) == DEAD_AFTER
    kept.pass_time(0.1)
    await kept.heartbeat._renew()
    assert len(kept.store.asked) == DEAD_AFTER
    await asyncio.sleep(0)  # it moves again
    await kept.round()
    assert len(kept.store.asked) == DEAD_AFTER + 1


# ---- the store's clock -----------------------------------------------------------------------------------------------


class Host(StoreClock):
    """A host whose clocks a test sets."""

    wall = 1_000 * SECOND
    steady = 5 * SECOND

    def ticks(self) -> int:
        return self.steady


async def test_the_stores_clock_is_taken_from_the_middle_of_the_round_trip() -> None:
    clock = Host()
    assert not clock.is_set and not clock.foreign

    async def ask() -> int:
        clock.steady += 40_000  # there
        said = 777 * SECOND
        clock.steady += 40_000  # and back
        return said

    await clock.look(ask)
    assert clock.is_set and clock.foreign
    assert clock.now() == 777 * SECOND + 40_000
    clock.steady += 3 * SECOND
    assert clock.now() == 780 * SECOND + 40_000


async def test_a_slow_answer_does_not_replace_a_good_one_until_that_has_aged() -> None:
    clock = Host()

    def ask(says: int, takes: int) -> Any:
        async def answer() -> int:
            clock.steady += takes
            return says

        return answer

    await clock.look(ask(100 * SECOND, 1_000))
    good = clock.now()
    await clock.look(ask(103 * SECOND, 4 * SECOND))  # two seconds of doubt
    assert clock.now() == good + 4 * SECOND
    clock.steady += 20_000 * SECOND  # drift has made the good one worse than that
    await clock.look(ask(20_107 * SECOND, 4 * SECOND))
    assert clock.now() == 20_109 * SECOND


async def test_an_answer_that_contradicts_the_last_one_is_believed() -> None:
    clock = Host()

    async def at_once() -> int:
        return 100 * SECOND

    async def an_hour_later() -> int:  # the host slept, and its monotonic clock with it
        clock.steady += 200_000
        return 3700 * SECOND

    await clock.look(at_once)
    await clock.look(an_hour_later)
    assert clock.now() == 3700 * SECOND + 100_000


async def test_who_only_pushes_asks_again_after_half_a_minute() -> None:
    clock = Host()

    async def ask() -> int:
        return clock.steady

    assert clock.stale
    await clock.look(ask)
    assert not clock.stale
    clock.steady += 30 * SECOND
    assert clock.stale


async def test_a_store_without_a_clock_goes_by_the_hosts() -> None:
    clock = StoreClock()

    async def none() -> None:
        return None

    before = clock.now()
    await clock.look(none)
    assert clock.is_set and not clock.foreign
    assert 0 <= clock.now() - before < 3600 * SECOND


async def test_an_error_of_the_store_is_told_and_the_old_answer_kept() -> None:
    clock = Host()

    async def away() -> int:
        raise DatabaseUnavailable("away")

    with pytest.raises(DatabaseUnavailable):
        await clock.look(away)
    assert not clock.is_set


# ---- a store that is away ----


async def test_it_is_asked_again_well_within_a_lease(kept: Kept) -> None:  # F20: its reapers wait for just one lease
    kept.store.away = True
    kept.heartbeat.hold(KEY, kept.clock.ticks())
    tries: list[int] = []
    heartbeat = kept.store.heartbeat

    async def noted(*args: Any) -> list[bool | None]:
        tries.append(kept.clock.now())
        return await heartbeat(*args)

    kept.store.heartbeat = noted  # type: ignore[method-assign]
    await kept.heartbeat.start()
    await kept.clock.advance(60)
    assert max(after - before for before, after in itertools.pairwise(tries)) <= LEASE / 2 * SECOND
    await kept.heartbeat.stop()


async def test_a_worker_asks_as_often_for_tasks_and_to_write_what_became_of_some(tmp_path: Path) -> None:  # F20
    for lease, most in ((2.0, 1.0), (60.0, MAX_BACKOFF)):
        async with TaskQ(f"sqlite:///{tmp_path}/{lease}.db", lease=lease, heartbeat=0.5).running(concurrency=1) as tq:
            assert tq.worker is not None
            assert tq.worker._fetcher._poller._max_backoff == most
