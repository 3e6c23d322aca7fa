"""The latest events of this process."""

from __future__ import annotations

import msgspec

from aiotaskq.runtime.events import NAMES
from aiotaskq.web.dashboard.feed import Happened
from aiotaskq.web.dashboard.view import View, pages
from aiotaskq.web.dashboard.words import marked
from aiotaskq.web.views import kind_of_error

ROWS = 100


class EventRows(msgspec.Struct, kw_only=True):
    """The data of the page."""

    events: list[Happened]
    """The newest first."""
    name: str
    """The filter; empty where it is not set."""
    names: list[str]


@pages("events", marked("Events"), "name")
async def events(view: View) -> EventRows:
    """Return what has been collected, and go on collecting while the page is open."""
    name = view.text("name")
    wanted = name if name in NAMES else None
    found = view.feed.read(wanted, ROWS)
    if not view.show_args:  # the message of an error may have what the params have
        found = [msgspec.structs.replace(each, error=kind_of_error(each.error)) for each in found]
    return EventRows(events=found, name=wanted or "", names=list(NAMES))
