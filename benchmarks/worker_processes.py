"""Worker processes of a contestant, for what is drained by several at a time.

They are started once for all runs of a contestant, since that takes longer than a run. Each process, which is
``python -m benchmarks.worker_processes``, reads which store to open, answers ``ready``, works from ``go`` to ``stop``
while it reports, and reads the next store.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

from benchmarks.system import SYSTEMS, System

ROOT = Path(__file__).parent.parent
REPORT = 0.005  # seconds between two reports of a worker
PATIENCE = 120.0

_idle: dict[tuple[str, str, int], list[WorkerProcess]] = {}


class WorkerProcess:
    """One worker process, from the outside."""

    def __init__(self, family: str, who: str) -> None:
        command = [sys.executable, "-m", "benchmarks.worker_processes", family, who]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=ROOT, text=True)

    def send(self, line: str) -> None:
        """Write one line to it."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    async def receive(self) -> Any:
        """Return its next answer."""
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            line = await asyncio.to_thread(self._process.stdout.readline)
        if not line:
            raise RuntimeError(f"a worker process ended with exit code {self._process.wait()}")
        return json.loads(line)


class WorkerProcesses:
    """Processes that have opened the contestant, and work while the context is entered."""

    def __init__(self, kind: type[System], place: str, *, processes: int, concurrency: int) -> None:
        self._key = (kind.family, kind.who, processes)
        self._order = json.dumps({"place": place, "concurrency": concurrency})
        self._count = processes
        self._reports: list[dict[str, float]] = [{} for _ in range(processes)]
        self.waits: list[float] = []  # from push to start, in seconds, of tasks with the time of their push
        self._changed = asyncio.Event()

    async def __aenter__(self) -> WorkerProcesses:
        # Those of a failed run are not used again; they end with this process.
        self._processes = _idle.pop(self._key, []) or [WorkerProcess(*self._key[:2]) for _ in range(self._count)]
        for process in self._processes:
            process.send(self._order)
        for process in self._processes:
            assert await process.receive() == "ready"
        for process in self._processes:
            process.send("go")
        self._readers = [asyncio.create_task(self._read(number)) for number in range(self._count)]
        return self

    async def __aexit__(self, *error: object) -> None:
        for process in self._processes:
            process.send("stop")
        await asyncio.gather(*self._readers)
        if error == (None, None, None):
            _idle[self._key] = self._processes

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
        while report := await self._processes[number].receive():
            self.waits += report.pop("waits")
            self._reports[number] = report
            self._changed.set()


async def work(family: str, who: str, lines: IO[str], send: Any) -> None:
    """Run as a worker process, for each store that is read from the lines."""
    while line := await asyncio.to_thread(lines.readline):
        order = json.loads(line)
        system = SYSTEMS[family, who](order["place"])
        await system.open()
        send("ready")
        await asyncio.to_thread(lines.readline)
        stop = asyncio.create_task(asyncio.to_thread(lines.readline))
        reported = 0
        async with system.working(order["concurrency"]):
            while not stop.done():
                await asyncio.wait([stop], timeout=REPORT)
                if (count := system.tally.count) != reported:
                    reported = count
                    send({"count": count, "first": system.tally.first, "waits": system.tally.waits})
                    system.tally.waits = []
        await system.close()
        send(None)


def main() -> None:
    from benchmarks.case import load
    from benchmarks.contestant_process import answers

    out = answers()
    load()
    asyncio.run(work(sys.argv[1], sys.argv[2], sys.stdin, lambda word: print(json.dumps(word), file=out, flush=True)))


if __name__ == "__main__":
    main()
