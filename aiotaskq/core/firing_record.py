"""The history of a schedule: what it fired, what it skipped and why, and when it was paused. Pure.

The records are part of the schedule, so each store keeps them, and one transaction writes a firing with its record.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from aiotaskq.core.instants import utc, utc_or_none

SCHEDULED_FOR: Final = "scheduled_for"
"""The key in a task's ``extra`` of the due time, in microseconds UTC, for which it was fired."""
MAX_RECORDS: Final = 50
"""The most records that a schedule keeps; the oldest are dropped."""
RECENT: Final = 10
"""The most records of single firings in a row. Older ones become one record: each firing writes all of them."""


OUTCOMES: Final = ("fired", "skipped", "run_now", "backfilled", "paused", "disabled", "resumed", "changed")
"""What a record may tell; ``changed`` is of the timing, ``disabled`` of the scheduler, which could not fire it."""
STOPS: Final = ("paused", "disabled")
REASONS: Final = ("misfire", "catch_up", "overlap", "max_runs", "holiday", "weekend", "blackout", "paused")
"""Why a due time may be skipped."""


class FiringRecord(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """One thing that happened to a schedule. Instants in microseconds UTC."""

    at: int
    """When it was written."""
    outcome: str
    """What it was, such as ``fired``, ``skipped`` or ``paused``."""
    due: int | None = None
    """The due time, the first of several; None where there is none."""
    reason: str | None = None
    """Why it was skipped, such as ``overlap`` or ``holiday``."""
    count: int = 1
    """How many due times in a row the record covers."""
    until: int | None = None
    """The last of several due times."""
    start: int | None = None
    """When the task may start, if that is later than its due time and than ``at``: jitter, or the end of a blackout."""
    task_id: str | None = None
    """The id of a task that was fired without a due time; all others are derived from schedule and due time."""

    time = utc("at")
    due_time = utc_or_none("due")
    until_time = utc_or_none("until")
    start_time = utc_or_none("start")

    @property
    def last(self) -> int | None:
        """The last due time that it covers."""
        return self.due if self.until is None else self.until


def recorded(history: Sequence[FiringRecord], new: Sequence[FiringRecord]) -> tuple[FiringRecord, ...]:
    """Return the history with new records, bounded.

    Skips in a row for the same reason are one record, and so are firings in a row but for the last RECENT.
    """
    records = [*history]
    for record in new:
        last = records[-1] if records else None
        if last is not None and record.outcome == last.outcome == "skipped" and record.reason == last.reason:
            records[-1] = FiringRecord(
                record.at, "skipped", last.due, last.reason, last.count + record.count, record.last
            )
        else:
            records.append(record)
            if record.outcome == "fired":
                _merge_fired(records)
    return tuple(records[-MAX_RECORDS:])


def _merge_fired(records: list[FiringRecord]) -> None:
    """Make one of the oldest two records of the firings at the end, if those are more than RECENT."""
    begin = len(records)
    while begin > 0 and records[begin - 1].outcome == "fired":
        begin -= 1
    if len(records) - begin > RECENT:
        one, two = records[begin : begin + 2]
        records[begin : begin + 2] = [
            FiringRecord(two.at, "fired", one.due, count=one.count + two.count, until=two.last)
        ]


def stopped_by(history: Sequence[FiringRecord]) -> str | None:
    """Return the outcome of the latest record by which the schedule was stopped; None if there is none."""
    return next((record.outcome for record in reversed(history) if record.outcome in STOPS), None)


def was_paused(history: Sequence[FiringRecord], due: int) -> bool:
    """Whether the schedule was paused at a due time, and resumed later, as far as its history tells."""
    paused_at: int | None = None
    for record in history:
        if record.outcome in STOPS:
            paused_at = record.at if paused_at is None else paused_at
        elif record.outcome == "resumed":
            if paused_at is not None and paused_at <= due < record.at:
                return True
            paused_at = None
    return False


def has_made(history: Sequence[FiringRecord], due: int) -> bool:
    """Whether a task was made for a due time, as far as the history tells."""
    return any(
        record.outcome in ("fired", "backfilled")
        and record.due is not None
        and record.due <= due <= (record.due if record.until is None else record.until)
        for record in reversed(history)
    )
