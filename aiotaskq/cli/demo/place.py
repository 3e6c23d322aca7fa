"""Where the demo keeps its database: one file for each folder, so that a run that was stopped is found again."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from pathlib import Path

from aiotaskq.errors import DatabaseUnavailable


def default_url(folder: Path) -> str:
    """Return the URL of the folder's database in the user's cache; never within the folder's own files."""
    cache = _cache()
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise DatabaseUnavailable(
            f"cannot make the folder {cache}: {error.strerror}; name a database with --db sqlite:///demo.db"
        ) from None
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", folder.name)[:40].strip("-") or "root"
    return f"sqlite:///{cache / f'demo-{name}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:8]}.db'}"


def own_files(url: str) -> list[Path]:
    """Return the files of a SQLite database: when it lies in the folder, they are no work for the demo."""
    scheme, _, path = url.partition(":///")
    if not scheme.startswith("sqlite"):
        return []
    return [Path(path.partition("?")[0] + suffix) for suffix in ("", "-wal", "-shm", "-journal")]


def _cache() -> Path:
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "aiotaskq"
