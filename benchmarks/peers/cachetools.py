"""cachetools.TTLCache: alone, and with the lock that its documentation asks for where threads share it."""

from __future__ import annotations

import statistics
import threading
import time
from typing import Any

from benchmarks.case import Run, Sample
from benchmarks.cases.store import GET, GET_THREAD, KEYS, SET, SET_THREAD, SWEEP, TTL, each_key, in_thread

WHO = "cachetools.TTLCache"


def _cache(ttl: float = TTL) -> Any:
    from cachetools import TTLCache

    return TTLCache(maxsize=1_000_000, ttl=ttl)


def _full() -> Any:
    cache = _cache()
    for key in KEYS:
        cache[key] = 1
    return cache


@SET.by(WHO, "cachetools")
def set_alone(run: Run) -> Sample:
    cache = _cache()
    return each_key(run, lambda key: cache.__setitem__(key, 1))


@GET.by(WHO, "cachetools")
def get_alone(run: Run) -> Sample:
    return each_key(run, _full().get)


@SET_THREAD.by(WHO, "cachetools")
def set_locked(run: Run) -> Sample:
    cache, lock = _cache(), threading.RLock()

    def put(key: str) -> None:
        with lock:
            cache[key] = 1

    return in_thread(run, put)


@GET_THREAD.by(WHO, "cachetools")
def get_locked(run: Run) -> Sample:
    cache, lock = _full(), threading.RLock()

    def read(key: str) -> Any:
        with lock:
            return cache.get(key)

    return in_thread(run, read)


@SWEEP.by(WHO, "cachetools")
def sweep(run: Run) -> Sample:
    """All values of a cache live equally long, so it is the oldest thousand that goes."""
    from cachetools import TTLCache

    clock = [0.0]
    cache: Any = TTLCache(maxsize=1_000_000, ttl=TTL, timer=lambda: clock[0])
    holds = []
    for number in range(100_000):
        cache[number] = 1
        clock[0] += 0.001
    for sweep in range(run.of(20, 5)):
        gone = TTL + (sweep + 1) * 1.0
        start = time.perf_counter()
        assert len(cache.expire(gone)) in range(990, 1_010)
        holds.append((time.perf_counter() - start) * 1000)
    return Sample({"hold": statistics.median(holds)})
