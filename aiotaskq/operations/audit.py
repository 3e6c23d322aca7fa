"""The operation that reads the audit log."""

from __future__ import annotations

from typing import Annotated

from msgspec import Struct

from aiotaskq.core.audit import MAX_ENTRIES, MAX_TEXT, Door
from aiotaskq.operations.fields import Count, Time, about, view_of
from aiotaskq.operations.hidden import visible_entry
from aiotaskq.operations.table import Access, Operations

audit = Operations("audit")


class AuditView(Struct):
    """A change by an operator."""

    at: Time
    door: Door
    action: str
    actor: str
    targets: list[str]
    count: Annotated[Count, about("Of all targets, of which the first ones are named")]
    undecodable: Annotated[str | None, about("Why it cannot be read; then only its time is known")] = None


class AuditList(Struct):
    """The changes, the newest first."""

    entries: list[AuditView]


@audit()
async def list_(
    access: Access,
    limit: Annotated[int, about(f"More than {MAX_ENTRIES} are {MAX_ENTRIES}", ge=1)] = 50,
    target: Annotated[
        str, about("Only changes of this thing, by its id or name; also its beginning", max_length=MAX_TEXT)
    ]
    | None = None,
) -> AuditList:
    """Show what operators have changed, by every way and in every process."""
    read = limit if target is None else MAX_ENTRIES
    entries = await access.tq.queue.backend.audit.read(min(read, MAX_ENTRIES))
    found = [visible_entry(each, access.show_args) for each in entries]
    if target is not None:  # what is hidden is not found, either
        begun = [each for each in found if any(name.startswith(target) for name in each.targets)]
        found = [each for each in begun if target in each.targets] or begun
    return AuditList([view_of(AuditView, each) for each in found[:limit]])
