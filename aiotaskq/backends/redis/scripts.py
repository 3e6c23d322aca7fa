"""The Lua scripts of the Redis backend: one file each in ``lua/``, and what they share in ``lua/include/``.

The server runs a script as one step. A line ``-- include: NAME`` in a script stands for the text of
``lua/include/NAME.lua``; included files include nothing. A script with lines ``-- include with gates: NAME`` has two
variants: that without these files is for calls that name no task with gates, since the server would spend time on each
function of a script. The first lines of a script say what it takes and returns, and ``lua/include/base.lua`` which keys
there are. ``nox -s lua`` checks the files with luacheck.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

FORMAT = 1
"""The number of the layout in Redis; a namespace with a higher one was written by a newer version."""

FOLDER = Path(__file__).parent / "lua"
GATES_REQUIRED = "GATES REQUIRED"
"""In the error of a script that has met a row with gates which the caller did not know, and has written nothing."""

FLOW_REQUIRED = "FLOW REQUIRED"
"""The same of a script that has met a row of a group whose end, or return, needs a transaction."""

_INCLUDE = re.compile(r"^-- include( with gates)?: (\w+)$", re.MULTILINE)


class Script:
    """A Lua script with its includes, and the hash by which a server knows it."""

    def __init__(self, name: str, with_gates: Script | None = None) -> None:
        """Read the script ``lua/NAME.lua``; the variant without gates if there is one ``with_gates`` for them."""
        self.with_gates = with_gates

        def included(found: re.Match[str]) -> str:
            return "" if found[1] and with_gates else _text(f"include/{found[2]}")

        self.source = _INCLUDE.sub(included, _text(name))
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


def _text(name: str) -> str:
    return (FOLDER / f"{name}.lua").read_text(encoding="utf-8")


OPEN = Script("open")

PUSH_GATED = Script("push")
PUSH = Script("push", PUSH_GATED)
COMMIT = Script("commit")
UNLOCK = Script("unlock")
UPDATE_GATED = Script("update")
UPDATE = Script("update", UPDATE_GATED)
CLAIM = Script("claim")
EXCHANGE_GATED = Script("exchange")
EXCHANGE = Script("exchange", EXCHANGE_GATED)
REPORT = Script("report")
CANCEL = Script("cancel")
PURGE = Script("purge")
DELETE = Script("delete")
RECODE = Script("recode")
PAUSE = Script("pause")
PAUSE_GATES = Script("pause_gates")
GATES_ADMIT = Script("gates_admit")
GATES_CHANGE = Script("gates_change")
GATES_MEND = Script("gates_mend")
WORKER_WRITE = Script("worker_write")
WORKER_REMOVE = Script("worker_remove")
WORKER_STEER = Script("worker_steer")
NOTES_ADD = Script("notes_add")
STEPS_ADD = Script("steps_add")
STEPS_SUSPEND = Script("steps_suspend")
STEPS_EMIT = Script("steps_emit")
STEPS_DROP = Script("steps_drop")
STEPS_RECODE = Script("steps_recode")
STEPS_WOKEN = Script("steps_woken")
EVENTS_EXPIRE = Script("events_expire")
SCHEDULES_ADD = Script("schedules_add")
SCHEDULES_CHANGE_GATED = Script("schedules_change")
SCHEDULES_CHANGE = Script("schedules_change", SCHEDULES_CHANGE_GATED)
SCHEDULES_DELETE = Script("schedules_delete")
SCHEDULES_RECODE = Script("schedules_recode")

# These only read, and drop entries of an index whose row is gone.
GET = Script("get")
READ = Script("read")
CANCELLING = Script("cancelling")
FIND = Script("find")
OVERDUE = Script("overdue")
LEAST_READY = Script("least_ready")
LOOK = Script("look")
HELD = Script("held")
WORKERS_READ = Script("workers_read")
GATES_FIND = Script("gates_find")
STEPS_ORPHANS = Script("steps_orphans")
NOTES_READ = Script("notes_read")
GROUPS_FIND = Script("groups_find")
GROUPS_WAITING = Script("groups_waiting")
SCHEDULES_FIND = Script("schedules_find")

SIDE_SWAP = Script("side_swap")
SIDE_GET = Script("side_get")
SIDE_RANGE = Script("side_range")
SIDE_DELETE = Script("side_delete")
SIDE_COUNT = Script("side_count")
SIDE_TRIM = Script("side_trim")
