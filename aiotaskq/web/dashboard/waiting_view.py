"""Why a task waits, as its page shows it."""

from __future__ import annotations

import msgspec

from aiotaskq.core.instants import to_iso
from aiotaskq.runtime.waiting import Waiting
from aiotaskq.web.schemas.limits import LimitView
from aiotaskq.web.views import limit_view


class ParentView(msgspec.Struct):
    """A task that has to end before."""

    task_id: str
    name: str
    status: str | None


class WaitingView(msgspec.Struct):
    """See ``aiotaskq.runtime.waiting.Waiting``; ``until`` is RFC 3339."""

    reason: str
    until: str | None
    version: int | None
    event: str | None
    group: str | None
    gate: LimitView | None
    parents: list[ParentView]
    behind: int
    ahead: int | None
    workers: int | None
    slots: int | None
    busy: int | None


def waiting_view(found: Waiting | None) -> WaitingView | None:
    """Return the view; None for a task that is not pending."""
    if found is None:
        return None
    return WaitingView(
        reason=found.reason,
        until=to_iso(found.until),
        version=found.version,
        event=found.event,
        group=found.group,
        gate=None if found.gate is None else limit_view(found.gate),
        parents=[
            ParentView(each.task_id, each.name, None if each.status is None else str(each.status))
            for each in found.parents
        ],
        behind=found.behind,
        ahead=found.ahead,
        workers=found.workers,
        slots=found.slots,
        busy=found.busy,
    )
