"""Ends the servers of a test run that was killed, and removes their folders: a process that outlives the run.

Not by the signal that Linux sends at the death of a parent: it is sent when the thread ends that has started the child.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time

PATIENCE = 10.0
"""Seconds that a server has to end, before it is killed."""


# ---- the test's side ------------------------------------------------------------------------------------------------


class Keeper:
    """The line to the process that ends servers when this process has died."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__],
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,  # else a reader of the run's output would wait for this process, too
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        atexit.register(self._close)

    def keep(self, folder: str, pid: int = 0, number: int = 0) -> None:
        """Say which folder to remove, the process that leads a session there, and the signal that ends it."""
        self._tell([folder, pid, number])

    def release(self, folder: str) -> None:
        """Say that a folder is gone."""
        self._tell([folder])

    def _tell(self, words: list[object]) -> None:
        assert self._process.stdin is not None
        with self._lock:
            self._process.stdin.write(json.dumps(words).encode() + b"\n")
            self._process.stdin.flush()

    def _close(self) -> None:
        if self.pid == os.getpid():
            self._process.communicate()


_made: list[Keeper] = []
_making = threading.Lock()


def keeper() -> Keeper:
    """The one of this process."""
    with _making:
        if not _made or _made[0].pid != os.getpid():  # a fork's is its parent's
            _made[:] = [Keeper()]
        return _made[0]


# ---- the process that outlives it -----------------------------------------------------------------------------------


def _kept() -> dict[str, tuple[int, int]]:
    """Return what is left when the parent has ended: folders, with the process and the signal."""
    kept: dict[str, tuple[int, int]] = {}
    events = select.poll()
    events.register(0, select.POLLIN)
    if hasattr(os, "pidfd_open"):  # the line stays open while a forked child of the parent lives
        with contextlib.suppress(ProcessLookupError):
            events.register(os.pidfd_open(os.getppid()), select.POLLIN)
    begun = b""
    while True:
        ready = {fd for fd, _ in events.poll()}
        chunk = os.read(0, 65536) if 0 in ready else b""
        if not chunk:
            return kept
        *lines, begun = (begun + chunk).split(b"\n")
        for line in lines:
            folder, *what = json.loads(line)
            if what:
                kept[folder] = (what[0], what[1])
            else:
                kept.pop(folder, None)


def _send(pid: int, number: int) -> bool:
    """Send a signal to the leader of a session; return whether there is one with this pid."""
    with contextlib.suppress(OSError):
        if pid and os.getsid(pid) == pid:
            os.kill(pid, number)
            return True
    return False


def _main() -> None:
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    kept = _kept()
    running = {pid for pid, number in kept.values() if _send(pid, number)}
    give_up = time.monotonic() + PATIENCE
    while running and time.monotonic() < give_up:
        time.sleep(0.05)
        running = {pid for pid in running if _send(pid, 0)}
    for pid in running:
        _send(pid, signal.SIGKILL)
    for folder in kept:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _main()
