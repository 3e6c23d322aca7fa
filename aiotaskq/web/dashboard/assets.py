"""The files of the pages: one style sheet, one script, one icon; read once, and named by their content."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path

from aiotaskq.web.dashboard.reply import SECURITY, Reply

FOLDER = Path(__file__).parent / "static"
TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}


@functools.cache
def _files() -> dict[str, tuple[bytes, str, str]]:
    """Return content, media type and tag of each file by its name."""
    found = {}
    for path in sorted(FOLDER.iterdir()):
        if (media_type := TYPES.get(path.suffix)) is not None:
            content = path.read_bytes()
            found[path.name] = content, media_type, f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    return found


def asset(name: str, headers: Mapping[str, str]) -> Reply:
    """Return a file; 304 where the browser has this version, 404 where there is no such file."""
    known = _files().get(name)
    if known is None:
        return Reply(404, b"", SECURITY, "text/plain")
    content, media_type, tag = known
    kept = (*SECURITY, ("ETag", tag), ("Cache-Control", "no-cache"))
    if headers.get("if-none-match") == tag:
        return Reply(304, b"", kept, media_type)
    return Reply(200, content, kept, media_type)
