"""Tells of a change by an operator: a log line, a call of the hook ``operated``, and an entry of the audit log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from aiotaskq.core.audit import Door, audit_entry
from aiotaskq.errors import AiotaskqError
from aiotaskq.log import log, printable
from aiotaskq.runtime.hooks import OPERATED

if TYPE_CHECKING:
    from aiotaskq.runtime.queue.pushes import Pushes

BY_PROGRAMS = frozenset({"tasks.push", "values.set", "values.delete", "events.emit"})
"""Changes that are the daily work of programs: by the operations API and commands, they have no entry."""


async def audit(queue: Pushes, door: Door, action: str, actor: str, targets: Sequence[str]) -> None:
    """Tell of a change that was made. It stays made if its entry cannot be stored; that is logged."""
    log.info("{}: {} {} by {}", door, action, printable(", ".join(targets)), printable(actor) or "-")
    now = queue.clock.now()
    queue.hooks.call(OPERATED, now, action=action, actor=actor, targets=list(targets))
    if door in ("api", "cli", "program") and action in BY_PROGRAMS:
        return
    try:
        await queue.backend.audit.add(audit_entry(now, door, action, actor, targets))
    except AiotaskqError as error:
        log.error("{}: {} was done, but the audit log has no entry of it", door, action, cause=error)


def with_error(targets: Sequence[str], error: BaseException) -> list[str]:
    """Return the targets of a change that an error has stopped midway."""
    return [*targets, f"stopped by: {type(error).__name__}"]
