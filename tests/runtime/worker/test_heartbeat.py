"""The heartbeat by itself: which leases it renews and trusts, and when it fences its worker."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from aiotaskq import TaskQ
from aiotaskq.backends.memory.backend import MemoryBackend
from aiotaskq.concurrency.clock import VirtualClock
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


class Bench:
    """A heartbeat on virtual time; a test starts its rounds."""

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
async def bench() -> Bench:
    bench = Bench()
    bench.heartbeat._bound.bind()
    bench.heartbeat._trusted = bench.heartbeat._alive = bench.clock.ticks()
    return bench


async def test_only_held_leases_are_renewed(bench: Bench) -> None:  # B2
    await bench.round()
    assert bench.store.asked == []
    bench.heartbeat.hold(KEY, bench.clock.ticks())
    await bench.round()
    assert bench.store.asked == [([KEY], bench.clock.now() + 2 * SECOND)]
    assert bench.answers == [(KEY, False)]
    bench.heartbeat.drop(KEY)
    await bench.round()
    assert len(bench.store.asked) == 1


async def test_trust_counts_from_the_sending(bench: Bench) -> None:  # B14
    bench.heartbeat.hold(KEY, bench.clock.ticks())
    bench.store.slow = 0.9 * LEASE
    await bench.round()
    assert bench.heartbeat.trusted
    bench.pass_time(0.2 * LEASE)
    assert not bench.heartbeat.trusted


async def test_a_lease_claimed_before_a_pause_of_the_process_is_not_trusted(bench: Bench) -> None:
    """A claim is sent, the process stands still, and a heartbeat is answered before the claim's answer is read."""
    asked = bench.clock.ticks()
    bench.pass_time(1.1 * LEASE)
    await bench.round()
    assert bench.heartbeat.trusted
    bench.heartbeat.hold(KEY, asked)
    assert not bench.heartbeat.holds(KEY, bench.clock.ticks())
    await bench.round()  # no other worker has taken it
    assert bench.heartbeat.holds(KEY, bench.clock.ticks())


async def test_a_lost_lease_is_not_trusted_before_the_worker_handles_the_answer(bench: Bench) -> None:
    bench.heartbeat.hold(KEY, bench.clock.ticks())
    bench.pass_time(1.1 * LEASE)
    bench.store.gone.add(KEY)
    await bench.heartbeat._renew()  # in the heartbeat's thread: the worker's loop has not run since
    assert (bench.answers, bench.heartbeat.trusted) == ([], True)
    assert not bench.heartbeat.holds(KEY, bench.clock.ticks())


async def test_a_lease_without_an_answer_fences_the_worker_until_the_store_answers(bench: Bench) -> None:  # B8
    bench.heartbeat.hold(KEY, bench.clock.ticks())
    bench.store.away = True
    for _ in range(4):
        await bench.round()
        bench.pass_time(LEASE / 4)
    assert (bench.fenced, bench.heartbeat.trusted) == (0, True)
    bench.pass_time(0.1)
    assert not bench.heartbeat.trusted
    await bench.round()
    assert bench.fenced == 1
    # The worker has let go of everything; only a round trip tells that the store is back.
    bench.heartbeat.drop(KEY)
    await bench.round()
    assert (bench.fenced, bench.heartbeat.trusted, bench.store.pings) == (2, False, 1)
    bench.store.away = False
    await bench.round()
    assert bench.heartbeat.trusted
    await bench.round()
    assert bench.store.pings == 2, "an idle worker asks nothing while all is well"


async def test_a_loop_that_stands_still_for_five_leases_is_given_up(bench: Bench) -> None:  # B3
    bench.heartbeat.hold(KEY, bench.clock.ticks())
    for _ in range(DEAD_AFTER):  # `_renew` by hand, without letting the loop do anything
        await bench.heartbeat._renew()
        bench.pass_time(LEASE)
    assert len(bench.store.asked) == DEAD_AFTER
    bench.pass_time(0.1)
    await bench.heartbeat._renew()
    assert len(bench.store.asked) == DEAD_AFTER
    await asyncio.sleep(0)  # it moves again
    await bench.round()
    assert len(bench.store.asked) == DEAD_AFTER + 1


async def test_renewal_is_retried_within_half_a_lease(bench: Bench) -> None:  # F20: its reapers wait for just one lease
    bench.store.away = True
    bench.heartbeat.hold(KEY, bench.clock.ticks())
    tries: list[int] = []
    heartbeat = bench.store.heartbeat

    async def noted(*args: Any) -> list[bool | None]:
        tries.append(bench.clock.now())
        return await heartbeat(*args)

    bench.store.heartbeat = noted  # type: ignore[method-assign]
    await bench.heartbeat.start()
    await bench.clock.advance(60)
    assert max(after - before for before, after in itertools.pairwise(tries)) <= LEASE / 2 * SECOND
    await bench.heartbeat.stop()


async def test_the_fetcher_retries_as_often_as_the_heartbeat(tmp_path: Path) -> None:  # F20
    for lease, most in ((2.0, 1.0), (60.0, MAX_BACKOFF)):
        async with TaskQ(f"sqlite:///{tmp_path}/{lease}.db", lease=lease, heartbeat=0.5).running(concurrency=1) as tq:
            assert tq.worker is not None
            assert tq.worker._fetcher._poller._max_backoff == most
