"""What has happened lately: to tasks in every process, as the store tells it, and else in this process."""

from __future__ import annotations

from typing import Any

import msgspec

from aiotaskq.core.conversion import error_type
from aiotaskq.operations.audit import AuditView
from aiotaskq.operations.fields import view_of
from aiotaskq.runtime.hooks import NAMES, OPERATED
from aiotaskq.web.dashboard.happened import Happened, key_of, newest_first
from aiotaskq.web.dashboard.view import View, log_of, page
from aiotaskq.web.dashboard.words import marked

ROWS = 100
OURS = (marked("its process died, or its lease was not renewed"),)
"""What is shown of errors of the library, which have no type, where messages are hidden."""


@page("activity", marked("Activity"), "name")
async def activity(view: View) -> dict[str, Any]:
    """Read what has happened to tasks, and return it with what this process has collected; go on collecting."""
    name = view.text("name")
    wanted = name if name in NAMES else None
    found = {key_of(each): each for each in view.shared.feed.read(wanted, ROWS)}
    shared = bool(view.tq.queue.backend.shared)
    if shared:  # else there is no other process
        await view.keep("life", view.shared.life.look, 0.9)
        found.update((key_of(each), each) for each in view.shared.life.latest if wanted in (None, each.name))
    if wanted in (None, OPERATED):
        for entry in (await log_of(view))[:ROWS]:
            change = view_of(AuditView, entry)
            found[OPERATED, entry.id, entry.at] = Happened(name=OPERATED, at=entry.at, change=change)
    rows = newest_first(found.values())[:ROWS]
    if not view.show_args:  # the message of an error may have what the params have
        rows = [msgspec.structs.replace(each, error=error_type(each.error)) for each in rows]
    return {"happened": rows, "name": wanted or "", "names": NAMES, "shared": shared}
