"""The Lua scripts of the Redis backend: one file each in ``lua/``, and what they share in ``lua/include/``.

The server runs a script as one step. A line ``-- include: NAME`` in a script stands for the text of
``lua/include/NAME.lua``; included files include nothing. The first lines of a script say what it takes and returns, and
``lua/include/base.lua`` which keys there are. ``nox -s lua`` checks the files with luacheck.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

FORMAT = 1
"""The number of the layout in Redis; a namespace with a higher one was written by a newer version."""

FOLDER = Path(__file__).parent / "lua"
FLOW_REQUIRED = "FLOW REQUIRED"
"""In the error of a script that has met a row with gates, or of a group, and has written nothing."""

_INCLUDE = re.compile(r"^-- include: (\w+)$", re.MULTILINE)


class Script:
    """A Lua script with its includes, and the hash by which a server knows it."""

    def __init__(self, name: str) -> None:
        """Read the script ``lua/NAME.lua``."""
        self.source = _INCLUDE.sub(lambda found: _text(f"include/{found[1]}"), _text(name))
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


def _text(name: str) -> str:
    return (FOLDER / f"{name}.lua").read_text(encoding="utf-8")


PUSH = Script("push")
COMMIT = Script("commit")
UNLOCK = Script("unlock")
UPDATE = Script("update")
CLAIM = Script("claim")
EXCHANGE = Script("exchange")

# These only read, and drop entries of an index whose row is gone.
GET = Script("get")
GATES_READ = Script("gates_read")
READ = Script("read")
READ_MANY = Script("read_many")
OVERDUE = Script("overdue")
LEAST_READY = Script("least_ready")
LOOK = Script("look")

SIDE_ADD = Script("side_add")
SIDE_EXPIRE = Script("side_expire")
