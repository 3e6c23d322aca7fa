"""The slowness of this machine: every bound on a clock in a test is written for a quiet machine and scaled by it.

The first process of a run measures at its start, each process measures again between tests (``conftest.py``), the
load of the last minute is asked for whenever a bound is needed, and the slowest answer counts. A test that can count
the work instead (statements, wake-ups, calls) needs no bound.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

# What these take on a quiet machine of the kind that runs the suite, in seconds.
CPU = 0.03
START = 0.12
LATE = 0.05
MOST = 25.0
"""The highest factor; on a slower machine tests may fail."""
AGAIN = 20.0
"""Seconds after which a measurement is old."""
VARIABLE = "TESTS_SLOWNESS"
"""The environment variable that passes the factor to child processes."""


def spin() -> tuple[float, float]:
    """Return the seconds, of a wall clock and of this thread, that a fixed piece of work takes."""
    begin, own = time.perf_counter(), time.thread_time()
    number = 0
    for each in range(400_000):
        number += each * each % 7
    return time.perf_counter() - begin, time.thread_time() - own


def start() -> float:
    """Return the seconds that a Python process takes, from its start to its end."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-I", "-c", "import asyncio"], check=True)
    return time.perf_counter() - begin


def late() -> float:
    """Return how many seconds a timer is late."""
    begin = time.perf_counter()
    time.sleep(0.005)
    return time.perf_counter() - begin - 0.005


def load() -> float:
    """Return how many processes have wanted each core in the last minute, on average."""
    return os.getloadavg()[0] / (os.cpu_count() or 1)


class Machine:
    """The measurements at the start of the run and since."""

    def __init__(self) -> None:
        self.at_start = self.lately = float(os.environ.get(VARIABLE, "1"))
        self.work = 1.0
        self._measured = time.monotonic()

    @property
    def slowness(self) -> float:
        """How many times as long as on a quiet machine things take, by a wall clock."""
        return min(max(1.0, self.at_start, self.lately, load()), MOST)

    def calibrate(self) -> None:
        """Measure everything, some times; for the first process of a run."""
        rounds = sorted(max(self._quick(), start() / START) for _ in range(5))
        self.at_start = rounds[3]  # neither the best moment nor the worst
        self._tell()

    def look(self) -> None:
        """Measure what is cheap to measure, if that was not done lately."""
        if time.monotonic() - self._measured > AGAIN:
            self._quick()
            self._tell()

    def _tell(self) -> None:
        os.environ[VARIABLE] = f"{self.slowness:.2f}"

    def _quick(self) -> float:
        wall, own = spin()
        self.work = max(1.0, own / CPU)
        self.lately = max(wall / CPU, late() / LATE)
        self._measured = time.monotonic()
        return self.lately


MACHINE = Machine()


def within(seconds: float) -> float:
    """Return how many seconds to allow here for what takes at most ``seconds`` on a quiet machine."""
    return seconds * MACHINE.slowness


def working(seconds: float) -> float:
    """Return as much for CPU time of a thread or a process, which is longer where caches and cores are shared now."""
    return seconds * max(MACHINE.work, spin()[1] / CPU)


def watchdog() -> float:
    """Return the seconds after which a wait for something certain is a failure."""
    return within(40.0)
