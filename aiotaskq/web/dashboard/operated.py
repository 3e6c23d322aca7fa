"""A change by an operator as pages show it. Pure."""

from __future__ import annotations

import msgspec

from aiotaskq.core.audit import AuditEntry
from aiotaskq.core.instants import to_iso
from aiotaskq.web.dashboard.words import marked

UNREADABLE = marked("an entry that cannot be read")
SHOWN = 3
"""Targets of one change that are named."""
DOORS = {
    "dashboard": marked("dashboard"),
    "api": marked("operations API"),
    "cli": marked("command line"),
    "mcp": marked("MCP server"),
    "program": marked("program"),
    "unknown": marked("not known"),
}
"""What changes are made with, as words that are translated."""
PAGES = {
    "tasks": ("task", "id"),
    "queues": ("queue", "name"),
    "limits": ("limit", "key"),
    "schedules": ("schedule", "id"),
    "groups": ("group", "id"),
    "workers": ("worker", "id"),
    "values": ("value", "key"),
}
"""The page of a thing by the noun of the change, and the parameter of its address."""
_NO_THINGS = ("filter: ", "count: ", "stopped by: ")


class Target(msgspec.Struct, frozen=True):
    """A thing that was changed, or what is said of many."""

    text: str
    page: str | None = None
    """The page that shows it."""
    query: dict[str, str] = {}


class Operated(msgspec.Struct, frozen=True, kw_only=True):
    """One change."""

    at: int
    """Microseconds UTC."""
    time: str | None
    """The same, RFC 3339."""
    door: str
    action: str
    actor: str
    targets: list[Target]
    more: int
    """How many more things were changed."""

    @property
    def made_with(self) -> str:
        """What it was made with, as a sentence of the catalogue."""
        return DOORS[self.door]


def operated_of(entry: AuditEntry) -> Operated:
    """Return an entry of the log as it is shown."""
    shown = [_target(entry.action, text, first=not place) for place, text in enumerate(entry.targets[:SHOWN])]
    return Operated(
        at=entry.at,
        time=to_iso(entry.at),
        door=entry.door,
        action=entry.action if entry.undecodable is None else UNREADABLE,
        actor=entry.actor,
        targets=shown,
        more=entry.count - len(shown),
    )


def noun_of(action: str) -> str:
    """Return of what kind the things are that a change is about."""
    return action.partition(".")[0]


def _target(action: str, text: str, first: bool) -> Target:
    noun = noun_of(action)
    if noun not in PAGES or text == "*" or text.startswith(_NO_THINGS):
        return Target(text)
    # A schedule that was run names the task, too.
    page, parameter = PAGES[noun] if first or noun == "tasks" else PAGES["tasks"]
    return Target(text, page, {parameter: text})
