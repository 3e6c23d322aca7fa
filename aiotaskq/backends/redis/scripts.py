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
_INCLUDE = re.compile(r"^-- include: (\w+)$", re.MULTILINE)


class Script:
    """A Lua script with its includes, and the hash by which a server knows it."""

    def __init__(self, name: str) -> None:
        """Read the script ``lua/NAME.lua``."""
        self.source = _INCLUDE.sub(lambda found: _text(f"include/{found[1]}"), _text(name))
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


def _text(name: str) -> str:
    return (FOLDER / f"{name}.lua").read_text(encoding="utf-8")


OPEN = Script("open")

PUSH = Script("push")
PUSH_BOUNDED = Script("push_bounded")
UPDATE = Script("update")
CLAIM = Script("claim")
EXCHANGE = Script("exchange")
REPORT = Script("report")
CANCEL = Script("cancel")
PURGE = Script("purge")
DELETE = Script("delete")
RECODE = Script("recode")
PAUSE = Script("pause")
GATES_ADMIT = Script("gates_admit")
GATES_CHANGE = Script("gates_change")
GATES_MEND = Script("gates_mend")
WORKER_WRITE = Script("worker_write")
WORKER_REMOVE = Script("worker_remove")

# These only read, and drop entries of an index whose row is gone.
GET = Script("get")
CANCELLING = Script("cancelling")
FIND = Script("find")
OVERDUE = Script("overdue")
LEAST_READY = Script("least_ready")
LOOK = Script("look")
HELD = Script("held")
GATES_FIND = Script("gates_find")

VALUES_PUT = Script("values_put")
VALUES_GET = Script("values_get")
VALUES_DELETE = Script("values_delete")
VALUES_KEYS = Script("values_keys")
VALUES_COUNT = Script("values_count")
VALUES_EXPIRE = Script("values_expire")
VALUES_CLEAR = Script("values_clear")
