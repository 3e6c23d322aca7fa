"""Hints between processes on SQLite: looks at a counter that the file's every change moves."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from pathlib import Path
from typing import Final

from aiotaskq.backends.base import ENDED, READY, TAKEN, Hints

INTERVAL: Final = 0.02
"""Seconds between two looks. One costs some 6 µs and no disk access: it reads the memory that the processes share."""
RETRY: Final = 1.0  # seconds between attempts to open a file that cannot be opened, or read, now


class FileWatch:
    """Tells the listeners that something may have changed, up to fifty times a second, once ``listen`` was called.

    The counter stands still only for what its own connection writes, which is nothing: changes of this process ring as
    well. A hint is no promise, so nothing here fails: polling goes on.
    """

    def __init__(self, database: str, hints: Hints) -> None:
        """Watch a file, given as SQLAlchemy's URLs have it: a path, or a ``file:`` URI of SQLite's own."""
        self._uri = database if database.startswith("file:") else f"{Path(database).absolute().as_uri()}?mode=rw"
        self._hints = hints
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0
        self._connection: sqlite3.Connection | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._seen = 0

    def listen(self) -> None:
        """Look from now on in the running loop, until ``stop``; idempotent."""
        loop = asyncio.get_running_loop()
        if self._timer is not None and self._loop is loop and self._pid == os.getpid():
            return
        if self._pid not in (0, os.getpid()):
            # SQLite forbids a forked child even to close its parent's connections.
            _inherited.append(self._connection)
            self._connection = None
        self._close()
        self._loop, self._pid = loop, os.getpid()
        self._look()

    async def stop(self) -> None:
        """Look no more, and close the file."""
        if self._pid == os.getpid():
            if self._timer is not None:
                self._timer.cancel()
            self._timer = None
            self._close()

    def _look(self) -> None:
        assert self._loop is not None
        pause = INTERVAL
        try:
            if self._connection is None:
                # It waits for no lock: this is the loop's own thread.
                self._connection = sqlite3.connect(
                    self._uri, uri=True, timeout=0, isolation_level=None, check_same_thread=False
                )
            (counter,) = self._connection.execute("PRAGMA data_version").fetchone()
        except sqlite3.Error:
            self._close()
            counter, pause = self._seen, RETRY
        self._timer = self._loop.call_later(pause, self._look)
        if counter != self._seen:
            self._seen = counter
            for kind in (READY, TAKEN, ENDED):
                self._hints.hear(kind)

    def _close(self) -> None:
        connection, self._connection, self._seen = self._connection, None, 0
        if connection is not None:
            connection.close()


_inherited: list[object] = []
