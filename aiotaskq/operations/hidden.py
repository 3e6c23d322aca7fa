"""What is shown, and can be found, where params are hidden: nothing that may hold what they hold. Pure."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from aiotaskq.core.audit import AuditEntry
from aiotaskq.core.conversion import check_error_type


def error_filter(text: str | None, show: bool) -> dict[str, str]:
    """Return the arguments of a verb for a filter by errors: where their messages are hidden, by their type alone.

    Raises ValidationError for what is no beginning of a type.
    """
    if text is None:
        return {}
    return {"error": text} if show else {"error_type": check_error_type("error", text)}


def plain(value: Any) -> Any:
    """Return a value as JSON; an object that JSON cannot express, as a queue in memory may hold, as its type's name."""
    try:
        return msgspec.json.decode(msgspec.json.encode(value))
    except (TypeError, ValueError, OverflowError, RecursionError):
        return f"<{type(value).__name__}>"


def visible_progress(progress: dict[str, Any] | None, show: bool) -> dict[str, Any] | None:
    """Return progress without its texts where they are hidden."""
    if progress is None or show:
        return progress
    return {name: value for name, value in progress.items() if isinstance(value, (int, float))}


def visible_entry(entry: AuditEntry, show: bool) -> AuditEntry:
    """Return an entry of the audit log, where they are hidden without the text of an error that was searched for."""
    if show:
        return entry
    return msgspec.structs.replace(entry, targets=tuple(map(_without_error, entry.targets)))


def _without_error(target: str) -> str:
    before, *searched = re.split("( (?:same_)?error=)", target, maxsplit=1)
    return f"{before}{searched[0]}…" if searched and target.startswith("filter: ") else target
