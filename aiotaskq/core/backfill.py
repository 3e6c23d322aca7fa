"""Backfill: one task for each due time of a span in the past that has made none. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from aiotaskq.core.errors import ValidationError
from aiotaskq.core.firing import derived_id, planned, task_for
from aiotaskq.core.firing_record import FiringRecord, has_made, recorded
from aiotaskq.core.schedule import Schedule, cron_of, step_of
from aiotaskq.core.task import SECOND, Task

LIMIT: Final = 1_000
"""How many tasks one backfill makes, unless it is told otherwise."""
MAX_LIMIT: Final = 10_000
_WALK: Final = 200_000  # due times that are looked at


def missing_dues(schedule: Schedule, since: int, until: int, now: int) -> list[int]:
    """Return the due times from ``since`` to before ``until`` for which the history names no task; microseconds.

    Those that the calendar or a blackout window skips are left out.

    Raises:
        ValidationError: the span is empty, reaches behind ``now``, or has too many due times.
    """
    if since >= until:
        raise ValidationError("until: must be later than since")
    if until > now:
        raise ValidationError("until: is in the future; what is due then fires by itself")
    found = []
    for number, due in enumerate(_dues(schedule, since, until)):
        if number >= _WALK:
            raise ValidationError(f"since: the span has more than {_WALK:,} due times; narrow it")
        if planned(schedule, due)[1] is None and not has_made(schedule.history, due):
            found.append(due)
    return found


def backfilled(
    schedule: Schedule, dues: list[int], there: Collection[str], now: int, limit: int
) -> tuple[Schedule, list[tuple[int, Task]]]:
    """Return the schedule after a backfill, and the tasks to push with their due times.

    ``there`` has the ids of tasks that exist. The run count and the next due time stay.

    Raises:
        ValidationError: there are more tasks than ``limit``.
    """
    wanted = [(due, derived_id(schedule.task_id, due)) for due in dues]
    made = [(due, task_for(schedule, task_id, now, now, due)) for due, task_id in wanted if task_id not in there]
    if len(made) > limit:
        raise ValidationError(
            f"limit: {len(made):,} due times have not fired, and {limit:,} are allowed; narrow the span, or raise limit"
        )
    if not made:
        return schedule, []
    last = made[-1][0] if len(made) > 1 else None
    record = FiringRecord(now, "backfilled", made[0][0], count=len(made), until=last)
    return schedule.replace(updated_at=now // SECOND, history=recorded(schedule.history, [record])), made


def _dues(schedule: Schedule, since: int, until: int) -> Iterator[int]:
    if schedule.schedule_type == "cron":
        cron, due = cron_of(schedule), cron_of(schedule).next_after(since - 1)
        while due < until:
            yield due
            due = cron.next_after(due)
    elif schedule.schedule_type == "once":
        due = _once(schedule)
        if since <= due < until:
            yield due
    else:
        step, anchor = step_of(schedule), schedule.due
        if anchor is None:
            raise ValidationError("since: the schedule is finished, so the times of its interval are not known")
        yield from range(anchor - (anchor - since) // step * step, until, step)


def _once(schedule: Schedule) -> int:
    """Return the only due time, with the microseconds that the stored second lacks where they are known."""
    second = schedule.execute_at or 0
    known = [schedule.due, *(record.due for record in reversed(schedule.history) if record.outcome != "backfilled")]
    return next((due for due in known if due is not None and due // SECOND == second), second * SECOND)
