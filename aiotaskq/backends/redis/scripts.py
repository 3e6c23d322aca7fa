"""The Lua scripts of the Redis backend: one file each in ``lua/``, and what they share in ``lua/include/``.

The server runs a script as one step. A line ``-- include: NAME`` stands for the text of ``lua/include/NAME.lua``; a
later one of that name stands for nothing. The first lines of a script say what it takes and returns, and
``lua/include/base.lua`` says which keys there are. ``nox -s lua`` checks the files with luacheck.
"""

from __future__ import annotations

import functools
import hashlib
import re
from pathlib import Path
from typing import NamedTuple

FORMAT = 1
"""The number of the layout in Redis; a namespace with a higher one was written by a newer version."""

FOLDER = Path(__file__).parent / "lua"
FLOW_REQUIRED = "FLOW REQUIRED"
"""In the error of a script that has met a row with gates, or of a group, and has written nothing."""

_INCLUDE = re.compile(r"^-- include: (\w+)$", re.MULTILINE)


class Script(NamedTuple):
    """A Lua script with its includes, and the hash by which a server knows it."""

    source: str
    sha: str


@functools.cache
def script(name: str) -> Script:
    """Return the script ``lua/NAME.lua``."""
    included = {name}

    def text(found: re.Match[str]) -> str:
        if found[1] in included:
            return ""
        included.add(found[1])
        return _INCLUDE.sub(text, (FOLDER / f"include/{found[1]}.lua").read_text(encoding="utf-8"))

    source = _INCLUDE.sub(text, (FOLDER / f"{name}.lua").read_text(encoding="utf-8"))
    return Script(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())
