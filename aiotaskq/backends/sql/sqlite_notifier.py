"""Hints between processes on SQLite, by polling ``PRAGMA data_version``, which every commit to the file changes."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from pathlib import Path
from typing import Final

from aiotaskq.backends.listeners import ENDED, READY, TAKEN, Listeners
from aiotaskq.backends.sql.notifier import Notifier
from aiotaskq.backends.sql.sqlite_file import SqliteFile
from aiotaskq.concurrency.forks import outside_of_forks
from aiotaskq.concurrency.loop_bound import LoopBound, keep_alive

INTERVAL: Final = 0.02
"""Seconds between two polls. A poll reads the memory that the processes share, and not the disk."""
IDENTITY: Final = 50
"""Polls after which it is checked that the open file is still the one at the path."""
RETRY: Final = 1.0
"""Seconds between attempts to open a file that cannot be opened or read now."""


class FileWatch(Notifier):
    """Tells the listeners that another connection may have committed, once ``listen`` was called.

    The counter changes for this process's own commits as well. These must not wake the listeners. So the counter is
    read when a transaction of this process has the lock, and again when it has ended, on its thread. A commit of
    another process between those two is missed until the next change; the queue's own polling goes on.
    """

    def __init__(self, database: str, listeners: Listeners) -> None:
        """Watch a file, given as SQLAlchemy's URLs have it: a path, or a ``file:`` URI of SQLite's own."""
        self._uri = database if database.startswith("file:") else f"{Path(database).absolute().as_uri()}?mode=rw"
        self._path = SqliteFile(database)
        self._listeners = listeners
        self._bound = LoopBound()
        self._connection: sqlite3.Connection | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._seen = 0  # the counter when it was last read; it is never 0
        self._file: object = None  # the identity of the open file
        self._polls = 0
        self._ours = False  # whether a transaction of this process has the lock
        self._lock = threading.Lock()  # of the connection and the counter

    def listen(self) -> None:
        """Poll in the running loop, until ``stop``; idempotent."""
        if self._timer is not None and self._bound.here:
            return
        if self._bound.inherited:
            # SQLite forbids a forked child even to close its parent's connections.
            keep_alive(self._connection)
            self._connection, self._lock = None, threading.Lock()
        self._close()
        self._bound.bind()
        self._ours = False
        self._poll()

    async def stop(self) -> None:
        """Stop polling, and close the file."""
        if not self._bound.inherited:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = None
            self._close()

    def writing(self) -> None:
        """Note that a transaction of this process has the lock: changes up to now are of other processes."""
        self._check(ours=True)

    def written(self) -> None:
        """Note that it has ended: the last change was its own."""
        with outside_of_forks, self._lock:
            if self._ours and self._seen:
                self._moved()
            self._ours = False

    def _check(self, ours: bool = False) -> None:
        with outside_of_forks, self._lock:
            # The first reading of a file always tells: what was missed before it is unknown.
            others = (not self._ours or not self._seen) and self._moved()
            self._ours = self._ours or ours
        if others:
            for kind in (READY, TAKEN, ENDED):
                self._listeners.receive(kind)

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
        self._polls += 1
        if self._polls % IDENTITY == 0 and self._path.identity() != self._file:
            self._close()  # it was deleted or replaced: changes are in the new one
        if self._connection is None:
            # Without waiting for a lock: this is the thread of the loop.
            self._file = self._path.identity()
            with contextlib.suppress(sqlite3.Error), outside_of_forks:
                self._connection = sqlite3.connect(
                    self._uri, uri=True, timeout=0, isolation_level=None, check_same_thread=False
                )
        self._timer = loop.call_later(INTERVAL, self._poll)
        self._check()
        if self._connection is None:
            self._timer.cancel()
            self._timer = loop.call_later(RETRY, self._poll)

    def _close(self) -> None:
        with outside_of_forks, self._lock:
            self._drop()

    def _drop(self) -> None:
        connection, self._connection, self._seen = self._connection, None, 0
        if connection is not None:
            connection.close()
