"""Hints between processes on SQLite: looks at a counter that the file's every change moves."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from pathlib import Path
from typing import Final

from aiotaskq.backends.base import ENDED, READY, TAKEN, Hints
from aiotaskq.backends.sql.sqlite_file import SqliteFile
from aiotaskq.concurrency.forks import outside_of_forks
from aiotaskq.concurrency.loop_bound import LoopBound, keep_alive

INTERVAL: Final = 0.02
"""Seconds between two looks. One costs some 6 µs and no disk access: it reads the memory that the processes share."""
IDENTITY: Final = 50  # looks after which it is checked that the file is still the one under its name
RETRY: Final = 1.0  # seconds between attempts to open a file that cannot be opened, or read, now


class FileWatch:
    """Tells the listeners that somebody else may have changed something, once ``listen`` was called.

    The counter moves for this process's own commits as well. These must not ring, or all that waits here would look
    again fifty times a second: so it is read when a transaction of ours has the lock, and taken as read when that has
    committed, in its thread. Who commits between the two of us is missed, until the next change; polling goes on.
    """

    def __init__(self, database: str, hints: Hints) -> None:
        """Watch a file, given as SQLAlchemy's URLs have it: a path, or a ``file:`` URI of SQLite's own."""
        self._uri = database if database.startswith("file:") else f"{Path(database).absolute().as_uri()}?mode=rw"
        self._under_name = SqliteFile(database)
        self._hints = hints
        self._bound = LoopBound()
        self._connection: sqlite3.Connection | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._seen = 0  # the counter, which is never 0, when it was last looked at
        self._file: object = None  # what the open file is, whatever its name
        self._looks = 0
        self._ours = False  # whether a transaction of ours has the lock
        self._lock = threading.Lock()  # of the connection and what was seen by it

    def listen(self) -> None:
        """Look from now on in the running loop, until ``stop``; idempotent."""
        if self._timer is not None and self._bound.here:
            return
        if self._bound.inherited:
            # SQLite forbids a forked child even to close its parent's connections.
            keep_alive(self._connection)
            self._connection, self._lock = None, threading.Lock()
        self._close()
        self._bound.bind()
        self._ours = False
        self._look()

    async def stop(self) -> None:
        """Look no more, and close the file."""
        if not self._bound.inherited:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = None
            self._close()

    def writing(self) -> None:
        """A transaction of ours has the lock: what has changed up to now was somebody else."""
        self._check(ours=True)

    def written(self) -> None:
        """It has ended: the last change was ours."""
        with outside_of_forks, self._lock:
            if self._ours and self._seen:
                self._moved()
            self._ours = False

    def _check(self, ours: bool = False) -> None:
        with outside_of_forks, self._lock:
            # The first look at a file always tells: nobody knows what was missed before, whoever has the lock now.
            others = (not self._ours or not self._seen) and self._moved()
            self._ours = self._ours or ours
        if others:
            for kind in (READY, TAKEN, ENDED):
                self._hints.hear(kind)

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

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._looks += 1
        if self._looks % IDENTITY == 0 and self._under_name.identity() != self._file:
            self._close()  # it was deleted or replaced: what has changed is in the new one
        if self._connection is None:
            # It waits for no lock: this is the loop's own thread.
            self._file = self._under_name.identity()
            with contextlib.suppress(sqlite3.Error), outside_of_forks:
                self._connection = sqlite3.connect(
                    self._uri, uri=True, timeout=0, isolation_level=None, check_same_thread=False
                )
        self._timer = loop.call_later(INTERVAL, self._look)
        self._check()
        if self._connection is None:
            self._timer.cancel()
            self._timer = loop.call_later(RETRY, self._look)

    def _close(self) -> None:
        with outside_of_forks, self._lock:
            self._drop()

    def _drop(self) -> None:
        connection, self._connection, self._seen = self._connection, None, 0
        if connection is not None:
            connection.close()
