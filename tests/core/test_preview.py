"""The preview of a schedule: its next due times."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from aiotaskq.core.firing import Firing, fire, upcoming
from aiotaskq.core.schedule import Schedule
from aiotaskq.errors import ValidationError
from tests.core.schedules import NOW, S, due_of, make, preview


def drain(schedule: Schedule, until: int, step: int) -> tuple[Schedule, list[Firing]]:
    """Look at the schedule at regular instants, as a scheduler does."""
    firings, now = [], due_of(schedule)
    while now <= until:
        firing = fire(schedule, now)
        schedule = firing.schedule
        if firing.fired or firing.skipped_count:
            firings.append(firing)
        now += step
    return schedule, firings


def test_preview() -> None:
    night = preview(
        cron="30 2 * * *", timezone="Europe/Berlin", after=datetime(2025, 3, 29, 12, tzinfo=UTC), count=3, now=NOW
    )
    assert [each.isoformat() for each in night] == [
        "2025-03-30T03:00:00+02:00", "2025-03-31T02:30:00+02:00", "2025-04-01T02:30:00+02:00",
    ]  # fmt: skip
    assert isinstance(night[0].tzinfo, ZoneInfo)
    every = preview(interval=timedelta(minutes=1), timezone="Asia/Kathmandu", count=2, now=NOW)
    assert [each.isoformat() for each in every] == [
        "2025-11-25T17:46:00.123456+05:45",
        "2025-11-25T17:47:00.123456+05:45",
    ]
    assert preview(interval=60, timezone="Asia/Kathmandu", count=2, now=NOW) == every
    assert preview(at=NOW // S + 5, timezone="UTC", now=NOW) == [datetime(2025, 11, 25, 12, 0, 5, tzinfo=UTC)]
    assert preview(at=5, timezone="UTC", now=NOW) == []
    assert len(preview(cron="* * * * *", count=1000, now=NOW)) == 1000  # the local zone


def test_preview_says_what_the_scheduler_does() -> None:
    schedule = make("cron", cron_expression="*/20 1-3 * * *", now=1_761_400_000 * S)  # an autumn night
    schedule, firings = drain(schedule, 1_761_700_000 * S, 60 * S)
    fired = [due for firing in firings for due in firing.fired]
    shown = preview(cron="*/20 1-3 * * *", timezone="Europe/Berlin", count=len(fired), now=1_761_400_000 * S)
    assert [round(each.timestamp()) * S for each in shown] == fired and len(fired) > 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "schedule: exactly one of cron, interval and at is needed"),
        ({"cron": "* * * * *", "interval": 5}, "schedule: exactly one of cron, interval and at is needed"),
        ({"cron": "0 61 * * *"}, "cron_expression: hour 61 is not in 0-23"),
        ({"interval": 0}, "interval: 0 is not in"),
        ({"interval": timedelta(milliseconds=1500)}, "interval: whole seconds are needed (got 0:00:01.500000)"),
        ({"interval": 5, "count": 0}, "count: 0 is not in 1..1000"),
        ({"interval": 5, "count": 1001}, "count: 1001 is not in 1..1000"),
        ({"interval": 315_360_000, "count": 1000}, "count: 1000 instants reach beyond the year 9999"),
        ({"interval": 5, "timezone": "Mars"}, "timezone: the name is not an IANA time zone (got 'Mars')"),
        ({"interval": 5, "after": datetime(2030, 1, 1)}, "after: a naive datetime names no instant"),
        ({"interval": 5, "after": 5}, "after: an aware datetime is needed (got int)"),
        ({"at": datetime(2030, 1, 1)}, "at: a naive datetime names no instant"),
    ],
)
def test_preview_refuses(arguments: dict[str, Any], message: str) -> None:  # I7, I9
    with pytest.raises(ValidationError) as caught:
        preview(**arguments, now=NOW)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "timing",
    [
        ("cron", {"cron_expression": "*/20 1-3 * * *"}),
        ("interval", {"interval_seconds": 3_600}),
        ("interval", {"interval_seconds": 3_600, "max_runs": 3}),
        ("once", {"execute_at": NOW // S + 60}),
    ],
)
def test_the_times_before_an_instant_are_the_next_ones(timing: tuple[str, dict[str, Any]]) -> None:
    schedule = make(timing[0], **timing[1])
    known = upcoming(schedule, 12)
    first, last = known[0].due, known[-1].due
    for until in (first, first + 1, last + 1):
        assert upcoming(schedule, 12, until=until) == [each for each in known if each.due < until]
    assert upcoming(schedule, 2, until=last + 1) == known[:2]
    assert upcoming(schedule.without_due(), 2, until=last + 1) == []
