"""Worker processes of a contestant, for what is drained by several at a time.

They are started once for all runs of a contestant, since that takes longer than a run: ``python -m benchmarks.crew``
reads where to open its queue, says ``ready``, works from ``go`` to ``stop`` while it reports, and reads the next place.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

from benchmarks.system import System

ROOT = Path(__file__).parent.parent
REPORT = 0.005  # seconds between two reports of a worker
PATIENCE = 120.0

_idle: dict[tuple[str, str, int], list[Hand]] = {}


class Hand:
    """One worker process, from the outside."""

    def __init__(self, family: str, who: str) -> None:
        command = [sys.executable, "-m", "benchmarks.crew", family, who]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=ROOT, text=True)

    def say(self, line: str) -> None:
        """Write one line to it."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    async def hear(self) -> Any:
        """Return what it says next."""
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            line = await asyncio.to_thread(self._process.stdout.readline)
        if not line:
            raise RuntimeError(f"a worker process ended with exit code {self._process.wait()}")
        return json.loads(line)


class Crew:
    """So many processes, each with the contestant opened and waiting, that start to work when the crew is entered."""

    def __init__(self, kind: type[System], place: str, *, processes: int, concurrency: int) -> None:
        self._key = (kind.family, kind.who, processes)
        self._order = json.dumps({"place": place, "concurrency": concurrency})
        self._count = processes
        self._reports: list[dict[str, float]] = [{} for _ in range(processes)]
        self.waits: list[float] = []  # from push to start, in seconds, of tasks that say when they were pushed
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Crew:
        # What breaks leaves them to be killed with this process: who knows what state they are in.
        self._hands = _idle.pop(self._key, []) or [Hand(*self._key[:2]) for _ in range(self._count)]
        for hand in self._hands:
            hand.say(self._order)
        for hand in self._hands:
            assert await hand.hear() == "ready"
        for hand in self._hands:
            hand.say("go")
        self._readers = [asyncio.create_task(self._read(number)) for number in range(self._count)]
        return self

    async def __aexit__(self, *error: object) -> None:
        for hand in self._hands:
            hand.say("stop")
        await asyncio.gather(*self._readers)
        if error == (None, None, None):
            _idle[self._key] = self._hands

    @property
    def first(self) -> float:
        """When the first task of all started, by the clock of ``time.perf_counter``, which processes share."""
        return min(report["first"] for report in self._reports if report.get("count"))

    async def until(self, count: int) -> None:
        """Wait until so many tasks have run in all processes together."""
        async with asyncio.timeout(PATIENCE):
            while sum(report.get("count", 0) for report in self._reports) < count:
                self._changed.clear()
                await self._changed.wait()

    async def _read(self, number: int) -> None:
        while report := await self._hands[number].hear():
            self.waits += report.pop("waits")
            self._reports[number] = report
            self._changed.set()


async def work(family: str, who: str, lines: IO[str], say: Any) -> None:
    """What a worker process does, for each place that it is told."""
    from benchmarks.queues import SYSTEMS

    while line := await asyncio.to_thread(lines.readline):
        order = json.loads(line)
        system = SYSTEMS[family, who](order["place"])
        await system.open()
        say("ready")
        await asyncio.to_thread(lines.readline)
        stop = asyncio.create_task(asyncio.to_thread(lines.readline))
        said = 0
        async with system.working(order["concurrency"]):
            while not stop.done():
                await asyncio.wait([stop], timeout=REPORT)
                if (count := system.tally.count) != said:
                    said = count
                    say({"count": count, "first": system.tally.first, "waits": system.tally.waits})
                    system.tally.waits = []
        await system.close()
        say(None)


def main() -> None:
    from benchmarks.case import load
    from benchmarks.child import answers

    out = answers()
    load()
    asyncio.run(work(sys.argv[1], sys.argv[2], sys.stdin, lambda word: print(json.dumps(word), file=out, flush=True)))


if __name__ == "__main__":
    main()
