"""Schedules: making, validating, changing and resuming them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiotaskq.core.firing import fire, run_now
from aiotaskq.core.firing_record import FiringRecord
from aiotaskq.core.instants import to_datetime
from aiotaskq.core.schedule import Schedule, UndecodableSchedule, changed, new_schedule, paused, resumed
from aiotaskq.errors import ValidationError
from tests.core.schedules import ANY, DAY, HOUR, NOW, YEAR, S, due_of, make

# ---- making ---------------------------------------------------------------------------------------------------------


def test_first_dues() -> None:
    assert due_of(make()) == NOW + 60 * S  # the microseconds are kept
    assert (make().next_run_at, make().next_run_us) == (NOW // S + 60, 123_456)
    assert due_of(make("cron")) == round(datetime(2025, 11, 26, 2, tzinfo=ZoneInfo("Europe/Berlin")).timestamp()) * S
    assert due_of(make("once", execute_at=5)) == 5 * S and fire(make("once", execute_at=5), NOW).tasks
    assert due_of(make("once", execute_at=1.5)) == 1_500_000
    schedule = make(description="", task_id=None)
    assert (schedule.created_at, schedule.updated_at, schedule.run_count, schedule.enabled) == (
        NOW // S,
        NOW // S,
        0,
        True,
    )
    assert (schedule.timezone, schedule.description) == (None, None) and len(schedule.task_id) == 36


def test_start_at_is_the_earliest_first_due() -> None:  # C11
    later = NOW // S + 7200
    assert due_of(make(interval_seconds=60, start_at=later)) == later * S
    assert due_of(make("cron", cron_expression="0 * * * *", start_at=later + 5)) == -(-(later + 5) // 3600) * HOUR
    hour = later // 3600 * 3600
    assert due_of(make("cron", cron_expression="0 * * * *", start_at=hour)) == hour * S  # "not before" includes it
    for kind in ("interval", "cron"):  # two minutes ago: nothing now
        assert due_of(make(kind, start_at=NOW // S - 120)) == due_of(make(kind))
        assert not fire(make(kind, start_at=NOW // S - 120), NOW).tasks


@given(
    st.datetimes(datetime(1970, 1, 3), datetime(2900, 1, 1)),
    st.sampled_from(["UTC", "Europe/Berlin", "Pacific/Apia"]),
    st.integers(0, 1),
)
def test_aware_datetimes_name_instants(moment: datetime, zone: str, fold: int) -> None:  # I7
    aware = moment.replace(tzinfo=ZoneInfo(zone), fold=fold)
    expected = (aware.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert due_of(make("once", execute_at=aware)) == expected


def test_params_are_copied() -> None:
    params = {"a": [1]}
    schedule = make(params=params)
    params["a"].append(2)
    assert schedule.params == {"a": [1]}


NAN, INF = float("nan"), float("inf")


WRONG: list[tuple[dict[str, Any], str]] = [
    (
        {"schedule_type": "intervall"},
        "schedule_type: must be one of interval, cron, once (got 'intervall'); did you mean 'interval'?",
    ),
    ({"schedule_type": None}, "schedule_type: must be one of interval, cron, once (got None)"),
    ({"interval_seconds": None}, "interval_seconds: missing; schedule_type 'interval' needs it"),
    ({"schedule_type": "cron", "interval_seconds": None}, "cron_expression: missing; schedule_type 'cron' needs it"),
    ({"schedule_type": "once", "interval_seconds": None}, "execute_at: missing; schedule_type 'once' needs it"),
    (
        {"cron_expression": "* * * * *"},
        "cron_expression: belongs to schedule_type 'cron', not 'interval'; pass one of the two",
    ),
    ({"execute_at": 5}, "execute_at: belongs to schedule_type 'once', not 'interval'; pass one of the two"),
    ({"interval_seconds": 0}, "interval_seconds: 0 is not in 1..315360000"),
    ({"interval_seconds": -1}, "interval_seconds: -1 is not in"),
    ({"interval_seconds": 2**63}, "interval_seconds: 9223372036854775808 is not in"),
    ({"interval_seconds": True}, "interval_seconds: an int is needed (got bool"),
    ({"interval_seconds": 1.5}, "interval_seconds: an int is needed (got float"),
    ({"interval_seconds": "60"}, "interval_seconds: an int is needed (got str"),
    ({"max_runs": -1}, "max_runs: -1 is not in"),
    ({"max_runs": True}, "max_runs: an int is needed"),
    ({"name": ""}, "name: must not be empty"),
    ({"name": "x" * 256}, "name: 256 characters are more than 255"),
    ({"name": "a\x00"}, "name: NUL characters"),
    ({"name": "a\nb"}, "name: control characters"),
    ({"name": "\ud800"}, "name: a lone surrogate"),
    ({"name": 5}, "name: a string is needed (got int)"),
    ({"task_type": " "}, "task_type: must not be empty"),
    ({"task_type": "x" * 101}, "task_type: 101 characters are more than 100"),
    ({"task_id": "x" * 37}, "task_id: 37 characters"),
    ({"description": "a\x00"}, "description: NUL"),
    ({"params": [1]}, "params: a dict is needed"),
    ({"params": {"a": {1}}}, "params.a: set is not JSON"),
    ({"params": {"a": NAN}}, "params.a: nan is not JSON"),
    (
        {"timezone": "Europe/Berln"},
        "timezone: the name is not an IANA time zone (got 'Europe/Berln'); did you mean 'Europe/Berlin'?",
    ),
    ({"timezone": 5}, "timezone: must be an IANA name"),
    (
        {"misfire": "fire-once"},
        "misfire: must be one of fire_once, skip, fire_all (got 'fire-once'); did you mean 'fire_once'?",
    ),
    ({"overlap": ["skip"]}, "overlap: must be one of allow, skip, buffer_one (got ['skip'])"),
    ({"catch_up": 0}, "catch_up: 0 is not in"),
    ({"catch_up": INF}, "catch_up: an int is needed"),
    ({"priority": 2**31}, "priority: 2147483648 is not in"),
    ({"queue": ""}, "queue: must not be empty"),
    ({"max_retries": -1}, "max_retries: -1 is not in"),
    ({"timeout": NAN}, "timeout: nan is not a number of seconds"),
    ({"timeout": 0}, "timeout: must be more than 0"),
    (
        {"start_at": datetime(2030, 1, 1)},
        "start_at: a naive datetime names no instant; give it a tzinfo (got 2030-01-01 00:00:00)",
    ),
]


@pytest.mark.parametrize(("fields", "message"), WRONG)
def test_refusals_name_the_field(fields: dict[str, Any], message: str) -> None:  # I7, I9
    arguments: dict[str, Any] = {
        "name": "n",
        "task_type": "t",
        "schedule_type": "interval",
        "interval_seconds": 60,
    } | fields
    with pytest.raises(ValidationError) as caught:
        new_schedule(**arguments, now=NOW)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("at", "message"),
    [
        (
            datetime(2030, 1, 1),
            "execute_at: a naive datetime names no instant; give it a tzinfo (got 2030-01-01 00:00:00)",
        ),
        (
            1_764_072_000_000,
            "execute_at: epoch seconds are needed; 1.76407e+12 looks like milliseconds, divide by 1000",
        ),
        (1e300, "execute_at: epoch seconds are needed; a huge number looks like milliseconds, divide by 1000"),
        (10**5000, "execute_at: epoch seconds are needed; a huge number"),
        (NAN, "execute_at: nan is not a time"),
        (INF, "execute_at: inf is not a time"),
        (-INF, "execute_at: -inf is not a time"),
        (-1, "execute_at: is not in the years 1970 to 5000 (got -1)"),
        (-(10**5000), "execute_at: epoch seconds are needed; a huge number"),
        (datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))), "execute_at: is not in the years 1970 to 5000"),
        (True, "execute_at: epoch seconds or an aware datetime are needed (got bool)"),
        ("2030-01-01T00:00:00Z", "execute_at: epoch seconds or an aware datetime are needed (got str)"),
        (
            "2016-12-31T23:59:60Z",
            "execute_at: epoch seconds or an aware datetime are needed (got str)",
        ),  # a leap second
    ],
    ids=lambda value: value[12:40] if isinstance(value, str) else type(value).__name__,
)
def test_refused_instants(at: object, message: str) -> None:  # I7, I9
    with pytest.raises(ValidationError) as caught:
        make("once", execute_at=at)
    assert str(caught.value).startswith(message)


def test_once_has_no_start_and_far_instants_are_fine() -> None:  # I7
    with pytest.raises(ValidationError, match="start_at: schedule_type 'once' has execute_at instead"):
        make("once", start_at=5)
    far = datetime.max.replace(tzinfo=timezone(-timedelta(hours=23)))
    with pytest.raises(ValidationError, match="execute_at: is not in the years 1970 to 5000"):
        make("once", execute_at=far)


# ---- changing -------------------------------------------------------------------------------------------------------


def test_an_edited_cron_expression_is_due_strictly_later_than_the_edit() -> None:  # C10
    noon = round(datetime(2025, 11, 25, 12, tzinfo=ZoneInfo("Europe/Berlin")).timestamp()) * S
    morning = make("cron", cron_expression="0 9 * * *", now=noon - DAY)
    moved = changed(morning, noon, cron_expression="0 16 * * *")
    assert due_of(moved) == noon + 4 * HOUR and moved.updated_at == noon // S and moved.created_at == morning.created_at
    assert due_of(changed(morning, noon, cron_expression="0 12 * * *")) == noon + DAY
    assert due_of(changed(morning, noon, timezone="UTC")) == noon + 22 * HOUR


@settings(deadline=None)
@given(ANY, st.integers(0, 2 * YEAR), st.sampled_from([
    {"schedule_type": "interval", "interval_seconds": 5}, {"schedule_type": "cron", "cron_expression": "*/3 * * * *"},
    {"schedule_type": "once", "execute_at": 7}, {"schedule_type": "once", "execute_at": NOW // S + 10**8},
]))  # fmt: skip
def test_a_new_timing_is_due_later_than_the_edit(
    schedule: Schedule, later: int, changes: dict[str, Any]
) -> None:  # C10
    now = NOW + later
    after = changed(schedule, now, **changes)
    assert due_of(after) > now
    assert after.schedule_type == changes["schedule_type"]
    assert sum(each is not None for each in (after.interval_seconds, after.cron_expression, after.execute_at)) == 1


@settings(deadline=None)
@given(ANY, st.integers(0, 2 * YEAR))
def test_other_edits_keep_the_due(schedule: Schedule, later: int) -> None:  # C10
    now = NOW + later
    after = changed(schedule, now, name="other", params={"b": 1}, misfire="skip", timeout=5, max_runs=9)
    same = schedule.replace(name="other", params={"b": 1}, misfire="skip", timeout=5.0, max_runs=9, updated_at=now // S)
    assert after == same
    again = {
        name: getattr(schedule, name) for name in ("schedule_type", "interval_seconds", "cron_expression", "execute_at")
    }
    assert changed(schedule, now, **again).due == schedule.due  # declared again at every start: no shift


def test_edits_are_validated() -> None:
    schedule = make()
    for changes, message in (
        ({"interval_second": 5}, "interval_second: cannot be changed; did you mean 'interval_seconds'?"),
        ({"run_count": 5}, "run_count: cannot be changed"),
        ({"task_id": "x"}, "task_id: cannot be changed"),
        ({"enabled": False}, "enabled: cannot be set; pause and resume do that"),
        ({"next_run_at": 5}, "next_run_at: cannot be set"),
        ({"interval_seconds": 0}, "interval_seconds: 0 is not in"),
        ({"cron_expression": "* * * * *"}, "cron_expression: belongs to schedule_type 'cron', not 'interval'"),
        ({"schedule_type": "cron"}, "cron_expression: missing"),
        ({"schedule_type": "crom"}, "schedule_type: must be one of"),
        ({"name": ""}, "name: must not be empty"),
    ):
        with pytest.raises(ValidationError) as caught:
            changed(schedule, NOW, **changes)
        assert str(caught.value).startswith(message)


def test_a_lowered_max_runs_ends_the_schedule_and_a_raised_one_resumes_it() -> None:  # C27
    ended = changed(make().replace(run_count=3), NOW, max_runs=3)
    assert (ended.enabled, ended.next_run_at) == (False, None)
    with pytest.raises(
        ValidationError, match=r"max_runs: the schedule is finished, 3 of 3 runs are made; raise max_runs to resume it"
    ):
        resumed(ended, NOW)
    again = resumed(changed(ended, NOW, max_runs=4), NOW + DAY)
    assert again.enabled and due_of(again) == NOW + DAY + 60 * S


@pytest.mark.parametrize(("misfire", "fired", "skipped"), [("fire_once", 1, 23), ("skip", 0, 24), ("fire_all", 24, 0)])
def test_resume_follows_the_misfire_policy(misfire: str, fired: int, skipped: int) -> None:  # C10
    schedule = make(interval_seconds=3600, misfire=misfire)
    stopped = paused(schedule, NOW + 10 * S)
    assert not stopped.enabled and stopped.due == schedule.due
    back = NOW + HOUR + 23 * HOUR + 30 * 60 * S  # paused for a day
    assert not fire(stopped, back).tasks
    firing = fire(resumed(stopped, back), back)
    assert (len(firing.tasks), firing.skipped_count) == (fired, skipped)
    assert due_of(firing.schedule) == NOW + 25 * HOUR


def test_resume_before_the_due_changes_nothing_else() -> None:
    schedule = make("cron")
    back = resumed(paused(schedule, NOW), NOW)
    assert [record.outcome for record in back.history] == ["paused", "resumed"]
    assert back.replace(history=()) == schedule
    assert resumed(schedule, NOW + DAY) is schedule


def test_a_fired_once_needs_a_new_time_to_resume() -> None:
    fired = fire(make("once"), NOW + 2 * HOUR).schedule
    with pytest.raises(ValidationError, match="execute_at: the schedule is finished, its one time is over"):
        resumed(fired, NOW + 2 * HOUR)
    later = changed(fired, NOW + 2 * HOUR, execute_at=NOW // S + 9000)
    assert not later.enabled
    assert due_of(resumed(later, NOW + 2 * HOUR)) == (NOW // S + 9000) * S


@pytest.mark.parametrize("due", [None, NOW // S + 60], ids=["without a due time", "with one"])
@pytest.mark.parametrize(
    ("kind", "written", "message"),
    [
        ("cron", {"cron_expression": "bad"}, "cron_expression: 1 fields"),
        ("cron", {"cron_expression": None}, "cron_expression: "),
        ("cron", {"timezone": "Mars/Base"}, "timezone: "),
        ("interval", {"interval_seconds": 0}, "schedule: .* never becomes due again"),
        ("interval", {"schedule_type": "weekly"}, "schedule: .* never becomes due again"),
    ],
)
def test_what_another_program_broke_is_not_resumed(
    kind: str, written: dict[str, Any], message: str, due: int | None
) -> None:
    broken = paused(make(kind), NOW).replace(next_run_at=due, **written)
    with pytest.raises(ValidationError, match=message):
        resumed(broken, NOW)


def test_a_row_that_cannot_be_decoded_is_not_resumed() -> None:
    schedule = paused(make(), NOW)
    fields = {name: getattr(schedule, name) for name in schedule.__struct_fields__}
    with pytest.raises(ValidationError, match="cannot be decoded; update its params"):
        resumed(UndecodableSchedule(**fields), NOW)


def test_run_now_is_an_extra_run() -> None:
    schedule = make("cron", params={"a": 1}, max_runs=2)
    once, task = run_now(schedule, NOW, "extra-1")
    assert (task.task_id, task.type, task.params, task.run_at, task.scheduler_task_id) == (
        "extra-1", "report", {"a": 1}, NOW, schedule.task_id,
    )  # fmt: skip
    assert (once.run_count, once.last_run_at, once.due) == (1, NOW // S, schedule.due)
    twice, _ = run_now(once, NOW, "extra-2")
    assert (twice.run_count, twice.enabled, twice.next_run_at) == (2, False, None)  # C27


def test_times_are_given_as_aware_datetimes_too() -> None:
    schedule = make("interval", interval_seconds=60).replace(last_run_at=NOW // S - 60)
    made = to_datetime(NOW // S * S)
    assert (schedule.created, schedule.updated) == (made, made)
    assert schedule.next_run == to_datetime(NOW + 60 * S) and schedule.last_run == made - timedelta(minutes=1)
    assert (paused := schedule.without_due()).next_run is None and paused.replace(last_run_at=None).last_run is None
    record = FiringRecord(NOW, "fired", NOW, count=2, until=NOW + S, start=NOW + 2 * S)
    times = [record.time, record.due_time, record.until_time, record.start_time]
    assert times == [to_datetime(NOW + seconds * S) for seconds in (0, 0, 1, 2)]
    assert FiringRecord(NOW, "paused").due_time is None
