"""The operation that reads the audit log."""

from __future__ import annotations

from typing import Any

from aiotaskq.core.instants import to_iso
from aiotaskq.runtime.audit import audited
from aiotaskq.web.operation import ApiResponse, Call, Operations, Success, respond
from aiotaskq.web.schemas.audit import AuditList, AuditQuery, AuditView

audit = Operations("aiotaskq audit")

EXAMPLE: dict[str, Any] = {
    "at": "2026-01-05T09:00:00Z",
    "door": "dashboard",
    "action": "pause-queue",
    "actor": "mara",
    "targets": ["mail"],
    "count": 1,
}


@audit("GET", "/audit", Success(200, "The newest first", AuditList, {"entries": [EXAMPLE]}), query=AuditQuery)
async def list_audit(call: Call) -> ApiResponse:
    """List what operators have changed by the dashboard, this API, the command line and the MCP server."""
    query: AuditQuery = call.query
    found = await audited(call.tq.queue.backend, query.limit, query.target)
    return respond(
        AuditList([AuditView(to_iso(e.at) or "", e.door, e.action, e.actor, list(e.targets), e.count) for e in found])
    )
