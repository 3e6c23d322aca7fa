"""A SQLite file: engines on it, the settings of each new connection, and whether its path still leads to it."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from sqlalchemy import URL, Engine, create_engine

from aiotaskq.backends.sql.connecting import create
from aiotaskq.errors import DatabaseUnavailable

BUSY_TIMEOUT = 30.0
"""Seconds that a transaction waits for another process's."""
WAL_LIMIT: Final = 64_000_000
"""Bytes that the write-ahead log may keep once no reader needs more of it."""


class SqliteFile:
    """The file of a database, whose identity is kept from the first connection on. Thread-safe.

    SQLite goes on with a file that was deleted, moved or replaced, in WAL mode without an error. What is written there
    is lost with the last connection.
    """

    def __init__(self, database: str) -> None:
        """Name a file as SQLAlchemy's URLs have it: a path, or a ``file:`` URI of SQLite's own."""
        path = unquote(urlsplit(database).path) if database.startswith("file:") else database
        self.path: Final = str(Path(path).absolute())
        self._known: tuple[int, int] | None = None

    def identity(self) -> tuple[int, int] | None:
        """Return device and inode of the file at the path now; None if there is none."""
        try:
            stat = os.stat(self.path)
        except OSError:
            return None
        return stat.st_dev, stat.st_ino

    def connected(self, connect: Callable[[], sqlite3.Connection]) -> sqlite3.Connection:
        """Return a new connection to the file. Raises DatabaseUnavailable if it leads to another file than the first.

        Raises what ``connect`` raises.
        """
        self.check()  # or SQLite would make a new file, empty
        before = self.identity()
        connection = connect()
        if self._known is None:
            self._known = before or self.identity()
        try:
            self.check()
        except DatabaseUnavailable:
            connection.close()
            raise
        return connection

    def check(self) -> None:
        """Raise DatabaseUnavailable if the path leads to another file than the first connection, or to none.

        Before the first connection nothing is raised.
        """
        if self._known is None:
            return
        found = self.identity()
        if found is None:
            raise DatabaseUnavailable(
                f"sqlite:///{self.path} was deleted or moved while it was in use; nothing is written or read until "
                "it is back; put it back, or stop every process that uses it and start them again"
            )
        if found != self._known:
            raise DatabaseUnavailable(
                f"sqlite:///{self.path} was replaced by another file while it was in use; nothing is written or read "
                "any more; stop every process that uses it and start them again, so that they open the new one"
            )

    def wal_size(self) -> int:
        """Return the size of the write-ahead log in bytes, 0 if there is none."""
        try:
            return os.stat(f"{self.path}-wal").st_size
        except OSError:
            return 0


def sqlite_engine(url: URL, **options: Any) -> Engine:
    """Return a synchronous engine on a file. Its connections have no settings before ``on_connect``."""
    prepare_file(url)
    return create(create_engine, url.set(drivername="sqlite+pysqlite"), {}, **options)


def prepare_file(url: URL) -> None:
    """Make a missing file readable by its owner only, before SQLite would make it with the process's umask."""
    path = str(url.database)
    if path.startswith("file:"):
        return
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        pass  # and not opened: closing it would drop the locks that this process has on it (POSIX), and SQLite's trust
    except OSError as error:
        raise DatabaseUnavailable(
            f"cannot open sqlite:///{path}: {error.strerror}; check the folder and its rights"
        ) from None


def on_connect(connection: Any, _record: object) -> None:
    """Make a SQLite connection durable and patient, and bound what it leaves of the write-ahead log."""
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT * 1000)}")
    cursor.execute("PRAGMA synchronous = FULL")
    # The log grows while a reader keeps a snapshot. The first commit after that reader's end that can use it from the
    # beginning cuts it.
    cursor.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT}")
    cursor.close()


def lenient_text(stored: bytes) -> str:
    """Return a text of SQLite's. Another program may have written one that is not UTF-8; it hides no other row.

    It is called for each text of each row; a partial of ``str`` is slower.
    """
    return stored.decode("utf-8", "backslashreplace")


def quiet_aiosqlite() -> None:
    """Keep aiosqlite from logging each statement with its values at DEBUG: params are logged nowhere.

    An application that wants these lines sets the level of the logger ``aiosqlite``; SQLAlchemy's loggers work so, too.
    """
    if (driver_log := logging.getLogger("aiosqlite")).level == logging.NOTSET:
        driver_log.setLevel(logging.INFO)
