"""Daemon threads: each call is run, whatever the size of the pool becomes meanwhile, and at the end none is left."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from aiotaskq.runtime.worker.executors import DaemonThreads
from tests.support.machine import within

CALLS = [lambda: 1, lambda: time.sleep(0), lambda: time.sleep(0.0002)]


@pytest.fixture
def switching() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("seed", range(20))
def test_every_call_is_run_while_the_size_changes(seed: int, switching: None) -> None:
    chance = random.Random(seed)
    pool = DaemonThreads(chance.randint(1, 4), f"seed-{seed}")
    for _ in range(20):
        made = [pool.submit(chance.choice(CALLS)) for _ in range(chance.randint(0, 4))]
        pool.resize(size := chance.randint(1, 4))
        for future in made:
            future.result(within(5))
    last = [pool.submit(lambda: 1) for _ in range(3)]
    pool.shutdown()
    assert [future.result(0) for future in last] == [1, 1, 1]
    assert sum(each.name.startswith(f"seed-{seed}-") for each in threading.enumerate()) == 0 < size
