"""``aiotaskq run --processes N``: a supervisor that starts worker processes, replaces dead ones and stops all.

Each is a fresh interpreter with the same command line, not a fork and not a child of ``multiprocessing``: nothing is
inherited, no main module is imported again, and a handler may have processes of its own. Each has its own session, so a
Ctrl-C reaches only the supervisor, which passes it on once; and a socket to the supervisor, which ends with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from aiotaskq.cli.i18n import tr
from aiotaskq.cli.output import note, say_error
from aiotaskq.cli.run import HOW_TO_STOP, STOPPED, show_log
from aiotaskq.cli.shutdown import MARGIN, Deadline, Signals
from aiotaskq.concurrency.backoff import backoff
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.task import SECOND
from aiotaskq.log import log
from aiotaskq.runtime.worker.worker import ExitCode

QUICK = 10.0  # seconds: a process that dies sooner is started again ever more slowly
MAX_PAUSE = 30.0  # seconds between two starts
TRIES = 5  # starts in a row at which every process failed before it worked, then the supervisor gives up
PASS_ON = 0.1  # seconds that a second signal waits, so that it arrives too late to look like an echo of the first


def supervise(
    target: str,
    processes: int,
    *,
    concurrency: int,
    queues: Sequence[str] | None,
    drain: float,
    grace: float,
    level: str,
) -> int:
    """Run so many processes of ``aiotaskq run target`` until a signal; return the worst of their exit codes.

    Returns 1 when the first does not even start, or all of them fail at their start ``TRIES`` times in a row. What has
    not ended when ``drain``, ``grace`` and 5 s more are over is killed, and the code is 4.
    """
    show_log(level)
    options = {"concurrency": concurrency, "drain": drain, "grace": grace, "log-level": level}
    if queues is not None:
        options["queues"] = ",".join(queues)
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # as multiprocessing does
    command = [sys.executable, *flags, "-m", "aiotaskq", "run"]
    command += [f"--{name}={value}" for name, value in options.items()]
    return Supervisor(command, target, processes, drain, grace).run()


def pause(deaths: int) -> float:
    """Return the seconds until the next start after so many quick deaths in a row."""
    return 0.0 if deaths <= 1 else backoff(deaths - 1, 0.5, MAX_PAUSE)


@dataclass(slots=True)
class Child:
    """One start of a worker process."""

    process: asyncio.subprocess.Process
    started: int
    """Ticks."""
    ready: bool = False

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it has not ended."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, number)

    def kill_group(self) -> None:
        """Kill it and what it has started, so that nothing works on for a dead worker whose tasks run elsewhere."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # which is what macOS says of one that has ended
            os.killpg(self.process.pid, signal.SIGKILL)


class Supervisor:
    """Keeps ``processes`` worker processes running until it is told to stop."""

    def __init__(self, command: Sequence[str], target: str, processes: int, drain: float, grace: float) -> None:
        """Wire a supervisor of ``command -- target``; ``drain`` and ``grace`` in seconds. Raises ValidationError."""
        self._command = command
        self._target = target
        self._processes = processes
        self._deadline = Deadline(self._force)
        self._signals = Signals(self._deadline, drain, grace)
        self._patience = drain + grace + MARGIN
        self._clock = SystemClock()
        self._children: dict[int, Child] = {}
        self._failed_starts: dict[int, int] = {}
        self._worst = 0

    def run(self) -> int:
        """Run until a signal, or until it is no use; return the exit code."""
        return asyncio.run(self._run())

    async def _run(self) -> int:
        self._stopping = asyncio.Event()
        self._begun = asyncio.Event()
        self._signals.attach(self._stop, self._hurry)
        try:
            # One alone at first: it makes the tables, and if something is wrong it is said once, not N times.
            keepers = [asyncio.create_task(self._keep(1))]
            await self._begun.wait()
            if not self._stopping.is_set():
                what = tr("{target} in {count} processes.", target=self._target, count=self._processes)
                note(f"{what} {tr(HOW_TO_STOP)}")
                keepers += [asyncio.create_task(self._keep(number)) for number in range(2, self._processes + 1)]
            await asyncio.gather(*keepers)
        finally:
            self._signals.detach(self._worst)
        if self._worst in STOPPED:
            note(tr(STOPPED[ExitCode(self._worst)]))
        return self._worst

    # ---- keeping one running ----

    async def _keep(self, number: int) -> None:
        deaths = self._failed_starts[number] = 0
        while not self._stopping.is_set():
            code, child = await self._run_one(number)
            if self._stopping.is_set():
                self._count(code, child)
                return
            if not self._begun.is_set() and code > 0:
                self._give_up(code)  # it has said why
                return
            ready = child is not None and child.ready
            self._failed_starts[number] = 0 if ready else self._failed_starts[number] + 1
            if min(self._failed_starts.values()) >= TRIES:
                said = tr(
                    "every process failed at its start, {count} times in a row; what they said is above", count=TRIES
                )
                say_error(said)
                self._give_up(1)
                return
            lived = 0.0 if child is None else (self._clock.ticks() - child.started) / SECOND
            deaths = deaths + 1 if lived < QUICK else 0
            seconds = pause(deaths)
            when = f"in {seconds:.1f} s" if seconds else "at once"
            log.warning("process {} {}; it is started again {}", number, _how(code, child), when)
            await self._clock.wait(self._stopping, seconds)

    async def _run_one(self, number: int) -> tuple[int, Child | None]:
        """Run one process to its end; return its exit code (a signal is negative), and None if it could not start."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with ours:
            with theirs:
                line = theirs.fileno()
                words = [*self._command, f"--number={number}", f"--lifeline={line}", "--", self._target]
                try:
                    process = await asyncio.create_subprocess_exec(
                        *words, stdin=subprocess.DEVNULL, pass_fds=[line], start_new_session=True
                    )
                except OSError as error:
                    log.error("process {} cannot be started: {}", number, error)
                    return 1, None
            child = self._children[number] = Child(process, self._clock.ticks())
            if self._stopping.is_set():  # while it was started
                child.send(signal.SIGTERM)
            loop = asyncio.get_running_loop()
            loop.add_reader(ours, functools.partial(self._heard, ours, child))
            try:
                code = await process.wait()
            finally:
                self._heard(ours, child)  # the last that it said
        del self._children[number]
        if code not in (ExitCode.DRAINED, ExitCode.GIVEN_BACK):
            child.kill_group()
        return code, child

    def _heard(self, ours: socket.socket, child: Child) -> None:
        asyncio.get_running_loop().remove_reader(ours)
        with contextlib.suppress(ConnectionError, BlockingIOError):
            if ours.recv(1):  # else it has ended
                child.ready = True
                self._begun.set()

    # ---- stopping ----

    def _stop(self) -> None:
        self._stopping.set()
        self._begun.set()
        for child in self._children.values():
            child.send(signal.SIGTERM)

    def _hurry(self) -> None:
        asyncio.get_running_loop().call_later(PASS_ON, self._stop)

    def _give_up(self, code: int) -> None:
        self._worst = code
        self._deadline.set(self._patience)
        self._stop()

    def _count(self, code: int, child: Child | None) -> None:
        if child is None or not child.ready:
            return  # it had not begun
        told = code in tuple(ExitCode)
        # What a process held that ended in another way is left to its lease, as what was abandoned.
        self._worst = max(self._worst, code if told else ExitCode.ABANDONED)

    def _force(self, code: int) -> None:
        note(tr("ended by force: some processes did not stop in time and are killed"))
        for child in list(self._children.values()):
            child.kill_group()
        os._exit(code)


def _how(code: int, child: Child | None) -> str:
    who = "" if child is None else f"(pid {child.process.pid}) "
    if code >= 0:
        return f"{who}ended with exit code {code}"
    try:
        return f"{who}was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"{who}was killed by signal {-code}"
