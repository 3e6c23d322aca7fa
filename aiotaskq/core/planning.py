"""When a due time of a schedule starts a task: jitter, the calendar and blackout windows. Pure.

The due time stays the identity of the firing. Only the start of its task is later.
"""

from __future__ import annotations

import hashlib
from typing import Final
from zoneinfo import ZoneInfo

from aiotaskq.core.blackout import leave, read_windows
from aiotaskq.core.calendars import day_off
from aiotaskq.core.cron import check_timezone, local_timezone
from aiotaskq.core.instants import to_datetime
from aiotaskq.core.schedule import Schedule
from aiotaskq.core.task import SECOND

MISFIRE_GRACE: Final = 60
"""Seconds that a run may be late before the misfire policy ``skip`` skips it."""


def jitter_of(schedule: Schedule, due: int) -> int:
    """Return the microseconds by which the run of a due time is later: the same in every process."""
    if not schedule.jitter:
        return 0
    digest = hashlib.sha256(f"jitter:{schedule.task_id}:{due}".encode()).digest()
    return int.from_bytes(digest[:8]) % (schedule.jitter * SECOND + 1)


def planned(schedule: Schedule, due: int) -> tuple[int, str | None]:
    """Return when the task of a due time may start, and why the due time is skipped: holiday, weekend or blackout."""
    if schedule.plain:
        return due, None
    start = due + jitter_of(schedule, due)
    if not schedule.calendar and not schedule.blackout:
        return start, None
    zone = _zone(schedule)
    if schedule.calendar:
        reason = day_off(schedule.calendar, schedule.calendar_rule, to_datetime(due, zone).date())
        if reason is not None:
            return start, reason
    if schedule.blackout and (end := leave(read_windows(schedule.blackout), zone, start)) != start:
        return (start, "blackout") if schedule.blackout_policy == "skip" else (end, None)
    return start, None


def starts(schedule: Schedule, due: int, now: int) -> tuple[int, str | None]:
    """Return as ``planned`` for a due time that is fired ``now``, which may be late.

    A run that is more than MISFIRE_GRACE late would start now: then a window that holds ``now`` applies, too.
    """
    start, reason = planned(schedule, due)
    if reason is None and schedule.blackout and now - start > MISFIRE_GRACE * SECOND:
        end = leave(read_windows(schedule.blackout), _zone(schedule), now)
        if end != now:
            return (start, "blackout") if schedule.blackout_policy == "skip" else (end, None)
    return start, reason


def _zone(schedule: Schedule) -> ZoneInfo:
    return check_timezone(schedule.timezone or local_timezone())
