"""Worker processes whose tasks have an effect: each writes its number into a file of the process that runs it.

The file is outside the store, so what it says does not depend on what is tested. A process, which is
``python -m benchmarks.effects URL FILE CONCURRENCY``, answers ``ready`` and works until its input is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
TASK = "effect"
WIDTH = array("I").itemsize


class Worker:
    """One worker process, from the outside."""

    def __init__(self, url: str, ledger: Path, *, concurrency: int = 100) -> None:
        ledger.touch()
        self.ledger = ledger
        self.url = url
        command = [sys.executable, "-m", "benchmarks.effects", url, str(ledger), str(concurrency)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=ROOT, text=True)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def wait_until_ready(self) -> None:
        """Wait until it works. Raises RuntimeError if it ends instead."""
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            raise RuntimeError(f"a worker process ended with exit code {self._process.wait()}")

    @property
    def effects(self) -> int:
        """How many tasks have had their effect in it."""
        if self._process.poll() is not None:
            raise RuntimeError(f"a worker process ended with exit code {self._process.returncode}")
        return self.ledger.stat().st_size // WIDTH

    def stop(self) -> None:
        """Let it end its tasks, and wait for it; kill it if that takes too long."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


async def create(url: str) -> None:
    """Create the tables of an empty store, which several processes are about to open."""
    from aiotaskq import TaskQ

    async with TaskQ(url):
        pass


@contextlib.contextmanager
def working(url: str, folder: Path, count: int) -> Iterator[list[Worker]]:
    """Run so many worker processes, with their ledgers in that folder, while the context is entered."""
    workers: list[Worker] = []
    try:
        workers.extend(Worker(url, folder / f"{number}.ledger") for number in range(count))
        for worker in workers:
            worker.wait_until_ready()
        yield workers
    finally:
        for worker in workers:
            worker.stop()


@dataclass(frozen=True)
class Checked:
    """What the ledgers say of the tasks 0 to ``tasks`` - 1."""

    tasks: int
    effects: int
    lost: list[int]
    """Tasks without an effect."""
    repeated: list[int]
    """Tasks with more than one."""
    unknown: list[int]
    """Numbers that were never pushed."""


def check(ledgers: Iterable[Path], tasks: int) -> Checked:
    """Read the ledgers of all processes."""
    found = Counter[int]()
    for path in ledgers:
        numbers = array("I")
        numbers.frombytes(path.read_bytes())
        found.update(numbers)
    return Checked(
        tasks=tasks,
        effects=found.total(),
        lost=[number for number in range(tasks) if number not in found],
        repeated=sorted(number for number, count in found.items() if count > 1),
        unknown=sorted(number for number in found if number >= tasks),
    )


def params(numbers: Iterable[int]) -> list[tuple[str, dict[str, Any]]]:
    """Return what ``push_many`` takes for these tasks."""
    return [(TASK, {"number": number}) for number in numbers]


async def work(url: str, ledger: Path, concurrency: int) -> None:
    """Run as a worker process until the input is closed."""
    from aiotaskq import TaskQ

    tq = TaskQ(url)
    file = os.open(ledger, os.O_APPEND | os.O_WRONLY)

    @tq.task(name=TASK)
    async def effect(number: int) -> None:
        os.write(file, number.to_bytes(WIDTH, sys.byteorder))

    async with tq, tq.running(concurrency=concurrency, scheduler=False):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)
    os.close(file)


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
