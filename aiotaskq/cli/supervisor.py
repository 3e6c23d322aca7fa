"""``run --processes N`` and ``--reload``: a supervisor that starts worker processes, restarts them, and stops all.

Each process is a new interpreter with the same command line, not a fork and not a process of ``multiprocessing``:
nothing is inherited, no main module is imported again, and handlers may start processes. Each process has its own
session, so that Ctrl-C reaches only the supervisor, which passes it on once. Each has a socket to the supervisor, which
is closed when the supervisor ends.
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
from pathlib import Path

from msgspec import Struct
from msgspec.structs import asdict

from aiotaskq.cli.i18n import tr
from aiotaskq.cli.output import echo_error, echo_stderr, say_stderr
from aiotaskq.cli.shutdown import HOW_TO_STOP, MARGIN, STOPPED, Deadline, Signals, WorkerOptions
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.concurrency.failure_backoff import backoff
from aiotaskq.core.errors import missing
from aiotaskq.core.stopping import ExitCode
from aiotaskq.core.task import SECOND
from aiotaskq.log import log

QUICK = 10.0  # seconds; a process that ends sooner is restarted after a growing pause
MAX_PAUSE = 30.0  # seconds between two starts
TRIES = 5  # failed starts of every process in a row, after which the supervisor gives up
SHOWN = 3  # changed files that are named
PASS_ON = 0.1  # seconds by which a second signal is delayed, so that it is not taken for an echo of the first


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
    outdated: bool = False
    """Whether it was asked to stop since a file has changed; a second signal would end its drain."""

    def send(self, number: signal.Signals) -> None:
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, number)

    def kill_group(self) -> None:
        """Kill the process and those that it has started: the tasks of a dead worker run elsewhere."""
        with contextlib.suppress(
            ProcessLookupError, PermissionError
        ):  # the latter on macOS for a process that has ended
            os.killpg(self.process.pid, signal.SIGKILL)


def words_of(options: Struct, *, without: str = "") -> list[str]:
    """Return the options of a command line for the fields that are set, but for one."""
    found = {f"--{name.replace('_', '-')}": value for name, value in asdict(options).items() if name != without}
    given = {flag: value for flag, value in found.items() if value is not None and value is not False}  # 0 is given
    return [flag if value is True else f"{flag}={value}" for flag, value in given.items()]


class Supervisor:
    """Keeps ``processes`` worker processes running until a signal; with ``reload``, of the latest code."""

    def __init__(
        self, options: WorkerOptions, processes: int, *, reload: bool = False, served: Sequence[str] = ()
    ) -> None:
        """Create a supervisor of so many processes with these options.

        With ``reload`` they are stopped as by SIGTERM and started again when a Python file below the working directory
        has changed, and one that ends waits for such a change. ``served`` are the options of an operations API that
        the process serves, too.

        Raises ValidationError, and MissingExtra where ``reload`` lacks its library.
        """
        if reload:
            try:
                import watchfiles  # noqa: F401
            except ImportError:
                raise missing("watchfiles", "reload") from None
        words = [*words_of(options, without="target"), *served]
        flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # as multiprocessing does
        self._command = [sys.executable, *flags, "-m", "aiotaskq", "run", *words]
        self._target = options.target
        self._processes = processes
        self._reload = reload
        self._deadline = Deadline(self._force)
        self._signals = Signals(self._deadline, options.drain, options.grace)
        self._patience = options.drain + options.grace + MARGIN
        self._clock = SystemClock()
        self._children: dict[int, Child] = {}
        self._failed_starts: dict[int, int] = {}
        self._worst = 0

    async def run(self) -> int:
        """Run the processes until a signal; return the worst of their exit codes.

        Returns 1 if the first process does not start, or if every process fails at its start ``TRIES`` times in a row.
        Processes that have not ended ``MARGIN`` seconds after ``drain`` and ``grace`` are killed; then the code is 4.
        """
        self._stopping = asyncio.Event()
        self._begun = asyncio.Event()
        self._changed = asyncio.Event()
        watching = asyncio.create_task(self._watch()) if self._reload else None
        self._signals.attach(self._stop, self._hurry)
        try:
            # One process first: it creates the tables, and an error is printed once, not N times.
            keepers = [asyncio.create_task(self._keep(1))]
            await self._begun.wait()
            if not self._stopping.is_set():
                what = tr("{target} in {count} processes.", target=self._target, count=self._processes)
                if self._reload:
                    what = tr("{target} starts again when a Python file changes.", target=self._target)
                echo_stderr(f"{what} {tr(HOW_TO_STOP)}")
                keepers += [asyncio.create_task(self._keep(number)) for number in range(2, self._processes + 1)]
            await asyncio.gather(*keepers, *([] if watching is None else [watching]))
        finally:
            self._signals.detach(self._worst)
        if self._worst in STOPPED:
            say_stderr(STOPPED[ExitCode(self._worst)])
        return self._worst

    # ---- keeping one running ----

    async def _keep(self, number: int) -> None:
        deaths = self._failed_starts[number] = 0
        while not self._stopping.is_set():
            changed = self._changed
            code, child = await self._run_one(number)
            if self._stopping.is_set():
                self._count(code, child)
                return
            if self._reload:
                if not changed.is_set():
                    log.warning("process {} {}; it is started again when a file has changed", number, _how(code, child))
                await changed.wait()
                continue
            if not self._begun.is_set() and code > 0:
                self._give_up(code)  # the process has printed why
                return
            ready = child is not None and child.ready
            self._failed_starts[number] = 0 if ready else self._failed_starts[number] + 1
            if min(self._failed_starts.values()) >= TRIES:
                said = tr(
                    "every process failed at its start, {count} times in a row; see their output above", count=TRIES
                )
                echo_error(said)
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
                # Without a number its lines have no prefix, as those of a process without a supervisor.
                own = number if self._processes > 1 else 0
                words = [*self._command, f"--number={own}", f"--lifeline={line}", "--", self._target]
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
                self._heard(ours, child)  # it may have reported before it ended
        del self._children[number]
        if code not in (ExitCode.DRAINED, ExitCode.RELEASED):
            child.kill_group()
        return code, child

    def _heard(self, ours: socket.socket, child: Child) -> None:
        asyncio.get_running_loop().remove_reader(ours)
        with contextlib.suppress(ConnectionError, BlockingIOError):
            if ours.recv(1):  # empty: it has ended
                child.ready = True
                self._begun.set()

    # ---- watching files ----

    async def _watch(self) -> None:
        """Let every process start again after each change of a file, until the stop."""
        from watchfiles import PythonFilter, awatch

        async for changes in awatch(".", watch_filter=PythonFilter(), stop_event=self._stopping):
            names = sorted({str(Path(path).relative_to(Path.cwd())) for _, path in changes})
            more = ["…"] if len(names) > SHOWN else []
            files = tr(", ").join([*names[:SHOWN], *more])
            say_stderr("changed: {files}; the workers start again", files=files)
            self._start_again()

    def _start_again(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        for child in self._children.values():
            if not child.outdated:
                child.outdated = True
                child.send(signal.SIGTERM)

    # ---- stopping ----

    def _stop(self) -> None:
        self._stopping.set()
        self._begun.set()
        self._changed.set()
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
            return  # it had not started
        # After any other code the tasks of the process wait for their leases to expire, as abandoned ones.
        self._worst = max(self._worst, code if code in tuple(ExitCode) else ExitCode.ABANDONED)

    def _force(self, code: int) -> None:
        say_stderr("terminated: some processes did not stop in time and are killed")
        for child in list(self._children.values()):
            child.kill_group()
        os._exit(code)


def _how(code: int, child: Child | None) -> str:
    process = "" if child is None else f"(pid {child.process.pid}) "
    if code >= 0:
        return f"{process}ended with exit code {code}"
    try:
        return f"{process}was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"{process}was killed by signal {-code}"
