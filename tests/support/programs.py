"""Python programs in processes of their own, for tests of exits, forks and signals."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.machine import watchdog
from tests.support.nursery import Popen

ROOT = Path(__file__).parent.parent.parent


def kill_all_of(program: subprocess.Popen[str]) -> None:
    """Kill a program that leads a process group, and the children that it has forked: they hold its pipes, too."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(program.pid, signal.SIGKILL)


def read_line(program: subprocess.Popen[str]) -> str:
    """Read a line of its standard output and nothing more: what a buffer holds, ``communicate`` would not return."""
    assert program.stdout is not None
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(program.stdout.fileno(), 1)):
        line += byte
    return line.decode()


class Program:
    """A Python program in a folder: started at once, watched line by line. ``code`` is a script or the name of one."""

    def __init__(self, folder: Path, code: str, *args: str, **environment: str) -> None:
        what = [code] if code.endswith(".py") else ["-c", textwrap.dedent(code)]
        # Forking a process with threads warns on 3.12+; that it works all the same is what is tested.
        self.popen: subprocess.Popen[str] = Popen(
            [sys.executable, "-W", "ignore::DeprecationWarning", *what, *args],
            cwd=folder,
            # Loguru without its default sink: where standard error matters, the lines of the facade are not wanted.
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "PYTHONUNBUFFERED": "1",
                "LOGURU_AUTOINIT": "False",
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )

    def wait_for(self, line: str) -> None:
        """Read until the program has said ``line``."""
        while got := read_line(self.popen):
            if got.strip() == line:
                return
        pytest.fail(f"never said {line!r}: {self.popen.communicate(timeout=watchdog())}")

    def stop(self) -> None:
        """Kill the program and its children."""
        kill_all_of(self.popen)
        self.popen.communicate()

    def signal(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def end(self, status: int = 0, stderr: str | tuple[str, ...] = "") -> list[str]:
        """Wait for the end; return the lines not read yet. The status and the last line of stderr must be these.

        Several lines: one of them is the last.
        """
        try:
            out, err = self.popen.communicate(timeout=watchdog())
        except subprocess.TimeoutExpired:
            kill_all_of(self.popen)
            pytest.fail(f"the program hangs: {self.popen.communicate()}")
        assert self.popen.returncode == status, (out, err)
        assert "".join(err.splitlines()[-1:]) in ((stderr,) if isinstance(stderr, str) else stderr), (out, err)
        return out.splitlines()

    def seconds_to_end(self, status: int = 0, stderr: str = "") -> float:
        """Wait for the end; return the seconds from now until then."""
        start = time.monotonic()
        self.end(status, stderr)
        return time.monotonic() - start


@contextmanager
def programs_in(folder: Path) -> Iterator[Callable[..., Program]]:
    """Give a function that starts programs in the folder; all are killed at the end."""
    started: list[Program] = []

    def start(code: str, *args: str, **environment: str) -> Program:
        started.append(Program(folder, code, *args, **environment))
        return started[-1]

    yield start
    for program in started:
        program.stop()


linux = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into /proc")


def open_files(path: Path) -> int:
    """Return how many files this process has open whose path begins with ``path``."""
    count = 0
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            count += os.readlink(f"/proc/self/fd/{entry}").startswith(str(path))
    return count
