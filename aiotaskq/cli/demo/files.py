"""Which files of a folder the demo works on, and why it leaves the others out."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection
from pathlib import Path

import msgspec

from aiotaskq.cli.i18n import marked


class File(msgspec.Struct, frozen=True):
    """One file: its path within the folder, and what tells one state of it from another."""

    path: str
    size: int
    mtime_ns: int

    def task_id(self, run: str) -> str:
        """Return the id of its task in a run: the same whenever the same run looks at the unchanged file again."""
        what = f"{self.path}\0{self.size}\0{self.mtime_ns}".encode()
        return f"{run}-{hashlib.sha256(what).hexdigest()[:24]}"


class Found(msgspec.Struct):
    """What a walk found. ``left_out`` has an example and the number for each reason."""

    files: list[File]
    left_out: dict[str, tuple[int, str]]

    def leave_out(self, reason: str, path: str) -> None:
        """Count one that is left out."""
        count, example = self.left_out.get(reason, (0, path))
        self.left_out[reason] = (count + 1, example)


def walk(folder: Path, *, max_files: int, max_bytes: int, without: Collection[Path] = ()) -> Found:
    """Find regular files, in an order that is the same each time.

    Hidden names are left out and links are not followed, so there is no way round in circles. ``without`` are files of
    our own. Ends at ``max_files``, however much more there is.
    """
    found = Found([], {})
    total = 0
    folders = [""]
    ours = {os.path.realpath(path) for path in without}
    while folders:
        here = folders.pop()
        try:
            with os.scandir(folder / here) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            found.leave_out(f"folder: {error.strerror}", here or ".")
            continue
        inner = []
        for entry in listed:
            path = os.path.join(here, entry.name)
            if entry.name.startswith("."):
                found.leave_out(marked("hidden"), path)
            elif entry.is_symlink():
                found.leave_out(marked("symbolic link"), path)
            elif entry.is_dir(follow_symlinks=False):
                inner.append(path)
            elif os.path.realpath(entry.path) not in ours:
                file = _look(entry, path, found)
                if file is None:
                    continue
                if total + file.size > max_bytes:
                    found.leave_out(marked("beyond --max-mb"), path)
                    continue
                if len(found.files) == max_files:
                    found.leave_out(marked("more than --max-files"), path)
                    return found
                total += file.size
                found.files.append(file)
        folders += reversed(inner)
    return found


def _look(entry: os.DirEntry[str], path: str, found: Found) -> File | None:
    try:
        state = entry.stat(follow_symlinks=False)
    except OSError as error:
        found.leave_out(str(error.strerror), path)
        return None
    if not stat.S_ISREG(state.st_mode):
        found.leave_out(marked("no regular file"), path)
    elif not os.access(entry.path, os.R_OK):
        found.leave_out(marked("not readable"), path)
    elif not _is_text(path):
        found.leave_out(marked("name is not UTF-8"), path)  # params are JSON, which has no word for it
    else:
        return File(path, state.st_size, state.st_mtime_ns)
    return None


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
