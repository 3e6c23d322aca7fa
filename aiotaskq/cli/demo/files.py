"""Which files of a folder the demo works on, the handlers of its tasks, and where it keeps its database."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import time
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli.i18n import marked
from aiotaskq.errors import DatabaseUnavailable
from aiotaskq.models import Base
from aiotaskq.runtime.context import current_task

FILES, OTHERS = "demo-files", "demo"
"""The queues: one task for each file, and all other tasks."""
FILE, FLAKY, BROKEN, REPORT, TICK, SQUARE = (
    f"demo.{name}" for name in ("file", "fails_twice", "fails_always", "report", "tick", "square")
)
LEDGER = "AIOTASKQ_DEMO_LEDGER"
"""Environment variable: a file to which the path of each finished file is added. For tests of what runs twice."""


class File(NamedTuple):
    """One file: its path within the folder, and what tells one state of it from another."""

    path: str
    size: int
    mtime_ns: int

    def key(self, run: str) -> str:
        """Return the idempotency key of its task: the same while the file is unchanged."""
        what = f"{self.path}\0{self.size}\0{self.mtime_ns}".encode()
        return f"{run}-{hashlib.sha256(what).hexdigest()[:24]}"


def walk(
    folder: Path, *, max_files: int, max_bytes: int, without: Collection[Path] = ()
) -> tuple[list[File], Counter[str]]:
    """Return regular files in an order that is the same each time, and how many are left out for which reason.

    Hidden folders are left out with all that is in them, and links are not followed. ``without`` is not counted.
    """
    files: list[File] = []
    left_out: Counter[str] = Counter()
    total = 0
    own = {os.path.realpath(path) for path in without}
    for here, folders, names in os.walk(folder, onerror=lambda _error: left_out.update([marked("not readable")])):
        states = {name: _state(os.path.join(here, name)) for name in (*folders, *names)}
        left_out.update(state for state in states.values() if isinstance(state, str))
        folders[:] = sorted(name for name in folders if not isinstance(states[name], str))  # os.walk goes on with them
        for name in sorted(names):
            state, path = states[name], os.path.join(here, name)
            if isinstance(state, str) or os.path.realpath(path) in own:
                continue
            if len(files) == max_files:
                left_out[marked("more than --max-files")] += 1
            elif total + state.st_size > max_bytes:
                left_out[marked("beyond --max-mb")] += 1
            else:
                total += state.st_size
                files.append(File(os.path.relpath(path, folder), state.st_size, state.st_mtime_ns))
    return files, left_out


def _state(path: str) -> os.stat_result | str:
    """Return the state of a file or folder, or why the demo leaves it out."""
    try:
        path.encode()
        state = os.lstat(path)
    except UnicodeEncodeError:  # params are JSON, which cannot hold it
        return marked("name is not UTF-8")
    except OSError:
        return marked("not readable")
    if os.path.basename(path).startswith("."):
        return marked("hidden")
    if stat.S_ISLNK(state.st_mode):
        return marked("symbolic link")
    if not (stat.S_ISREG(state.st_mode) or stat.S_ISDIR(state.st_mode)):
        return marked("no regular file")
    return state if os.access(path, os.R_OK) else marked("not readable")


def default_url(folder: Path) -> str:
    """Return the URL of the folder's database in the user's cache: a run that was stopped is found there again.

    Other tables or columns have another database, since nothing in it is worth a migration.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aiotaskq"
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise DatabaseUnavailable(
            f"cannot make the folder {cache}: {error.strerror}; name a database with --db sqlite:///demo.db"
        ) from None
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", folder.name)[:40].strip("-") or "root"
    columns = " ".join(str(column) for table in Base.metadata.sorted_tables for column in table.columns)
    key = hashlib.sha256(os.fsencode(folder) + columns.encode()).hexdigest()[:8]
    return f"sqlite:///{cache / f'demo-{name}-{key}.db'}"


def database_files(url: str) -> list[Path]:
    """Return the files of a SQLite database, which may lie in the folder itself."""
    scheme, _, path = url.partition(":///")
    if not scheme.startswith("sqlite"):
        return []
    return [Path(path.partition("?")[0] + suffix) for suffix in ("", "-wal", "-shm", "-journal")]


# ---- tasks --------------------------------------------------------------------------------------------------------


def register(tq: TaskQ, folder: Path, pause: float, report: Callable[[], None]) -> None:
    """Register the handlers; each file takes ``pause`` seconds longer, and a schedule calls ``report``."""
    ledger = os.environ.get(LEDGER)

    @tq.task(name=FILE, queue=FILES)
    def file(path: str) -> dict[str, Any]:  # a def: it runs in a thread
        try:
            with open(folder / path, "rb") as source:
                result = {"sha256": hashlib.file_digest(source, "sha256").hexdigest(), "bytes": source.tell()}
        except OSError as error:  # it was there when the folder was searched
            result = {"skipped": str(error.strerror)}
        time.sleep(pause)
        if ledger:
            with open(ledger, "a", encoding="utf-8") as out:
                out.write(f"{path}\n")
        return result

    @tq.task(name=FLAKY, queue=OTHERS, max_retries=3, backoff=0.2)
    async def fails_twice() -> str:
        attempt = current_task().task.retry_count + 1
        if attempt < 3:
            raise ConnectionError(f"attempt {attempt} fails on purpose; the third will do")
        return f"done at attempt {attempt}"

    @tq.task(name=BROKEN, queue=OTHERS, max_retries=1, backoff=0.2)
    async def fails_always() -> None:
        raise RuntimeError("this task fails on purpose: look at it among the dead letters")

    @tq.task(name=REPORT, queue=OTHERS)
    async def every_second() -> None:
        report()

    @tq.task(name=TICK, queue=OTHERS)
    async def tick() -> None:
        pass

    @tq.task(name=SQUARE, queue=OTHERS)
    def square(number: int) -> int:
        return number * number
