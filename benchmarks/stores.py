"""The stores of the runs: an empty file, or an empty database of a server that is started on first use."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.installed import Unavailable
from tests.support.servers import Server, mariadb, postgresql, postgresql_jit, valkey

START = {"postgresql": postgresql, "mysql": mariadb, "redis": valkey}


class Stores:
    """Creates an empty store for each run, and removes it afterwards. Servers end with the process."""

    def __init__(self, folder: Path, *, jit: bool = False) -> None:
        """With ``jit``, the system's PostgreSQL is used: version 17 or earlier, with JIT."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix="run-", dir=folder))
        self._start = {**START, "postgresql": postgresql_jit} if jit else START
        self.started: set[str] = set()
        self.unavailable: dict[str, str] = {}
        self._number = 0

    def close(self) -> None:
        """Remove the files."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, kind: str) -> Server | None:
        """Return the server of this kind, started on first use; None, and the reason in ``unavailable``, on failure."""
        if kind not in START or kind in self.unavailable:
            return None
        try:
            server = self._start[kind](durable=True)
            self.started.add(kind)
            return server
        except Unavailable as error:
            self.unavailable[kind] = str(error).partition("\n")[0]
            return None

    @contextlib.contextmanager
    def empty(self, kind: str) -> Iterator[str]:
        """Yield the URL of an empty database, the path of a file that does not exist, or an empty text."""
        self._number += 1
        name = f"bench_{self._number}"
        server = self.start(kind)
        if server is not None:
            url = server.create(name)
            try:
                yield url
            finally:
                _empty(server, name, kind)
        elif kind == "file":
            folder = self.folder / name
            folder.mkdir()
            try:
                yield str(folder / "tasks.db")
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        else:
            yield ""

    def sync_seconds(self) -> float:
        """Return the median of 20 shortest durable writes on this disk, in seconds: a commit cannot be faster."""
        times = []
        with (self.folder / "sync").open("wb", buffering=0) as file:
            for _ in range(20):
                start = time.perf_counter()
                file.write(b"x" * 4096)
                os.fdatasync(file.fileno())
                times.append(time.perf_counter() - start)
        return sorted(times)[len(times) // 2]


def _empty(server: Server, name: str, kind: str) -> None:
    if kind == "redis":
        server.execute("FLUSHALL")
    else:
        server.drop(name)
