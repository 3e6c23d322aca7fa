"""Public values: setting and reading values with a time to live, awaited and from a thread, and the sweep."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from typing import Any

import aiotaskq.sync
from aiotaskq import MemoryQueue
from benchmarks.case import AIOTASKQ, LIMIT, Run, Sample, Unit, rate, scenario
from benchmarks.cases.facade import CALLS, from_threads
from benchmarks.old_design import ThreadStore

TTL = 600.0
KEYS = [f"key-{number}" for number in range(10_000)]
SET = scenario("store", "set", "set with a time to live", CALLS, start=2_000)
GET = scenario("store", "get", "get", CALLS, start=2_000)
SET_THREAD = scenario("store", "set.thread", "set, safe from threads", CALLS, start=2_000)
GET_THREAD = scenario("store", "get.thread", "get, safe from threads", CALLS, start=2_000)
SWEEP = scenario(
    "store", "sweep", "the loop is held by a sweep of 1,000 of 100,000 keys", {"hold": Unit("ms", less=True)}, size=1
)


def each_key(run: Run, use: Callable[[str], Any]) -> Sample:
    """Time a plain call for so many keys."""
    rounds = max(1, run.n // len(KEYS))
    keys = KEYS[: run.n]
    start = time.perf_counter()
    for _ in range(rounds):
        for key in keys:
            use(key)
    return rate(rounds * len(keys), time.perf_counter() - start)


async def each_key_awaited(run: Run, use: Callable[[str], Any]) -> Sample:
    """Time an awaited call for so many keys."""
    rounds = max(1, run.n // len(KEYS))
    keys = KEYS[: run.n]
    start = time.perf_counter()
    for _ in range(rounds):
        for key in keys:
            await use(key)
    return rate(rounds * len(keys), time.perf_counter() - start)


class LazyDict:
    """The least that keeps a time to live: expiry is looked at when read; no lock, no limit, no sweep."""

    def __init__(self) -> None:
        self._values: dict[str, tuple[Any, float]] = {}

    def set(self, key: str, value: Any) -> None:
        self._values[key] = (value, time.monotonic() + TTL)

    def get(self, key: str) -> Any:
        value, until = self._values[key]
        return value if time.monotonic() < until else None


# ---- awaited --------------------------------------------------------------------------------------------------------


@SET.by(AIOTASKQ)
async def set_aiotaskq(run: Run) -> Sample:
    store = MemoryQueue()
    return await each_key_awaited(run, lambda key: store.set_public(key, 1, TTL))


@GET.by(AIOTASKQ)
async def get_aiotaskq(run: Run) -> Sample:
    store = MemoryQueue()
    for key in KEYS:
        await store.set_public(key, 1, TTL)
    return await each_key_awaited(run, store.get_public)


@SET.by(LIMIT)
def set_limit(run: Run) -> Sample:
    store = LazyDict()
    return each_key(run, lambda key: store.set(key, 1))


@GET.by(LIMIT)
def get_limit(run: Run) -> Sample:
    store = LazyDict()
    for key in KEYS:
        store.set(key, 1)
    return each_key(run, store.get)


# ---- from a thread --------------------------------------------------------------------------------------------------


def in_thread(run: Run, use: Callable[[str], Any]) -> Sample:
    """Time a plain call for so many keys, in a thread."""
    keys = iter(KEYS * (run.n // len(KEYS) + 1))
    return from_threads(run, 1, lambda: use(next(keys)))


@SET_THREAD.by(AIOTASKQ)
def set_aiotaskq_thread(run: Run) -> Sample:
    store = aiotaskq.sync.MemoryQueue()
    return in_thread(run, lambda key: store.set_public(key, 1, TTL))


@GET_THREAD.by(AIOTASKQ)
def get_aiotaskq_thread(run: Run) -> Sample:
    store = aiotaskq.sync.MemoryQueue()
    in_thread(Run(len(KEYS)), lambda key: store.set_public(key, 1, TTL))
    return in_thread(run, store.get_public)


@SET_THREAD.by("old design")
def set_old(run: Run) -> Sample:
    store = ThreadStore()
    return in_thread(run, lambda key: store.set_public(key, 1, TTL))


@GET_THREAD.by("old design")
def get_old(run: Run) -> Sample:
    store = ThreadStore()
    for key in KEYS:
        store.set_public(key, 1, TTL)
    return in_thread(run, store.get_public)


# ---- the sweep ------------------------------------------------------------------------------------------------------


async def longest_gap(work: Callable[[], Any]) -> float:
    """Return for how long nothing else of the loop could run while the coroutine function did; in seconds."""
    task = asyncio.ensure_future(work())
    longest = 0.0
    while not task.done():
        before = time.perf_counter()
        await asyncio.sleep(0)
        longest = max(longest, time.perf_counter() - before)
    await task
    return longest


@SWEEP.by(AIOTASKQ)
async def sweep_aiotaskq(run: Run) -> Sample:
    store = MemoryQueue()
    for number in range(99_000):
        await store.set_public(f"kept-{number}", 1, TTL)
    holds = []
    for _ in range(run.of(20, 5)):
        for number in range(1_000):
            await store.set_public(f"gone-{number}", 1, 0.001)
        await asyncio.sleep(0.01)
        holds.append(await longest_gap(store.cleanup) * 1000)
    return Sample({"hold": statistics.median(holds)})
