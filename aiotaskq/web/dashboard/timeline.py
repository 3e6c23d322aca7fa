"""The life of a task in the order of time: its push, its attempts, and what its handler has done step by step. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from aiotaskq.core.instants import to_iso
from aiotaskq.core.steps import NEVER, Step
from aiotaskq.core.task import SECOND, Task
from aiotaskq.web.dashboard.operated import Operated
from aiotaskq.web.dashboard.words import marked
from aiotaskq.web.schemas.tasks import AttemptView

MOST = 200
"""Steps that are shown: the latest ones."""


KINDS = (marked("step"), marked("sleep"), marked("wake"), marked("wait"), marked("event"))
"""What a handler does, as words that are translated."""


class Moment(msgspec.Struct, kw_only=True):
    """Something that has happened to a task. Instants are RFC 3339."""

    kind: str
    """``pushed``, ``attempt``, ``operated``, or one of ``KINDS``."""
    at: str | None
    attempt: AttemptView | None = None
    name: str = ""
    """Of a step, with its number where it is a later one of its name; the key of an event."""
    until: str | None = None
    """When a sleep, or the time for an event, ends or has ended; None without an end."""
    timed_out: bool = False
    """Whether an event did not come in time."""
    now: bool = False
    """Whether the task sleeps or waits so at present."""
    change: Operated | None = None
    """What an operator has done to it."""
    value: str | None = None
    """What a step returned, or the value of an event, as JSON; None where it is not shown."""


def timeline(
    task: Task,
    attempts: Sequence[AttemptView],
    steps: Sequence[Step],
    show: bool,
    changes: Sequence[Operated] = (),
) -> list[Moment]:
    """Return what has happened to a task, the latest first; with ``show`` the values of steps, too."""
    found = [(task.created_at * SECOND, 0, Moment(kind="pushed", at=to_iso(task.created_at * SECOND)))]
    found += [(_instant(each.began_at), 1, Moment(kind="attempt", at=each.began_at, attempt=each)) for each in attempts]
    found += [(each.at, 1 + MOST, Moment(kind="operated", at=each.time, change=each)) for each in changes]
    came = {(step.name, step.number) for step in steps if step.kind == "event"}
    for step in steps[-MOST:]:
        until = None if step.kind not in ("sleep", "wait") or step.until >= NEVER else to_iso(step.until)
        waits = step.kind == "sleep" or (step.kind == "wait" and (step.name, step.number) not in came)
        moment = Moment(
            kind=step.kind,
            at=to_iso(step.at),
            name=step.label,
            until=until,
            timed_out=step.timed_out,
            now=waits and not task.final and step.until == task.due,
            value=step.text or None if show and step.kind in ("step", "event") else None,
        )
        found.append((step.at, 1 + step.n, moment))
    return [moment for _, _, moment in sorted(found, key=lambda each: each[:2], reverse=True)]


def _instant(text: str | None) -> int:
    return 0 if text is None else round(datetime.fromisoformat(text).timestamp() * SECOND)
