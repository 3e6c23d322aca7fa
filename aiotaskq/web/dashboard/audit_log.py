"""What operators have changed, from the audit log of the store: for the page of events, and that of one thing."""

from __future__ import annotations

from collections.abc import Collection

from aiotaskq.core.audit import MAX_ENTRIES, AuditEntry
from aiotaskq.web.dashboard.operated import Operated, noun_of, operated_of
from aiotaskq.web.dashboard.view import View
from aiotaskq.web.hidden import visible_entry

KEEP = 3.0
"""Seconds for which an open page does not read the log anew."""
LISTED = 20
"""Changes that are listed on the page of the thing that was changed."""


async def log_of(view: View) -> list[AuditEntry]:
    """Read the audit log, the newest change first; for an update of an open page it may be some seconds old."""
    entries = await view.keep("audit", KEEP, lambda: view.tq.queue.backend.audit.read(MAX_ENTRIES))
    return [visible_entry(each, view.show_args) for each in entries]


async def operated_on(view: View, target: str, nouns: Collection[str]) -> list[Operated]:
    """Return the latest changes of one thing, the newest first."""
    found = [each for each in await log_of(view) if target in each.targets and noun_of(each.action) in nouns]
    return list(map(operated_of, found[:LISTED]))
