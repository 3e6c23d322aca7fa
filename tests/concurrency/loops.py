"""Coroutines, threads and programs for the tests of the background loop."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading

import pytest

from tests.support.machine import watchdog
from tests.support.programs import ROOT, kill_all_of, read_line


async def value(result: int = 42) -> int:
    return result


async def forever(started: threading.Event | None = None) -> int:
    if started is not None:
        started.set()
    await asyncio.Event().wait()
    return 0


async def stubborn(started: threading.Event, release: threading.Event) -> int:
    """Ignore every cancellation until ``release`` is set."""
    started.set()
    while not release.is_set():
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            continue
    return 7


def block(began: threading.Event, release: threading.Event) -> None:
    began.set()
    release.wait(watchdog())


class Process:
    """A Python program of its own, told to us line by line: exits, forks and signals have to be real."""

    def __init__(self, code: str, before: str = "", after: str = "") -> None:
        prelude = """
            import asyncio, atexit, os, signal, sys, threading, time, types
            # The package root would import everything, SQLAlchemy too, into each of these processes.
            sys.modules["aiotaskq"] = types.ModuleType("aiotaskq")
            sys.modules["aiotaskq"].__path__ = ["aiotaskq"]
            from aiotaskq.errors import *
            from aiotaskq.concurrency.loop_thread import LoopThread
            lt = LoopThread()
            async def value(result=42): return result
            async def forever(): await asyncio.Event().wait()
            def say(*words): os.write(1, (" ".join(map(str, words)) + "\\n").encode())
        """
        program = "".join(map(textwrap.dedent, (before, prelude, code))) + "\n" + after
        # Forking a process with threads warns on 3.12+; that it works all the same is what is tested.
        self.popen = subprocess.Popen(
            [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )

    def wait_for(self, line: str) -> None:
        got = read_line(self.popen).strip()
        assert got == line, (got, self.popen.communicate(timeout=watchdog()))

    def end(self) -> tuple[int, list[str], str]:
        """Return exit status, lines of stdout, stderr; a hang kills it and fails the test."""
        try:
            out, err = self.popen.communicate(timeout=watchdog())
        except subprocess.TimeoutExpired:
            kill_all_of(self.popen)
            pytest.fail(f"the process hangs: {self.popen.communicate()}")
        return self.popen.returncode, out.splitlines(), err
