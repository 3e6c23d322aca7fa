"""The next instants of a stored schedule are those at which it then fires."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import asdict

from aiotaskq.core.firing import fire, next_starts, upcoming, zone_of
from aiotaskq.core.instants import to_datetime
from aiotaskq.core.schedule import ScheduleStuck, UndecodableSchedule, new_schedule, paused, resumed
from tests.core.schedules import preview

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
    shown = [run.due for run in upcoming(schedule, count)]
    fired: list[int] = []
    while (due := schedule.due) is not None and len(fired) < count:
        firing = fire(schedule, due)
        fired += firing.fired
        schedule = firing.schedule
    assert shown == fired


def test_a_paused_schedule_shows_its_times_and_a_finished_one_none() -> None:
    schedule = new_schedule("n", "t", "interval", interval_seconds=60, timezone="Asia/Shanghai", now=NOW)
    times = upcoming(paused(schedule, NOW), 2)
    zone = zone_of(schedule)
    assert [f"{to_datetime(time.due, zone):%H:%M %z}" for time in times] == ["06:14 +0800", "06:15 +0800"]
    assert upcoming(schedule.replace(next_run_at=None), 2) == []


@pytest.mark.parametrize(
    ("timing", "first"),
    [
        ({"schedule_type": "interval", "interval_seconds": 60}, 60),
        ({"schedule_type": "cron", "cron_expression": "* * * * *", "timezone": "UTC"}, 40),
    ],
)
def test_what_was_due_before_is_left_out_for_any_span(timing: dict[str, Any], first: int) -> None:
    schedule = new_schedule("n", "t", **timing, now=NOW)
    year = NOW + 365 * 24 * 60 * 60 * 1_000_000
    for after in (NOW, year):
        found = upcoming(paused(schedule, NOW), 3, after=after)
        assert [run.due - after for run in found] == [(first + 60 * n) * 1_000_000 for n in range(3)]
    assert next_starts(schedule, 1, after=year)[0] > to_datetime(year)
    once = new_schedule("n", "t", "once", execute_at=NOW // 1_000_000 + 5, now=NOW)
    assert len(upcoming(once, 3, after=NOW)) == 1 and upcoming(once, 3, after=year) == []


def test_a_schedule_is_active_paused_disabled_or_finished() -> None:
    schedule = new_schedule("n", "t", "interval", interval_seconds=60, max_runs=1, now=NOW)
    stopped = paused(schedule, NOW, "disabled")
    assert (schedule.state, paused(schedule, NOW).state, stopped.state) == ("active", "paused", "disabled")
    assert paused(resumed(stopped, NOW), NOW).state == "paused"
    assert schedule.replace(enabled=False).state == "paused", "another program has stopped it"
    assert fire(schedule, NOW + 60_000_000).schedule.state == "finished"
    unreadable = UndecodableSchedule(**asdict(schedule.replace(enabled=False)))
    assert unreadable.state == "disabled"


def test_an_adopted_interval_of_nothing_is_an_error() -> None:
    schedule = new_schedule("n", "t", "interval", interval_seconds=60, now=NOW).replace(interval_seconds=0)
    with pytest.raises(ScheduleStuck):
        upcoming(schedule, 2)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from([0, 300]),
    st.sampled_from([(), ("22:00-06:00",), ("10:00-11:30", "2023-11-15")]),
    st.sampled_from(["skip", "delay"]),
    st.integers(0, 4),
)
def test_they_say_what_is_skipped_and_when_tasks_start(
    jitter: int, blackout: tuple[str, ...], policy: str, max_runs: int
) -> None:
    schedule = new_schedule(
        *("n", "t", "cron"),
        cron_expression="*/40 * * * *",
        timezone="Asia/Shanghai",
        jitter=jitter,
        blackout=blackout,
        blackout_policy=policy if blackout else "skip",
        max_runs=max_runs,
        now=NOW,
    )
    shown = upcoming(schedule, 90)
    first = next(run.start for run in shown if run.skipped is None)
    assert next_starts(schedule, 1) == [to_datetime(first, zone_of(schedule))]
    runs = []
    while (due := schedule.due) is not None and len(runs) < 90:
        firing = fire(schedule, due)
        runs += [(each, task.run_at, None) for each, task in zip(firing.fired, firing.tasks, strict=True)]
        runs += [(each, None, reason) for each, reason in firing.skipped]
        schedule = firing.schedule
    assert [(run.due, run.start if run.skipped is None else None, run.skipped) for run in shown] == runs


def test_the_preview_of_a_schedule_that_does_not_exist_leaves_out_what_is_skipped() -> None:
    about = {"cron": "0 */3 * * *", "timezone": "UTC", "count": 4, "now": NOW}  # 22:13 on the 14th
    times = preview(**about, blackout="22:00-06:00")
    assert [f"{time:%d %H:%M}" for time in times] == ["15 06:00", "15 09:00", "15 12:00", "15 15:00"]
    delayed = preview(**about, blackout=["22:00-05:00"], blackout_policy="delay")
    assert [f"{time:%d %H:%M}" for time in delayed] == ["15 05:00", "15 05:00", "15 06:00", "15 09:00"]
    assert upcoming(new_schedule("n", "t", "interval", interval_seconds=1, blackout="00:00-23:59", now=NOW), 2)[
        1
    ].skipped
