"""Which files of a folder the demo works on, where it keeps its database, and what its tasks are called."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from aiotaskq.cli.i18n import marked
from aiotaskq.errors import DatabaseUnavailable
from aiotaskq.models import Base

FILES, OTHERS = "demo-files", "demo"
"""The queues: one task for each file, and all other tasks."""
FILE, FLAKY, BROKEN, REPORT, TICK, SQUARE = (
    f"demo.{name}" for name in ("file", "fails_twice", "fails_always", "report", "tick", "square")
)


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
