"""The next instants of a stored schedule are those at which it then fires."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotaskq.core.firing import fire
from aiotaskq.core.instants import instant
from aiotaskq.core.preview import upcoming
from aiotaskq.core.schedule import ScheduleStuck, new_schedule, paused

NOW = 1_700_000_000_000_000


@given(
    st.sampled_from(
        [
            {"schedule_type": "interval", "interval_seconds": 7},
            {"schedule_type": "cron", "cron_expression": "*/20 2 * * *", "timezone": "Europe/Berlin"},
            {"schedule_type": "once", "execute_at": NOW // 1_000_000 + 5},
        ]
    ),
    st.integers(0, 4),
    st.integers(1, 6),
)
def test_they_are_the_dues_that_are_fired(timing: dict[str, Any], max_runs: int, count: int) -> None:
    schedule = new_schedule("n", "t", **timing, max_runs=max_runs, now=NOW)
    shown = [instant("due", at) for at in upcoming(schedule, count)]
    fired: list[int] = []
    while (due := schedule.due) is not None and len(fired) < count:
        firing = fire(schedule, due)
        fired += firing.fired
        schedule = firing.schedule
    assert shown == fired


def test_a_paused_schedule_shows_its_times_and_a_finished_one_none() -> None:
    schedule = new_schedule("n", "t", "interval", interval_seconds=60, timezone="Asia/Shanghai", now=NOW)
    times = upcoming(paused(schedule, NOW), 2)
    assert [f"{time:%H:%M %z}" for time in times] == ["06:14 +0800", "06:15 +0800"]
    assert upcoming(schedule.replace(next_run_at=None), 2) == []


def test_an_adopted_interval_of_nothing_is_an_error() -> None:
    schedule = new_schedule("n", "t", "interval", interval_seconds=60, now=NOW).replace(interval_seconds=0)
    with pytest.raises(ScheduleStuck):
        upcoming(schedule, 2)
