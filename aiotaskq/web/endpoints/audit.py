"""The operation that reads the audit log."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from aiotaskq.core.audit import MAX_ENTRIES, MAX_TEXT, AuditEntry, Door
from aiotaskq.core.instants import to_iso
from aiotaskq.operations.fields import Count, Time
from aiotaskq.operations.hidden import visible_entry
from aiotaskq.runtime.audit import audited
from aiotaskq.web.endpoint import ApiResponse, Call, Endpoints, Success, respond

Target = Annotated[
    str, Meta(max_length=MAX_TEXT, description="Only changes of this task, queue, limit, schedule or group")
]


class AuditQuery(Struct):
    """Which changes are wanted."""

    limit: Annotated[int, Meta(ge=1, description=f"More than {MAX_ENTRIES} are {MAX_ENTRIES}")] = 100
    target: Target | None = None


class AuditView(Struct):
    """A change by an operator."""

    at: Time
    door: Door
    action: str
    actor: str
    targets: list[str]
    count: Annotated[Count, Meta(description="Of all targets, of which the first ones are named")]
    undecodable: Annotated[str | None, Meta(description="Why it cannot be read; then only its time is known")] = None


class AuditList(Struct):
    """The changes, the newest first."""

    entries: list[AuditView]


audit = Endpoints("aiotaskq audit")

EXAMPLE: dict[str, Any] = {
    "at": "2026-01-05T09:00:00Z",
    "door": "dashboard",
    "action": "queues.pause",
    "actor": "mara",
    "targets": ["mail"],
    "count": 1,
    "undecodable": None,
}


@audit("GET", "/audit", Success(200, "The newest first", AuditList, {"entries": [EXAMPLE]}), query=AuditQuery)
async def list_audit(call: Call) -> ApiResponse:
    """List what operators have changed by the dashboard, this API, the command line and the MCP server."""
    query: AuditQuery = call.query
    entries = await audited(call.tq.queue.backend, query.limit, query.target)
    found = [visible_entry(each, call.policy.show_args) for each in entries]
    if query.target is not None:  # what is hidden is not found, either
        found = [each for each in found if query.target in each.targets]
    return respond(AuditList(list(map(_view, found))))


def _view(entry: AuditEntry) -> AuditView:
    known = {name: getattr(entry, name) for name in AuditView.__struct_fields__}
    return AuditView(**{**known, "at": to_iso(entry.at) or "", "targets": list(entry.targets)})
