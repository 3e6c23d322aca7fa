"""Schedules for the tests of the rules: builders and hypothesis strategies."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from hypothesis import strategies as st

import aiotaskq
from aiotaskq.core.instants import to_datetime
from aiotaskq.core.schedule import (
    Schedule,
    new_schedule,
)

S = 1_000_000


NOW = 1_764_072_000_123_456  # 2025-11-25 12:00:00.123456 UTC


HOUR, DAY, YEAR = 3600 * S, 86_400 * S, 365 * 86_400 * S


def make(schedule_type: str = "interval", *, now: int = NOW, **fields: Any) -> Schedule:
    defaults: dict[str, dict[str, Any]] = {
        "interval": {"interval_seconds": 60},
        "cron": {"cron_expression": "0 2 * * *", "timezone": "Europe/Berlin"},
        "once": {"execute_at": now // S + 3600},
    }
    return new_schedule("nightly", "report", schedule_type, **(defaults[schedule_type] | fields), now=now)


def due_of(schedule: Schedule) -> int:
    due = schedule.due
    assert due is not None
    return due


ANY = st.one_of(
    st.builds(lambda n: make(interval_seconds=n), st.integers(1, 10**6)),
    st.sampled_from(
        ["* * * * *", "*/5 * * * * *", "0 2 * * *", "30 2 * * *", "0 0 1 * *", "0 0 29 2 *", "*/7 */5 * * MON#2"]
    ).map(lambda text: make("cron", cron_expression=text)),
    st.integers(0, 10**9).map(lambda at: make("once", execute_at=at)),
)


def preview(*, now: int, **arguments: Any) -> list[datetime]:
    """Return the instants of ``aiotaskq.preview`` after ``now``, unless the arguments say after when."""
    return aiotaskq.preview(**{"after": to_datetime(now)} | arguments)
