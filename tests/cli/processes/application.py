"""An application, and ``aiotaskq run`` in real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

from aiotaskq.app.taskq import TaskQ
from aiotaskq.core.task import Task
from tests.support.machine import watchdog
from tests.support.nursery import Popen
from tests.support.programs import ROOT

APP = """
import asyncio, os, time
from pathlib import Path
from aiotaskq import TaskQ
from tests.support.machine import within

tq = TaskQ("sqlite:///app.db", lease=min(within(1), 5), poll_interval=0.05)

def say(word):
    print(word, os.getpid(), flush=True)

say("imported")

@tq.task
async def short(seconds=0.2):
    say("short")
    await asyncio.sleep(seconds)
    say("done")

@tq.task(max_retries=1)
async def long():
    say("long")
    await asyncio.sleep(60)

@tq.task
async def deaf():
    say("deaf")
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

@tq.task
async def blocking(seconds):
    say("blocking")
    time.sleep(seconds)
    say("unblocked")

@tq.task(executor="process", max_retries=0)
def quitting():
    raise SystemExit(3)

@tq.task(executor="process")
def elsewhere(seconds):
    say("elsewhere")
    time.sleep(seconds)
    say("survived")
"""


class Run:
    """``aiotaskq run`` in a process group of its own; what it and its processes say, line by line."""

    def __init__(self, home: Path, *args: str, code: str | None = None) -> None:
        what = ["-m", "aiotaskq", "run", *args] if code is None else ["-c", textwrap.dedent(code), *args]
        self.popen: subprocess.Popen[str] = Popen(
            [sys.executable, "-W", "always::DeprecationWarning", *what],
            cwd=home,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""},  # then a line is one write
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self.lines.append(line.rstrip("\n"))

    def said(self, word: str) -> list[int]:
        """Return who has said this word: process ids, in order."""
        pairs = [line.split() for line in self.lines]
        return [int(pair[1]) for pair in pairs if len(pair) == 2 and pair[0] == word and pair[1].isdigit()]

    def wait_for(self, word: str, count: int = 1) -> list[int]:
        """Wait until a word was said so often; return by whom."""
        self.until(lambda: len(self.said(word)) >= count, f"{count} x {word}")
        return self.said(word)

    def wait_for_line(self, text: str, count: int = 1) -> None:
        self.until(lambda: sum(text in line for line in self.lines) >= count, text)

    def until(self, held: Any, what: str) -> None:
        end = time.monotonic() + watchdog()
        while not held():
            assert time.monotonic() < end, f"never: {what}: {self.lines}"
            time.sleep(0.01)

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.popen.send_signal(number)

    def code(self) -> int:
        """Wait until it *and every process that it has started* has ended; return its exit code."""
        self._reader.join(watchdog())  # the pipe ends when no process has it open any more
        assert not self._reader.is_alive(), f"some process lives on: {self.lines}"
        return self.popen.wait(watchdog())

    def kill(self) -> None:
        """End all of it, whatever it does."""
        for pid in {self.popen.pid, *self.said("imported")}:
            if self._reader.is_alive():  # else all have ended, and the numbers may be others'
                try:
                    os.killpg(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        self.popen.wait()
        self._reader.join(watchdog())
        assert self.popen.stdout is not None
        self.popen.stdout.close()


class Place:
    """A folder with an application, its tasks and its runs."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.runs: list[Run] = []
        self.app()

    def app(self, more: str = "") -> None:
        (self.home / "app.py").write_text(APP + textwrap.dedent(more))

    def run(self, *args: str, code: str | None = None) -> Run:
        self.runs.append(Run(self.home, *args, code=code))
        return self.runs[-1]

    def run_app(self, processes: int, *args: str) -> Run:
        """Run the application, and return when all its processes work."""
        run = self.run("app:tq", "--processes", str(processes), *args)
        run.wait_for("imported", processes)
        return run

    def push(self, type: str, times: int = 1, **params: Any) -> list[str]:
        async def main() -> list[str]:
            async with TaskQ(f"sqlite:///{self.home}/app.db") as tq:
                return [handle.task_id for handle in await tq.push_many([(type, params)] * times)]

        return asyncio.run(main())

    def tasks(self) -> list[Task]:
        async def main() -> list[Task]:
            async with TaskQ(f"sqlite:///{self.home}/app.db") as tq:
                return await tq.find(limit=1_000)

        return asyncio.run(main())

    def statuses(self) -> set[str]:
        return {str(task.status) for task in self.tasks()}


# A process that says that it works, or not, as the supervisor's own know it; quicker to start than a real one.
CHILD = """
import os, signal, socket, sys, time
number, line = (int(word.partition("=")[2]) for word in sys.argv[1:3])
def ready():
    socket.socket(fileno=line).send(b"r")
"""


SUPERVISOR = """
import asyncio, os, signal
from aiotaskq.cli import shutdown as stopping
from aiotaskq.cli import supervisor as processes
from aiotaskq.cli.run import show_log

show_log("INFO")
supervisor = processes.Supervisor(stopping.WorkerOptions("app:tq", drain=0.0, grace=0.0), 2)
supervisor._command = {command}
{patch}
raise SystemExit(asyncio.run(supervisor.run()))
"""


def supervisor(child: str, patch: str = "") -> str:
    command = [sys.executable, "-S", "-c", CHILD + textwrap.dedent(child)]
    return SUPERVISOR.format(command=repr(command), patch=textwrap.dedent(patch))
