"""Schedule: what is due, what it fires and what comes next, as properties of pure functions. Nothing here sleeps."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiotaskq.core.preview import preview
from aiotaskq.core.schedule import (
    HOSTS_DIFFER,
    Firing,
    Schedule,
    ScheduleStuck,
    brought_near,
    changed,
    derived_id,
    due_us,
    fire,
    new_schedule,
    paused,
    resumed,
    run_now,
)
from aiotaskq.errors import AiotaskqError, CronError, ValidationError
from tests.support.machine import working

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
    due = due_us(schedule)
    assert due is not None
    return due


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


ANY = st.one_of(
    st.builds(lambda n: make(interval_seconds=n), st.integers(1, 10**6)),
    st.sampled_from(
        ["* * * * *", "*/5 * * * * *", "0 2 * * *", "30 2 * * *", "0 0 1 * *", "0 0 29 2 *", "*/7 */5 * * MON#2"]
    ).map(lambda text: make("cron", cron_expression=text)),
    st.integers(0, 10**9).map(lambda at: make("once", execute_at=at)),
)
POLICIES = {
    "misfire": st.sampled_from(["fire_once", "skip", "fire_all"]),
    "overlap": st.sampled_from(["allow", "skip", "buffer_one"]),
    "catch_up": st.one_of(st.none(), st.integers(1, 10**7)),
    "max_runs": st.integers(0, 12),
    "run_count": st.integers(0, 12),
}
TURNED = st.builds(lambda schedule, policies: schedule.replace(**policies), ANY, st.fixed_dictionaries(POLICIES))
LATENESS = st.one_of(st.integers(0, 200 * S), st.integers(0, 30 * DAY), st.integers(0, 174 * YEAR))


# ---- firing -------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=400)
@given(TURNED, LATENESS, st.integers(0, 3))
def test_firing_keeps_its_books(schedule: Schedule, lateness: int, active: int) -> None:  # C18, C20, C24, C27
    due = due_of(schedule)
    now = due + lateness
    firing = fire(schedule, now, active)
    after = firing.schedule
    # Every due is either fired or counted as skipped, and none appears twice.
    listed = [*firing.fired, *(each for each, _ in firing.skipped)]
    assert len(set(listed)) == len(listed) <= 100 and all(due <= each <= now for each in listed)
    assert firing.skipped_count + len(firing.fired) >= len(listed) >= 1
    assert {reason for _, reason in firing.skipped} <= {"misfire", "catch_up", "overlap", "max_runs"}
    # One task per fired due.
    assert [task.task_id for task in firing.tasks] == [derived_id(schedule.task_id, each) for each in firing.fired]
    assert list(firing.fired) == sorted(firing.fired)
    assert after.run_count == schedule.run_count + len(firing.fired)
    assert after.last_run_at == (now // S if firing.fired else None)
    if schedule.max_runs:
        assert len(firing.fired) <= max(0, schedule.max_runs - schedule.run_count)
        assert after.enabled == (after.run_count < schedule.max_runs and after.next_run_at is not None)
    if schedule.misfire != "fire_all":
        assert len(firing.fired) <= 1
    if schedule.overlap == "skip":
        assert len(firing.fired) <= (active == 0)
    if schedule.overlap == "buffer_one":
        assert len(firing.fired) + active <= max(2, active)
    if schedule.catch_up is not None:
        assert all(now - each <= schedule.catch_up * S for each in firing.fired)
    # The next due is later than now, or there is none and the schedule is disabled.
    assert after.enabled == (after.next_run_at is not None)
    assert not after.enabled or due_of(after) > now
    assert not fire(after, now, active).tasks


@settings(deadline=None)
@given(TURNED, st.integers(1, 400 * YEAR))
def test_nothing_happens_before_the_due(schedule: Schedule, early: int) -> None:  # C12
    assert fire(schedule, due_of(schedule) - early) == Firing(schedule=schedule)


@pytest.mark.parametrize("kind", ["interval", "cron"])
@pytest.mark.parametrize("early", [1, 1000, 40_000, 140_000, 200_000])
def test_an_early_wake_neither_fires_nor_skips(kind: str, early: int) -> None:  # C7
    schedule = make(kind)
    fired: list[int] = []
    for _ in range(20):
        due = due_of(schedule)
        for now in (due - early, due - early // 2, due + 1000, due + 2000):  # the handler ends within a millisecond
            firing = fire(schedule, now)
            schedule = firing.schedule
            fired += firing.fired
            assert firing.skipped_count == 0
    gaps = {b - a for a, b in pairwise(fired)}
    assert len(fired) == 20 and gaps == ({60 * S} if kind == "interval" else {DAY})


def test_one_second_for_ten_minutes_fires_600_times_without_drift() -> None:  # C28
    schedule = make(interval_seconds=1)
    first = due_of(schedule)
    fired: list[int] = []
    now = first
    while now < first + 600 * S:
        firing = fire(schedule, now)
        schedule = firing.schedule
        fired += firing.fired
        now = due_of(schedule) + 137_000  # the loop is always late, and by a different amount than the interval
    assert fired == [first + n * S for n in range(600)]
    assert due_of(schedule) == first + 600 * S and schedule.run_count == 600


def test_a_clock_set_back_fires_nothing_twice() -> None:  # C12
    schedule = make(interval_seconds=60)
    due = due_of(schedule)
    firing = fire(schedule, due)
    for back in (120 * S, HOUR, YEAR):
        assert fire(firing.schedule, due - back) == Firing(schedule=firing.schedule)
    again = fire(firing.schedule, due + 60 * S)
    assert again.fired == (due + 60 * S,)


@pytest.mark.parametrize("misfire", ["fire_once", "skip", "fire_all"])
@pytest.mark.parametrize("leap", [HOUR, DAY, 174 * YEAR])
@pytest.mark.parametrize(
    "fields", [{"interval_seconds": 1}, {"cron_expression": "* * * * * *"}, {"cron_expression": "* * * 2 *"}]
)
def test_a_clock_set_forward_is_bounded(misfire: str, leap: int, fields: dict[str, Any]) -> None:  # C13
    kind = "cron" if "cron_expression" in fields else "interval"
    schedule = make(kind, misfire=misfire, **fields)
    now = due_of(schedule) + leap + 7
    firing = fire(schedule, now)  # the first call pays for imports and parsing
    begin = time.thread_time()
    assert fire(schedule, now).fired == firing.fired
    assert time.thread_time() - begin < working(0.2)
    assert 0 <= len(firing.tasks) <= (100 if misfire == "fire_all" else 1)
    assert len(firing.skipped) <= 100
    assert due_of(firing.schedule) > now
    if kind == "interval":
        assert firing.skipped_count + len(firing.fired) == leap // S + 1
        assert due_of(firing.schedule) <= now + S


@pytest.mark.parametrize("missed", [1, 2, 50, 150])
@pytest.mark.parametrize("kind", ["interval", "cron"])
def test_misfire_policies_count_exactly(missed: int, kind: str) -> None:  # C18, C20
    every_minute = {"interval_seconds": 60} if kind == "interval" else {"cron_expression": "* * * * *"}
    schedule = make(kind, **every_minute)
    dues = [due_of(schedule) + n * 60 * S for n in range(missed)]
    now = dues[-1] + 59 * S
    expected = {
        "fire_once": tuple(dues[-1:]),
        "skip": tuple(dues[-1:]),  # 59 s are within the grace of a minute
        "fire_all": tuple(dues[-100:]),
    }
    for misfire, fired in expected.items():
        firing = fire(schedule.replace(misfire=misfire), now)
        assert firing.fired == fired
        assert firing.skipped_count == missed - len(fired)
        if misfire != "fire_all":
            assert firing.skipped == tuple((due, "misfire") for due in dues[-100:-1])
        assert due_of(firing.schedule) == dues[-1] + 60 * S


@pytest.mark.parametrize(("late", "fires"), [(0, True), (60 * S, True), (60 * S + 1, False), (DAY - 1, False)])
def test_skip_allows_a_minute(late: int, fires: bool) -> None:  # C18, C20
    for kind, fields in (("interval", {"interval_seconds": 86_400}), ("cron", {}), ("once", {})):
        schedule = make(kind, misfire="skip", **fields)
        due = due_of(schedule)
        firing = fire(schedule, due + late)
        assert firing.fired == ((due,) if fires else ())
        assert firing.skipped == (() if fires else ((due, "misfire"),))
        assert firing.skipped_count == (not fires)
        assert firing.schedule.enabled == (kind != "once")


def test_a_store_five_seconds_slow_fires_late() -> None:  # C20
    for misfire in ("fire_once", "skip", "fire_all"):
        schedule = make("cron", misfire=misfire)
        firing = fire(schedule, due_of(schedule) + 5 * S)
        assert firing.fired == (due_of(schedule),) and not firing.skipped_count


def test_catch_up_limits_lateness() -> None:  # C18, C20
    schedule = make(interval_seconds=60, misfire="fire_all", catch_up=300)
    due = due_of(schedule)
    firing = fire(schedule, due + 10 * 60 * S)
    assert firing.fired == tuple(due + n * 60 * S for n in range(5, 11))
    assert firing.skipped == tuple((due + n * 60 * S, "catch_up") for n in range(5))
    late = fire(make("once", catch_up=10), due_of(make("once")) + 11 * S)
    assert (late.fired, late.skipped_count, late.schedule.enabled) == ((), 1, False)


def test_overlap_policies() -> None:
    schedule = make(interval_seconds=60, misfire="fire_all")
    due = due_of(schedule)
    now = due + 3 * 60 * S
    counts = {
        (overlap, active): len(fire(schedule.replace(overlap=overlap), now, active).fired)
        for overlap in ("allow", "skip", "buffer_one")
        for active in (0, 1, 2, 5)
    }
    assert counts == {
        ("allow", 0): 4, ("allow", 1): 4, ("allow", 2): 4, ("allow", 5): 4,
        ("skip", 0): 1, ("skip", 1): 0, ("skip", 2): 0, ("skip", 5): 0,
        ("buffer_one", 0): 2, ("buffer_one", 1): 1, ("buffer_one", 2): 0, ("buffer_one", 5): 0,
    }  # fmt: skip
    skipped = fire(schedule.replace(overlap="skip"), now, 1)
    assert {reason for _, reason in skipped.skipped} == {"overlap"} and skipped.skipped_count == 4
    assert due_of(skipped.schedule) == now + 60 * S


def test_a_once_that_overlaps_is_put_off_not_lost() -> None:
    schedule = make("once", overlap="skip")
    now = due_of(schedule)
    waiting = fire(schedule, now, active=1)
    assert waiting.skipped == ((now, "overlap"),) and waiting.schedule.enabled
    later = due_of(waiting.schedule)
    assert now < later <= now + 10 * S
    assert fire(waiting.schedule, later, active=0).fired == (later,)


@pytest.mark.parametrize("misfire", ["fire_once", "skip", "fire_all"])
@pytest.mark.parametrize("step", [7 * S, 60 * S, 200 * S, 7000 * S])
def test_max_runs_is_exact(misfire: str, step: int) -> None:  # C27
    schedule = make(interval_seconds=60, max_runs=5, misfire=misfire)
    after, firings = schedule, []
    now = due_of(schedule)
    for _ in range(100):
        firing = fire(after, now)
        after = firing.schedule
        firings.append(firing)
        now += step
    if misfire == "skip" and step > 60 * S:
        assert after.run_count == sum(len(firing.fired) for firing in firings) <= 5
    else:
        assert after.run_count == sum(len(firing.fired) for firing in firings) == 5
        assert (after.enabled, after.next_run_at, due_us(after)) == (False, None, None)
    ids = [task.task_id for firing in firings for task in firing.tasks]
    assert len(set(ids)) == len(ids)


def test_a_once_with_a_new_time_is_resumed_for_that_time() -> None:
    over = fire(make("once", execute_at=NOW // S), NOW).schedule
    assert over.next_run_at is None and not over.enabled
    with pytest.raises(ValidationError, match="its one time is over"):
        resumed(over, NOW)
    again = resumed(over.replace(execute_at=NOW // S + 100), NOW)
    assert (again.enabled, due_of(again)) == (True, (NOW // S + 100) * S)


def test_once_fires_once_and_is_disabled() -> None:
    schedule = make("once")
    firing = fire(schedule, due_of(schedule) + 30 * DAY)
    assert len(firing.tasks) == 1
    assert (firing.schedule.enabled, firing.schedule.next_run_at, firing.schedule.run_count) == (False, None, 1)
    assert fire(firing.schedule, NOW + 300 * DAY) == Firing(schedule=firing.schedule)


def test_a_disabled_schedule_does_nothing() -> None:
    schedule = paused(make(), NOW)
    assert fire(schedule, NOW + DAY) == Firing(schedule=schedule)


def test_the_task_of_a_due() -> None:
    schedule = make(params={"a": [1]}, priority=3, queue="slow", timeout=9, max_retries=1, task_id="my-schedule")
    due = due_of(schedule)
    (task,) = fire(schedule, due + 5).tasks
    assert (task.type, task.params, task.scheduler_task_id) == ("report", {"a": [1]}, "my-schedule")
    assert (task.priority, task.queue, task.timeout, task.max_retries) == (3, "slow", 9.0, 1)
    assert (task.run_at, task.created_at, task.status, task.fence) == (due + 5, (due + 5) // S, "pending", 0)
    task.params["a"].append(2)
    assert schedule.params == {"a": [1]}
    # Another process, looking at another time, makes the same id; another due or schedule another one.
    assert fire(schedule, due + 7).tasks[0].task_id == task.task_id == derived_id("my-schedule", due)
    assert len(task.task_id) == 36
    assert len({derived_id("a", due), derived_id("b", due), derived_id("a", due + 1)}) == 3
    assert derived_id("a", 1) == "9f771dc2-0e2d-5de0-96ce-c41af44598a3"  # stored in databases: never changes


def test_a_schedule_that_does_not_advance_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:  # C24
    assert issubclass(ScheduleStuck, AiotaskqError) and issubclass(ScheduleStuck, RuntimeError)
    for fields in (
        {"interval_seconds": 0},
        {"interval_seconds": -5},
        {"interval_seconds": None},
        {"schedule_type": "hourly"},
    ):
        with pytest.raises(ScheduleStuck, match="never becomes due again; update or delete it"):
            fire(make().replace(**fields), NOW + DAY)
    monkeypatch.setattr("aiotaskq.core.schedule._following", lambda schedule, instant: instant)
    with pytest.raises(ScheduleStuck, match="is not after"):
        fire(make("cron"), NOW + 2 * DAY)


def test_an_adopted_row() -> None:
    row = Schedule(
        task_id="1", name="", task_type="t", schedule_type="cron", cron_expression="*/5 * * * *",
        next_run_at=NOW // S - 86_400, created_at=0, updated_at=0,
    )  # fmt: skip
    firing = fire(row, NOW)
    assert len(firing.tasks) == 1 and firing.skipped_count == 288  # not a flood; the local zone where none is stored
    with pytest.raises(CronError):
        fire(row.replace(cron_expression="59/15 * * * *"), NOW)
    asleep = row.replace(next_run_at=None)
    assert fire(asleep, NOW) == Firing(schedule=asleep)
    assert NOW < due_of(resumed(asleep, NOW)) <= NOW + 300 * S


# ---- making -------------------------------------------------------------------------------------------------------


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


# ---- changing -----------------------------------------------------------------------------------------------------


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
    assert due_us(changed(schedule, now, **again)) == due_us(schedule)  # declared again at every start: no shift


def test_edits_are_validated() -> None:
    schedule = make()
    for changes, message in (
        ({"interval_second": 5}, "interval_second: cannot be changed; did you mean 'interval_seconds'?"),
        ({"run_count": 5}, "run_count: cannot be changed"),
        ({"task_id": "x"}, "task_id: cannot be changed"),
        ({"enabled": False}, "enabled: cannot be set; pause_task and resume_task do that"),
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
    assert not stopped.enabled and due_us(stopped) == due_us(schedule)
    back = NOW + HOUR + 23 * HOUR + 30 * 60 * S  # paused for a day
    assert not fire(stopped, back).tasks
    firing = fire(resumed(stopped, back), back)
    assert (len(firing.tasks), firing.skipped_count) == (fired, skipped)
    assert due_of(firing.schedule) == NOW + 25 * HOUR


def test_resume_before_the_due_changes_nothing_else() -> None:
    schedule = make("cron")
    assert resumed(paused(schedule, NOW), NOW) == schedule
    assert resumed(schedule, NOW + DAY) is schedule


def test_a_fired_once_needs_a_new_time_to_resume() -> None:
    fired = fire(make("once"), NOW + 2 * HOUR).schedule
    with pytest.raises(ValidationError, match="execute_at: the schedule is finished, its one time is over"):
        resumed(fired, NOW + 2 * HOUR)
    later = changed(fired, NOW + 2 * HOUR, execute_at=NOW // S + 9000)
    assert not later.enabled
    assert due_of(resumed(later, NOW + 2 * HOUR)) == (NOW // S + 9000) * S


def test_run_now_is_an_extra_run() -> None:
    schedule = make("cron", params={"a": 1}, max_runs=2)
    once, task = run_now(schedule, NOW, "extra-1")
    assert (task.task_id, task.type, task.params, task.run_at, task.scheduler_task_id) == (
        "extra-1", "report", {"a": 1}, NOW, schedule.task_id,
    )  # fmt: skip
    assert (once.run_count, once.last_run_at, due_us(once)) == (1, NOW // S, due_us(schedule))
    twice, _ = run_now(once, NOW, "extra-2")
    assert (twice.run_count, twice.enabled, twice.next_run_at) == (2, False, None)  # C27


# ---- preview ------------------------------------------------------------------------------------------------------


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
        ({}, "preview: exactly one of cron, interval and at is needed"),
        ({"cron": "* * * * *", "interval": 5}, "preview: exactly one of cron, interval and at is needed"),
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


# ---- a clock that is set back ---------------------------------------------------------------------------------------


@given(
    seconds=st.integers(1, 100_000),
    runs=st.integers(0, 5),
    back=st.integers(0, YEAR),
    late=st.integers(0, 30 * S),
)
def test_an_interval_goes_on_when_the_clock_is_set_back(seconds: int, runs: int, back: int, late: int) -> None:  # C12
    schedule, now = make(interval_seconds=seconds), NOW
    dues = {due_of(schedule)}
    for _ in range(runs):
        now = due_of(schedule)
        schedule = fire(schedule, now).schedule
        dues.add(due_of(schedule))
    now = min(now + late, due_of(schedule) - 1) - back
    near = brought_near(schedule, now)
    assert now < due_of(near) <= now + seconds * S + 2 * S
    assert brought_near(near, now) is near  # whoever looks next changes nothing
    if near is not schedule:
        assert back > 0 and due_of(near) not in dues and near.updated_at == now // S
        assert near.replace(updated_at=0, next_run_at=0, next_run_us=0) == schedule.replace(
            updated_at=0, next_run_at=0, next_run_us=0
        )


@given(back=st.integers(0, YEAR), start=st.integers(0, YEAR))
def test_what_names_a_time_waits_for_it(back: int, start: int) -> None:  # C12
    later = make(start_at=(NOW + start) // S + 61)
    assert brought_near(later, NOW) is later
    for schedule in (make("cron"), make("once"), paused(make(), NOW)):
        assert brought_near(schedule, NOW - back) is schedule
    for seconds in (None, 0, -1):
        broken = make().replace(interval_seconds=seconds)  # an adopted row must not stop the others
        assert brought_near(broken, NOW - back) is broken
    ended = fire(make(max_runs=1), NOW + 60 * S).schedule
    assert brought_near(ended, NOW - back) is ended


def test_what_another_host_wrote_is_no_sign_of_a_step() -> None:
    schedule = make(interval_seconds=10)
    for ahead in (3 * S, 60 * S):
        assert brought_near(schedule, NOW - ahead, HOSTS_DIFFER) is schedule
        assert brought_near(schedule, NOW - ahead) is not schedule
    assert brought_near(schedule, NOW - 61 * S, HOSTS_DIFFER) is not schedule


def test_an_interval_that_begins_later_is_left_alone_after_an_extra_run() -> None:
    later = make(start_at=(NOW + DAY) // S)
    after, _ = run_now(later, NOW, "extra")
    assert brought_near(after, NOW) is after and brought_near(after, NOW - HOUR) is after
