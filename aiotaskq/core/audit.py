"""The audit log: what operators have changed, and its bounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from aiotaskq.core.ids import new_id
from aiotaskq.core.task import SECOND

MAX_ENTRIES = 1_000
"""Entries that a store keeps; the oldest go."""
MAX_AGE = 90 * 86_400
"""Seconds for which it keeps them."""
MAX_TARGETS = 50
"""Targets that an entry names; ``count`` counts them all."""
MAX_TEXT = 300
"""Characters of an actor, and of each target."""

Door = Literal["dashboard", "api", "cli", "mcp", "program", "unknown"]


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One change by an operator."""

    id: str
    at: int
    """When it was made, in microseconds UTC."""
    door: Door
    """What it was made with: the dashboard, the operations API, the command line, the MCP server or ``operate``.

    ``unknown`` where the entry cannot be read.
    """
    action: str
    """As in the hook ``operated``, such as ``queues.pause``."""
    actor: str
    """Its name, as the application tells it; of the command line user and host. Empty where nothing tells it."""
    targets: tuple[str, ...]
    """Ids and names of what was changed, at most ``MAX_TARGETS``; of a change by a filter the filter and a count."""
    count: int
    """The number of the targets."""
    undecodable: str | None = None
    """Why the entry cannot be read; then nothing but its time is known."""


def audit_entry(at: int, door: Door, action: str, actor: str, targets: Sequence[str]) -> AuditEntry:
    """Return an entry within the bounds; ``at`` in microseconds UTC."""
    return AuditEntry(
        id=new_id(),
        at=at,
        door=door,
        action=action,
        actor=_short(actor),
        targets=tuple(map(_short, targets[:MAX_TARGETS])),
        count=len(targets),
    )


def unreadable_entry(id: str, at: int, error: str) -> AuditEntry:
    """Return what is shown in place of an entry that cannot be read, because of ``error``."""
    return AuditEntry(id=id, at=at, door="unknown", action="", actor="", targets=(), count=0, undecodable=_short(error))


def kept_until(at: int) -> int:
    """Return until when an entry of ``at`` is kept, both in microseconds UTC."""
    return at + MAX_AGE * SECOND


def _short(text: str) -> str:
    text = text.replace("\0", "\ufffd").encode(errors="replace").decode()  # what a database takes as a text
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"
