"""A SQLite file and its path: whether the path still leads to the file that is open."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

from aiotaskq.errors import DatabaseUnavailable

__all__ = ["WAL_LIMIT", "SqliteFile"]

WAL_LIMIT: Final = 64_000_000
"""Bytes that the write-ahead log may keep once no reader needs more of it."""


class _Closable(Protocol):
    def close(self) -> object: ...


C = TypeVar("C", bound=_Closable)


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

    def connected(self, connect: Callable[[], C]) -> C:
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
