"""The JSON schemas of the audit log."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from aiotaskq.core.audit import MAX_ENTRIES, MAX_TEXT, Door
from aiotaskq.web.schemas.fields import Count, Time

Target = Annotated[
    str, Meta(max_length=MAX_TEXT, description="Only changes of this task, queue, gate, schedule or group")
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
