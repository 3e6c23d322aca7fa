"""Engines on a SQLite file: the file's mode, and the settings of each new connection."""

from __future__ import annotations

import logging
import os
from typing import Any

from sqlalchemy import URL, Engine, create_engine

from aiotaskq.backends.sql.connecting import create
from aiotaskq.backends.sql.sqlite_file import WAL_LIMIT
from aiotaskq.errors import DatabaseUnavailable

__all__ = ["BUSY_TIMEOUT", "lenient_text", "on_connect", "prepare_file", "quiet_aiosqlite", "sqlite_engine"]

BUSY_TIMEOUT = 30.0
"""Seconds that a transaction waits for another process's."""
SYNC_DRIVER = "sqlite+pysqlite"


def sqlite_engine(url: URL, **options: Any) -> Engine:
    """Return a synchronous engine on a file. Its connections have no settings before ``on_connect``."""
    prepare_file(url)
    return create(create_engine, url.set(drivername=SYNC_DRIVER), {}, **options)


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
