"""Hints between processes on SQLite: a signal on the file, and ``PRAGMA data_version``, which every commit changes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from aiotaskq.backends.listeners import ENDED, NOTED, READY, TAKEN, Listeners
from aiotaskq.backends.sql.connections import Notifier
from aiotaskq.backends.sql.sqlite_file import SqliteFile
from aiotaskq.concurrency.forks import outside_of_forks
from aiotaskq.concurrency.loop_bound import LoopBound, keep_alive, running_loop_or_none

INTERVAL: Final = 0.02
"""Seconds between two polls, where the system has no signals on files.

A poll reads the memory that the processes share, and not the disk.
"""
SLOW_INTERVAL: Final = 0.1
"""The same where it has them; then polls notice what other programs have written."""
QUIET: Final = 0.004
"""Seconds from a hint to the next: a process that commits all the time must not make the others ask all the time."""
OURS: Final = 0.001
"""Seconds to the next look after a signal without a change, such as this process's own; doubled up to QUIET."""
RETRY: Final = 1.0
"""Seconds between attempts to open a file that cannot be opened or read now."""

_IN_CLOSE_NOWRITE: Final = 0x10  # of inotify(7)


class FileWatch(Notifier):
    """Tells the listeners that another connection may have committed, once ``listen`` was called.

    The counter changes for this process's own commits as well. These must not wake the listeners. So the counter is
    read when a transaction of this process has the lock, and again when it has ended, on its thread. A commit of
    another process between those two is missed until the next change; the queue's own polling goes on.

    On Linux the hints of a process are followed by a signal, which the others notice at once.
    """

    def __init__(self, database: str, listeners: Listeners) -> None:
        """Watch a file, given as SQLAlchemy's URLs have it: a path, or a ``file:`` URI of SQLite's own."""
        self._uri = database if database.startswith("file:") else f"{Path(database).absolute().as_uri()}?mode=rw"
        self._path = SqliteFile(database)
        self._log = f"{self._path.path}-wal"
        self._listeners = listeners
        listeners.forward = self._forward
        self._next = 0.0  # the time of the loop from which on the next signal is sent at once
        self._unsent = False
        self._bound = LoopBound()
        self._connection: sqlite3.Connection | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._seen = 0  # the counter when it was last read; it is never 0
        self._file: object = None  # the identity of the open file
        self._ours = False  # whether a transaction of this process has the lock
        self._signals: Signals | None = None
        self._again: asyncio.TimerHandle | None = None
        self._pause = OURS
        self._lock = threading.Lock()  # of the connection and the counter

    def listen(self) -> None:
        """Poll in the running loop, until ``stop``; idempotent."""
        if self._timer is not None and self._bound.here:
            return
        if self._bound.inherited:
            # SQLite forbids a forked child even to close its parent's connections.
            keep_alive(self._connection)
            self._connection, self._lock = None, threading.Lock()
            self._again = self._signals = None  # the loop's copy shares the parent's epoll: nothing is removed from it
        self._close()
        self._bound.bind()
        self._ours = False
        self._poll()

    async def stop(self) -> None:
        """Stop polling, and close the file."""
        self._send_late()
        if not self._bound.inherited:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = None
            self._close()

    def _forward(self, _kind: str, _names: Sequence[str]) -> None:
        """Send a signal, or soon one for all hints of the next moment: each wakes every process, this one, too."""
        loop = running_loop_or_none()
        if loop is not None and (left := self._next - loop.time()) > 0:
            if not self._unsent:
                self._unsent = True
                loop.call_later(left, self._send_late)
            return
        self._unsent = False
        if loop is not None:
            self._next = loop.time() + QUIET
        send_signal(self._log)

    def _send_late(self) -> None:
        if self._unsent:
            self._unsent = False
            send_signal(self._log)

    def writing(self) -> None:
        """Note that a transaction of this process has the lock: changes up to now are of other processes."""
        self._check(ours=True)

    def written(self) -> None:
        """Note that it has ended: the last change was its own."""
        with outside_of_forks, self._lock:
            if self._ours and self._seen:
                self._moved()
            self._ours = False

    def _check(self, ours: bool = False) -> bool:
        with outside_of_forks, self._lock:
            # The first reading of a file always tells: what was missed before it is unknown.
            others = (not self._ours or not self._seen) and self._moved()
            self._ours = self._ours or ours
        if others:
            for kind in (READY, TAKEN, ENDED, NOTED):
                self._listeners.receive(kind)
        return others

    def _moved(self) -> bool:
        if self._connection is None or self._bound.inherited:
            return False
        try:
            (counter,) = self._connection.execute("PRAGMA data_version").fetchone()
        except sqlite3.Error:
            self._drop()
            return False
        before, self._seen = self._seen, counter
        return bool(before != counter)

    def _poll(self) -> None:
        loop = asyncio.get_running_loop()
        if self._connection is None or self._path.identity() != self._file:
            self._close()  # it was deleted or replaced: changes are in the new one
            # Without waiting for a lock: this is the thread of the loop.
            self._file = self._path.identity()
            with contextlib.suppress(sqlite3.Error), outside_of_forks:
                self._connection = sqlite3.connect(
                    self._uri, uri=True, timeout=0, isolation_level=None, check_same_thread=False
                )
        self._check()
        self._pause, interval = OURS, RETRY
        if self._connection is not None:
            # Now that the connection has read, there is a log, which stays while it is open.
            with contextlib.suppress(OSError, NotImplementedError):
                self._signals = self._signals or self._watch(Signals(self._log))
            interval = INTERVAL if self._signals is None else SLOW_INTERVAL
        self._timer = loop.call_later(interval, self._poll)

    def _watch(self, signals: Signals) -> Signals:
        asyncio.get_running_loop().add_reader(signals.fd, self._look, signals)
        return signals

    def _look(self, signals: Signals) -> None:
        """Look whether another process has committed, and not again for a while."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(signals.fd)
        signals.clear()
        pause, self._pause = (QUIET, OURS) if self._check() else (self._pause, min(2 * self._pause, QUIET))
        self._again = loop.call_later(pause, self._watch, signals)

    def _close(self) -> None:
        with outside_of_forks, self._lock:  # a crashed loop may close it while the next one does
            again, signals = self._again, self._signals
            self._again = self._signals = None
            self._drop()
        if again is not None:
            again.cancel()
        if signals is not None:
            if self._bound.alive and self._bound.loop is not None:
                self._bound.loop.remove_reader(signals.fd)
            signals.close()

    def _drop(self) -> None:
        connection, self._connection, self._seen = self._connection, None, 0
        if connection is not None:
            connection.close()


def send_signal(path: str) -> None:
    """Make the ``Signals`` of a file readable, in all processes of this host: open it, and close it unchanged.

    Only for the log: closing a file releases what locks this process has on it (fcntl(2)), and SQLite has none there.
    """
    with contextlib.suppress(OSError):
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))


class Signals:
    """A file descriptor that is readable after ``send_signal`` for a file, by any process of this host."""

    def __init__(self, path: str) -> None:
        """Watch the file at the path. Raises OSError if it is missing, or the system cannot watch it."""
        self.fd = -1
        if sys.platform != "linux":
            raise OSError("only Linux has inotify")
        import ctypes  # only where it is used: it takes a while

        libc = ctypes.CDLL(None, use_errno=True)
        self.fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        if libc.inotify_add_watch(self.fd, os.fsencode(path), _IN_CLOSE_NOWRITE) < 0:
            raise OSError(ctypes.get_errno(), "inotify_add_watch")

    def clear(self) -> None:
        """Read what is there, so that only a later signal makes it readable again."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 65_536)

    def close(self) -> None:
        """Close the descriptor; idempotent."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    __del__ = close
