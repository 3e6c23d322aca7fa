"""Starts, kills, pauses and stops real processes by a seeded plan, waits until the work is done, and reports.

A scenario takes a ``Place`` (an empty store) and makes a ``Fleet`` on it::

    async with Fleet(place, folder, "kills") as fleet:
        await fleet.start("worker", 4)
        ...
        report = await fleet.report()
    report.check()
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from aiotaskq.backends import connect
from aiotaskq.backends.base import Backend
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.outcome import MAX_CRASHES
from aiotaskq.core.status import Status
from aiotaskq.core.stopping import ExitCode
from aiotaskq.core.task import SECOND, Task, TaskFilter, new_task
from aiotaskq.runtime.queue.queue import Queue
from tests.chaos.checker import Findings, Harm, check
from tests.chaos.ledger import Line, read, read_all
from tests.chaos.places import Place
from tests.support.machine import within
from tests.support.programs import ROOT

SEED = int(os.environ.get("AIOTASKQ_CHAOS_SEED") or random.SystemRandom().randrange(1_000_000))
SCALE = float(os.environ.get("AIOTASKQ_CHAOS_SCALE") or 1.0)

REPORTS: list[Report] = []
"""Of every scenario of this run, in order."""

SURFACED = re.compile(
    r"database is locked|deadlock|(?<![\w-])(1213|1205)(?![\w-])|could not be settled|^Traceback|Task was destroyed",
    re.IGNORECASE,
)
"""What must never be seen in a process's log, whatever was done to it. The numbers are MySQL's, not parts of ids."""


@dataclass
class Process:
    """One process of the fleet."""

    name: str
    role: str
    options: dict[str, Any]
    pid: int = 0
    born: float = 0.0
    ended: float | None = None
    status: int | None = None
    harmed: bool = False
    paused_at: float | None = None
    up: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def alive(self) -> bool:
        return self.status is None


@dataclass
class Report:
    """What a scenario came to."""

    scenario: str
    place: str
    seed: int
    findings: Findings
    seconds: float
    notes: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None

    def __post_init__(self) -> None:
        REPORTS.append(self)

    @property
    def violations(self) -> list[str]:
        return self.findings.violations

    def table(self) -> str:
        found = self.findings
        cells = {
            "tasks": found.tasks,
            "kills": found.harms,
            "lost": len(found.lost),
            "dupl.": found.duplicates,
            "explained": found.explained,
            "rec. p50": f"{found.p50:.2f}",
            "rec. p99": f"{found.p99:.2f}",
            "wall s": f"{self.seconds:.1f}",
            **self.notes,
        }
        widths = [max(len(str(value)), len(name)) for name, value in cells.items()]
        lines = [
            f"{self.scenario} on {self.place}, seed {self.seed}: {len(found.violations)} violations",
            "  " + "  ".join(name.rjust(width) for name, width in zip(cells, widths, strict=True)),
            "  " + "  ".join(str(value).rjust(width) for value, width in zip(cells.values(), widths, strict=True)),
            *(f"  VIOLATION {each}" for each in found.violations[:20]),
        ]
        return "\n".join(lines)

    def must(self, holds: bool, what: str) -> None:
        """Note a promise that was not kept."""
        if not holds:
            self.findings.violations.append(what)

    def check(self) -> None:
        """Raise AssertionError, with the table, if a promise was not kept."""
        assert not self.violations, f"AIOTASKQ_CHAOS_SEED={self.seed}; ledgers in {self.folder}\n{self.table()}"


class Fleet:
    """The processes of one scenario, their ledgers, and what was done to them. An async context manager."""

    def __init__(
        self,
        place: Place,
        folder: Path,
        scenario: str,
        *,
        lease: float = 2.0,
        heartbeat: float = 0.5,
        reap: float = 0.5,
        fault: str = "",
        patience: float = 60.0,
        tolerance: float = 1.0,
        **common: Any,
    ) -> None:
        """``patience``: how many seconds without any progress to wait on a quiet machine.

        ``common`` are options of every process.

        ``tolerance`` stretches what is promised about time, for a machine that does several scenarios at once.
        """
        self.patience, self.tolerance = patience, tolerance
        self.expected: re.Pattern[str] | None = None
        """What the scenario makes a process say, though it is among what must not be seen as a rule."""
        self.place = place
        self.scenario = scenario
        self.seed = SEED
        self.chance = random.Random(f"{SEED} {scenario} {place.name}")
        self.lease, self.heartbeat, self.reap = lease, heartbeat, reap
        self.folder = folder / f"{place.name}-{scenario}"
        self.folder.mkdir(parents=True)
        self.common = {
            "url": place.url,
            "schedules": place.schedules,
            "folder": str(self.folder),
            "lease": lease,
            "heartbeat": heartbeat,
            "reap": reap,
            "fault": fault,
            "seed": SEED,
            **common,
        }
        self.processes: list[Process] = []
        self.harms: list[Harm] = []
        self.notes: dict[str, Any] = {}
        self.acked: set[str] = set()
        self.clock = SystemClock()
        self._orders: dict[int, Process] = {}
        self._begin = time.monotonic()

    def allowed(self, seconds: float) -> float:
        """Return how many seconds to allow here for what is promised in so many."""
        return within(seconds * self.tolerance)

    @property
    def bound(self) -> float:
        """Seconds within which an interrupted task must be running again."""
        return self.allowed(self.lease + self.reap + 1.0)

    async def __aenter__(self) -> Fleet:
        self.backend: Backend = connect(self.place.url)
        await self.backend.open()
        self.queue = Queue(self.backend, self.clock)
        self._nursery = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.chaos.nursery",
            self.place.url,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self._hears = asyncio.create_task(self._hear())
        return self

    async def __aexit__(self, *_error: object) -> None:
        for process in self.processes:
            if process.alive and process.pid:
                self.signal(process, signal.SIGKILL)
        assert self._nursery.stdin is not None
        self._nursery.stdin.close()
        await self._nursery.wait()
        await self._hears
        await self.backend.close()

    async def _hear(self) -> None:
        assert self._nursery.stdout is not None
        while line := await self._nursery.stdout.readline():
            said = msgspec.json.decode(line)
            if "order" not in said:
                continue
            process = self._orders[said["order"]]
            if "pid" in said:
                process.pid = said["pid"]
                process.up.set()
            else:
                process.status, process.ended = said["status"], time.monotonic()
                if process.status == ExitCode.ABANDONED:
                    # What it left running ends with it.
                    self.harms.append(Harm("killed", process.ended, process.ended, process.pid))
                process.over.set()

    # ---- processes ----

    async def start(self, role: str, how_many: int = 1, /, *, name: str = "", **options: Any) -> list[Process]:
        """Start processes and wait until each is there (not until it works). A name may be used again."""
        started = []
        for _ in range(how_many):
            number = len(self.processes)
            process = Process(name or f"{role}-{number}", role, options, born=time.monotonic())
            self.processes.append(process)
            self._orders[number] = process
            order = {"order": number, "options": {**self.common, "name": process.name, "role": role, **options}}
            assert self._nursery.stdin is not None
            self._nursery.stdin.write(msgspec.json.encode(order) + b"\n")
            started.append(process)
        for process in started:
            await process.up.wait()
        return started

    async def booted(self, processes: Collection[Process], timeout: float = 30.0) -> None:
        """Wait until each process has said that it is up; ``timeout`` is for a quiet machine."""
        async with asyncio.timeout(within(timeout)):
            for process in processes:
                while not any(line.what == "boot" for line in read(self.folder / f"{process.name}.ledger")):
                    await asyncio.sleep(0.02)

    def alive(self, role: str = "worker") -> list[Process]:
        """The processes that run, and are not paused."""
        return [p for p in self.processes if p.role == role and p.alive and p.paused_at is None]

    async def expendable(self, processes: Collection[Process]) -> list[Process]:
        """Those that hold no task on its last chance: if it runs alone, a kill would make it poison, as is promised."""
        running = await self.backend.find(TaskFilter(status=(Status.RUNNING,)), 1000)
        owners = [row.lease_owner or "" for row in running if row.crashes >= MAX_CRASHES - 1]
        return [p for p in processes if not any(f"-{p.pid}-" in owner for owner in owners)]

    async def victim(self, besides: Collection[int] = ()) -> Process:
        """Choose a worker that is up, expendable and not paused, and none of ``besides``; wait until there is one."""
        async with asyncio.timeout(within(30)):
            while True:
                up = await self.expendable(self.listening())
                if found := [p for p in up if p.paused_at is None and p.pid not in besides]:
                    break
                await asyncio.sleep(0.05)
        return self.chance.choice(found)

    def listening(self) -> list[Process]:
        """The workers that run and have a handler for SIGTERM; before that it ends them at once, as any program."""
        up = {line.pid for line in self.lines() if line.what == "boot"}
        return [p for p in self.alive() if p.pid in up]

    def signal(self, process: Process, number: signal.Signals) -> None:
        """Send a signal; one that has just ended is skipped."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)

    async def kill(self, process: Process) -> None:
        """Kill -9, and wait until it is gone."""
        self.harms.append(Harm("killed", at := time.monotonic(), at, process.pid))
        process.harmed = True
        self.signal(process, signal.SIGKILL)
        await process.over.wait()

    async def pause(self, process: Process, seconds: float, *, unlocked: bool = False) -> bool:
        """SIGSTOP, and SIGCONT after so many seconds; at once, and False, for one that turns out not to be expendable.

        What it had claimed when it was chosen is known only now that it can claim no more. ``unlocked``: at once, and
        False, also for one that holds SQLite's only lock for writing. Until it goes on, no other can take its tasks.
        """
        at = process.paused_at = time.monotonic()
        self.signal(process, signal.SIGSTOP)
        await asyncio.sleep(0.1)  # what it had sent is committed
        lease_until = await self._lease_until(process)
        expendable = bool(await self.expendable([process]))
        if unlocked and await asyncio.to_thread(self.place.locked):
            expendable = False
        if expendable:
            await asyncio.sleep(seconds)
            # A heartbeat that it had sent may have come later. A worker that was removed has no lease.
            lease_until = max(lease_until, await self._lease_until(process))
        self.harms.append(Harm("paused", at, time.monotonic(), process.pid, lease_until))
        self.signal(process, signal.SIGCONT)
        process.paused_at = None
        return expendable

    async def _lease_until(self, process: Process) -> float:
        """Return when the lease of a worker ends, on the ledger's clock; the past if it has none."""
        assert self.backend.workers is not None
        leases = [each.lease_until for each in await self.backend.workers.all() if each.pid == process.pid]
        return time.monotonic() + (max(leases, default=0) - self.clock.now()) / SECOND

    async def terminate(self, process: Process, timeout: float) -> float:
        """SIGTERM; return the seconds until it was gone. After ``timeout`` it is killed, which is then noted."""
        start = time.monotonic()
        self.signal(process, signal.SIGTERM)
        try:
            async with asyncio.timeout(timeout):
                await process.over.wait()
        except TimeoutError:
            await self.kill(process)
        return time.monotonic() - start

    async def outage(self, work: Awaitable[Any]) -> None:
        """Do something to the store, or to the way there; whatever runs meanwhile may have been cut off by it."""
        at = time.monotonic()
        await work
        self.harms.append(Harm("cut", at, time.monotonic()))

    async def measure(self, process: Process) -> dict[str, Any]:
        """Ask a quiet worker what it holds."""
        path = self.folder / f"{process.name}.ledger"
        before = len(read(path))
        self.signal(process, signal.SIGUSR1)
        async with asyncio.timeout(within(30)):
            while len(lines := read(path)) == before:
                await asyncio.sleep(0.05)
        return lines[-1].data

    # ---- tasks ----

    async def push(self, kind: str, count: int, seconds: float = 0.0, **options: Any) -> list[str]:
        """Push tasks from here; they count as acknowledged."""
        now = self.clock.now()
        params = options.pop("params", {})
        tasks = [new_task(kind, {"seconds": seconds, **params}, now=now, **options) for _ in range(count)]
        await self.backend.push(tasks)
        ids = [task.task_id for task in tasks]
        self.acked.update(ids)
        return ids

    async def rows(self) -> list[Task]:
        """Every task in the store."""
        rows: list[Task] = []
        while True:
            page = await self.backend.find(TaskFilter(after=rows[-1].task_id if rows else None), 1000)
            rows += page
            if len(page) < 1000:
                return rows

    async def counts(self) -> dict[str, int]:
        """How many tasks there are by status; with the store away, an empty answer."""
        try:
            async with asyncio.timeout(10):
                return (await self.backend.stats(self.clock.now())).counts
        except Exception:
            return {}

    async def ended(self, task_id: str) -> bool:
        """Whether a task has a final status."""
        (task,) = await self.backend.get([task_id])
        return task is not None and task.final

    async def drained(
        self, total: Callable[[dict[str, int]], bool] = lambda _counts: True, *, besides: int = 0
    ) -> None:
        """Wait until nothing is pending or running (``besides`` so many), and ``total`` says that all were pushed.

        If nothing changes any more, that is what the checks will find.
        """
        last, since = None, time.monotonic()
        while time.monotonic() - since < within(self.patience):
            counts = await self.counts()
            if counts and counts[str(Status.PENDING)] + counts[str(Status.RUNNING)] <= besides and total(counts):
                return
            if counts != last:
                last, since = counts, time.monotonic()
            await asyncio.sleep(0.1)

    async def finished(self, processes: Collection[Process], timeout: float = 120.0) -> None:
        """Wait until processes have ended by themselves; ``timeout`` is for a quiet machine."""
        async with asyncio.timeout(within(timeout)):
            for process in processes:
                await process.over.wait()

    # ---- what came of it ----

    def lines(self) -> list[Line]:
        """What every process has written."""
        return read_all(self.folder)

    def logs(self) -> dict[str, str]:
        """What every process has said."""
        return {path.stem: path.read_text(errors="replace") for path in self.folder.glob("*.log")}

    async def report(self, **options: Any) -> Report:
        """Check what holds for any run, and that no process said or did what it must not."""
        lines = self.lines()
        acked = self.acked | {line.id for line in lines if line.what == "ack"}
        findings = check(lines, await self.rows(), self.harms, lease=self.lease, acked=acked, **options)
        seconds = time.monotonic() - self._begin
        report = Report(self.scenario, self.place.name, self.seed, findings, seconds, self.notes, self.folder)
        for name, said in self.logs().items():
            for line in said.splitlines():
                expected = self.expected is not None and self.expected.search(line)
                report.must(expected or not SURFACED.search(line), f"{name} said: {line[:200]}")
        suicides = {line.pid for line in lines if line.what == "suicide"}
        begun = {line.pid for line in lines}
        for process in self.processes:
            if not process.alive and not process.harmed and process.pid not in suicides:
                fine = process.status in (ExitCode.DRAINED, ExitCode.RELEASED, ExitCode.ABANDONED)
                # A SIGTERM ends a process that has no handler for it yet, as it ends any program.
                fine = fine or (process.status == -signal.SIGTERM and process.pid not in begun)
                last = (self.logs().get(process.name, "").splitlines() or ["nothing"])[-1]
                report.must(fine, f"{process.name} ended by itself with {process.status}, and said last: {last[:300]}")
        return report
