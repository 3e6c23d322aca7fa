"""Rates and fair shares as an observer sees them who counts the starts of handlers, in virtual time."""

from __future__ import annotations

import contextlib
import random
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from aiotaskq import Fair, Rate, TaskQ
from aiotaskq.backends.url import DURABLE_FAKE
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core.task import SECOND
from aiotaskq.testing.durable_fake import DurableFake
from aiotaskq.testing.harness import opened
from aiotaskq.testing.kit import Kit

LIMIT, BURST = 50, 5


class Api:
    """What is called: it counts tokens by elapsed time, whatever the clock of a host says."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self.calls: list[tuple[int, int]] = []
        self._stopped = False

    def stop(self) -> None:
        """Count no longer: what is interrupted at the end of a worker runs again, and takes no tokens for that."""
        self._stopped = True

    def call(self, tokens: int) -> None:
        if not self._stopped:
            self.calls.append((self._clock.ticks(), tokens))

    @property
    def tokens(self) -> int:
        return sum(tokens for _, tokens in self.calls)

    def most(self, window: int = SECOND) -> int:
        """The most tokens in any window of so many microseconds."""
        most = now = 0
        inside: deque[tuple[int, int]] = deque()
        for at, tokens in self.calls:
            inside.append((at, tokens))
            now += tokens
            while inside[0][0] <= at - window:
                now -= inside.popleft()[1]
            most = max(most, now)
        return most


@contextlib.asynccontextmanager
async def processes(
    url: str, register: Callable[[TaskQ, VirtualClock], None], count: int = 2, concurrency: int = 8
) -> AsyncIterator[list[Kit]]:
    """So many applications with workers on one store, and on one clock."""
    clock = VirtualClock()
    async with contextlib.AsyncExitStack() as stack:
        kits = []
        for _ in range(count):
            options: dict[str, Any] = {"concurrency": concurrency, "scheduler": False, "poll_interval": 1.0}
            kits.append(kit := stack.enter_context(opened(Kit, None, url, clock=clock, **options)))
            register(kit.tq, clock)
        for kit in kits:
            await stack.enter_async_context(kit)
        yield kits


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a durable fake that several applications share."""
    store = DurableFake()
    monkeypatch.setattr("aiotaskq.app.taskq.connect", lambda _url, **_options: store)
    return DURABLE_FAKE


async def calling(kits: list[Kit], apis: list[Api], count: int) -> list[Any]:
    chance = random.Random(7)
    weights = [chance.choice((1, 1, 2, 5)) for _ in range(count)]
    return await kits[0].tq.push_many([("call", {"tokens": weight}) for weight in weights])


def caller(apis: list[Api]) -> Callable[[TaskQ, VirtualClock], None]:
    """Register a handler that calls one API, in each process."""

    def register(tq: TaskQ, clock: VirtualClock) -> None:
        if not apis:
            apis.append(Api(clock))

        @tq.task(rate=Rate(LIMIT, per=1.0, burst=BURST, weight="tokens"))
        async def call(tokens: int) -> None:
            apis[0].call(tokens)
            await clock.sleep(random.Random(tokens).uniform(0.01, 0.1))

    return register


async def test_no_window_sees_more_than_the_limit_and_the_burst(fake: str) -> None:
    apis: list[Api] = []
    async with processes(fake, caller(apis)) as kits:
        await calling(kits, apis, 1_000)
        await kits[0].advance(30)
        (api,) = apis
        api.stop()
    assert BURST < api.most() <= LIMIT + BURST
    assert api.most(10 * SECOND) <= 10 * LIMIT + BURST
    assert 0.95 * LIMIT * 30 <= api.tokens <= LIMIT * 30 + BURST


async def test_a_step_of_the_clock_fills_the_burst_at_most_and_stops_no_rate(tmp_path: Path) -> None:
    apis: list[Api] = []
    async with processes(f"sqlite:///{tmp_path}/tasks.db", caller(apis)) as kits:
        await calling(kits, apis, 400)
        for step in (0, 30, -60, 0.5, -0.3, 3600):
            kits[0].clock.step(step)
            await kits[0].advance(2)
        (api,) = apis
        api.stop()
    assert api.most() <= LIMIT + 2 * BURST  # a step forward is as if time had passed: it fills the burst, and no more
    assert api.tokens >= 0.8 * LIMIT * 12, "the rate stood still after a step"


async def fair(url: str, large: int, small: int = 10, window: int = 20) -> None:
    """Count what starts between the push of a few tasks of one tenant, among very many of another, and their last."""
    order: list[str] = []

    def register(tq: TaskQ, clock: VirtualClock) -> None:
        @tq.task(fair=Fair("tenant", window=window))
        async def work(tenant: str) -> None:
            order.append(tenant)
            await clock.sleep(1)

    async with processes(url, register, count=1, concurrency=5) as (kit,):
        for first in range(0, large, 1_000):
            await kit.tq.push_many([("work", {"tenant": "large"})] * min(1_000, large - first))
        await kit.advance(3)
        begun = len(order)
        await kit.tq.push_many([("work", {"tenant": "small"})] * small)
        while order.count("small") < small:
            await kit.advance(1)
            assert len(order) - begun <= small + 3 * window
        after = order[begun:]
        others = after[: len(after) - after[::-1].index("small")].count("large")
    assert begun >= 5
    assert others <= 2 * window, f"{others} tasks of the large tenant started before the last one of the small"


async def test_a_tenant_with_many_tasks_delays_another_by_its_window(fake: str) -> None:
    await fair(fake, 1_000)


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_a_tenant_with_100_000_tasks_delays_another_by_its_window(tmp_path: Path) -> None:
    await fair(f"sqlite:///{tmp_path}/tasks.db", 100_000)
