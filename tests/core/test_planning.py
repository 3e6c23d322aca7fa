"""When a due time starts its task: jitter, calendars and blackout windows, as properties of pure functions."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiotaskq.core.blackout import day_off, leave, read_windows
from aiotaskq.core.firing import derived_id, fire, missing_dues, planned
from aiotaskq.core.firing_record import MAX_RECORDS, FiringRecord, has_made, recorded
from aiotaskq.core.schedule import changed, paused, resumed
from aiotaskq.errors import MissingExtra, ValidationError
from tests.core.schedules import DAY, HOUR, NOW, S, due_of, make

BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str, zone: ZoneInfo = BERLIN) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()) * S


def text_of(instant: int, zone: ZoneInfo = BERLIN) -> str:
    return datetime.fromtimestamp(instant // S, zone).isoformat()


# ---- jitter ---------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 3600), st.integers(0, 30 * DAY))
def test_jitter_is_bounded_only_later_and_no_part_of_the_identity(jitter: int, more: int) -> None:
    schedule = make(task_id="nightly", jitter=jitter)
    due = due_of(schedule) + more
    start, reason = planned(schedule, due)
    assert reason is None and due <= start <= due + jitter * S
    assert planned(make(task_id="nightly", jitter=jitter, priority=3), due) == (start, None)  # by id and due time alone
    (task,) = fire(schedule.with_due(due), due).tasks
    assert (task.task_id, task.run_at) == (derived_id("nightly", due), start)
    assert task.extra == {"scheduled_for": due}


def test_jitter_spreads_schedules_that_are_due_together() -> None:
    starts = [planned(make(task_id=f"s{n}", jitter=60), NOW)[0] - NOW for n in range(300)]
    tenths = {start // (6 * S) for start in starts}
    assert tenths == set(range(10))


def test_these_starts_never_change() -> None:
    """Another derivation would start what is fired during an upgrade at another time."""
    schedule = make(task_id="nightly", jitter=600)
    assert [planned(schedule, NOW + n)[0] - NOW - n for n in range(2)] == [254_343_195, 425_851_934]


def test_a_late_run_starts_now_and_its_jitter_is_no_lateness() -> None:
    schedule = make("interval", interval_seconds=3600, task_id="nightly", jitter=600, misfire="skip")
    due = due_of(schedule)
    start, _ = planned(schedule, due)
    (task,) = fire(schedule, start + 59 * S).tasks  # 59 s late, by its start
    assert task.run_at == start + 59 * S
    assert fire(schedule, start + 61 * S).tasks == ()


# ---- blackout windows -----------------------------------------------------------------------------------------------


WINDOWS = st.lists(
    st.one_of(
        st.tuples(st.integers(0, 1439), st.integers(1, 600)).map(
            lambda pair: f"{pair[0] // 60:02}:{pair[0] % 60:02}-{sum(pair) % 1440 // 60:02}:{sum(pair) % 1440 % 60:02}"
        ),
        st.dates(date(2026, 3, 25), date(2026, 4, 2)).map(str),
        st.dates(date(2026, 10, 20), date(2026, 10, 28)).map(lambda day: f"{day}/{day + timedelta(days=2)}"),
    ),
    min_size=1,
    max_size=3,
).map(tuple)
ZONES = st.sampled_from(["Europe/Berlin", "America/New_York", "Asia/Shanghai", "Australia/Lord_Howe"]).map(ZoneInfo)
NEAR = st.one_of(
    st.integers(at("2026-03-28T00:00:00"), at("2026-03-30T00:00:00")),
    st.integers(at("2026-10-24T00:00:00"), at("2026-10-26T00:00:00")),
    st.integers(NOW, NOW + 400 * DAY),
)


def inside(texts: tuple[str, ...], zone: ZoneInfo, instant: int) -> bool:
    wall = datetime.fromtimestamp(instant // S, zone)
    clock, day = f"{wall:%H:%M}", f"{wall:%Y-%m-%d}"
    for text in texts:
        first, _, last = text.partition("/") if ":" not in text else text.partition("-")
        if ":" not in text:
            hit = first <= day <= (last or first)
        else:
            hit = first <= clock < last if first < last else clock >= first or clock < last
        if hit:
            return True
    return False


@settings(deadline=None, max_examples=150)
@given(WINDOWS, ZONES, NEAR)
def test_the_end_of_the_windows_is_the_first_instant_outside_of_them(
    texts: tuple[str, ...], zone: ZoneInfo, instant: int
) -> None:
    end = leave(read_windows(texts), zone, instant)
    assert end >= instant and not inside(texts, zone, end)
    if end == instant:
        return
    assert inside(texts, zone, instant) and inside(texts, zone, end - 1)
    step = max(60 * S, (end - instant) // 200)
    assert all(inside(texts, zone, each) for each in range(instant, end, step))


@pytest.mark.parametrize(
    ("window", "instant", "end"),
    [
        ("22:00-06:00", "2026-01-05T23:30:00", "2026-01-06T06:00:00+01:00"),
        ("22:00-06:00", "2026-01-05T06:00:00", "2026-01-05T06:00:00+01:00"),
        ("22:00-24:00", "2026-01-05T22:00:00", "2026-01-06T00:00:00+01:00"),
        ("2026-12-24/2027-01-02", "2026-12-31T12:00:00", "2027-01-03T00:00:00+01:00"),
        ("01:00-02:30", "2026-03-29T01:30:00", "2026-03-29T03:00:00+02:00"),  # 02:30 is left out
        ("02:00-02:30", "2026-10-25T02:10:00", "2026-10-25T02:30:00+02:00"),  # the first of two
    ],
)
def test_ends_of_windows(window: str, instant: str, end: str) -> None:
    assert text_of(leave(read_windows((window,)), BERLIN, at(instant))) == end


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("22-6", "is not a window"),
        ("22:00-22:00", "names no span of a day"),
        ("24:00-06:00", "names no span of a day"),
        ("2026-02-30", "does not exist"),
        ("2026-12-24/2026-12-20", "ends before it begins"),
        ("2026-12-24/9999-12-31", "never ends"),
        (["00:00-12:00", "12:00-24:00"], "leave no time of the day"),
        ([7], "a list of them, is needed"),
        (["22:00-06:00"] * 101, "at most 100"),
    ],
)
def test_windows_that_are_refused(given: object, message: str) -> None:
    with pytest.raises(ValidationError, match=f"^blackout: .*{message}"):
        make(blackout=given)


def nightly(**fields: object):  # type: ignore[no-untyped-def]
    return make("cron", cron_expression="*/30 * * * *", blackout="22:00-06:00", now=at("2026-01-05T21:50:00"), **fields)


def test_a_due_time_in_a_window_is_skipped() -> None:
    firing = fire(nightly(), at("2026-01-05T22:00:00"))
    assert firing.tasks == () and firing.skipped == ((at("2026-01-05T22:00:00"), "blackout"),)
    assert text_of(due_of(firing.schedule)) == "2026-01-05T22:30:00+01:00"


def test_a_due_time_in_a_window_is_delayed_to_its_end() -> None:
    due = at("2026-01-05T22:00:00")
    firing = fire(nightly(blackout_policy="delay"), due)
    (task,) = firing.tasks
    assert text_of(task.run_at) == "2026-01-06T06:00:00+01:00"
    assert task.task_id == derived_id(firing.schedule.task_id, due)
    assert firing.schedule.history[-1] == FiringRecord(due, "fired", due, start=task.run_at)


def test_a_run_that_is_made_up_for_does_not_start_in_a_window() -> None:
    before, late = at("2026-01-05T21:00:00"), at("2026-01-05T23:10:00")
    assert fire(nightly().with_due(before), late).tasks == ()
    (task,) = fire(nightly(blackout_policy="delay", overlap="skip").with_due(before), late).tasks
    assert text_of(task.run_at) == "2026-01-06T06:00:00+01:00"
    # One that is a moment late, because the scheduler is, is no such run.
    edge = make("cron", cron_expression="59 59 21 * * *", blackout="22:00-06:00", now=before)
    assert len(fire(edge, due_of(edge) + 2 * S).tasks) == 1


def test_after_a_night_without_a_scheduler_nothing_of_the_night_is_made_up_for() -> None:
    schedule = nightly(misfire="fire_all").with_due(at("2026-01-05T21:30:00"))
    firing = fire(schedule, at("2026-01-06T06:10:00"))
    assert [text_of(due)[11:16] for due in firing.fired] == ["21:30", "06:00"]
    assert {reason for _, reason in firing.skipped} == {"blackout"}
    assert [(each.outcome, each.count) for each in firing.schedule.history] == [
        ("fired", 1),
        ("skipped", 16),
        ("fired", 1),
    ]


# ---- calendars ------------------------------------------------------------------------------------------------------

DAILY = {"cron_expression": "0 9 * * *", "timezone": "Europe/Berlin"}


def test_due_times_on_holidays_are_skipped() -> None:
    pytest.importorskip("holidays", reason="the extra calendars is not installed")
    christmas = at("2026-12-25T09:00:00")
    schedule = make("cron", **DAILY, calendar="DE", now=christmas - HOUR)
    assert fire(schedule, christmas).skipped == ((christmas, "holiday"),)
    monday = make("cron", **DAILY, calendar="DE", now=at("2026-12-28T08:00:00"))
    assert len(fire(monday, due_of(monday)).tasks) == 1


@pytest.mark.parametrize(
    ("calendar", "zone", "day", "reason"),
    [
        ("DE", "Europe/Berlin", "2026-12-27", "weekend"),
        ("DE", "Europe/Berlin", "2026-12-28", None),
        ("DE-BY", "Europe/Berlin", "2026-11-01", "holiday"),
        ("DE-BY", "Europe/Berlin", "2026-01-06", "holiday"),
        ("DE-BE", "Europe/Berlin", "2026-01-06", None),
        ("CN", "Asia/Shanghai", "2026-10-01", "holiday"),
        ("CN", "Asia/Shanghai", "2026-09-20", None),  # a Sunday that makes up for a holiday
    ],
)
def test_working_days(calendar: str, zone: str, day: str, reason: str | None) -> None:
    pytest.importorskip("holidays", reason="the extra calendars is not installed")
    due = at(f"{day}T00:00:00", ZoneInfo(zone))
    fields = {"cron_expression": "0 0 * * *", "timezone": zone, "calendar": calendar, "calendar_rule": "working_days"}
    schedule = make("cron", **fields, now=due - 1)
    assert planned(schedule, due) == (due, reason)


def test_the_last_working_day_is_made_up_for_and_not_the_weekend() -> None:
    pytest.importorskip("holidays", reason="the extra calendars is not installed")
    friday = at("2026-01-09T09:00:00")
    schedule = make("cron", **DAILY, calendar="DE", calendar_rule="working_days", now=friday - HOUR)
    firing = fire(schedule, friday + 2 * DAY)
    assert firing.fired == (friday,) and {reason for _, reason in firing.skipped} == {"weekend"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("ZZ", "no calendar is known for 'ZZ'"),
        ("DE-XX", "the parts of DE are BB, BE, BW, BY"),
        ("de", "did you mean 'DE'"),
        (49, "must be a country"),
        ("", "must be a country"),
    ],
)
def test_calendars_that_are_refused(given: object, message: str) -> None:
    pytest.importorskip("holidays", reason="the extra calendars is not installed")
    with pytest.raises(ValidationError, match=f"^calendar: .*{message}"):
        make(calendar=given)


def test_without_the_library_a_calendar_is_refused_and_the_extra_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "holidays", None)
    with pytest.raises(MissingExtra, match="install the extra calendars: pip install 'holidays"):
        make(calendar="AT")  # of no other test: a calendar that was read is kept


def test_options_without_what_they_are_about_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"^calendar_rule: needs a calendar"):
        make(calendar_rule="working_days")
    with pytest.raises(ValidationError, match=r"^blackout_policy: needs windows"):
        make(blackout_policy="delay")
    delayed = make(blackout="22:00-06:00", blackout_policy="delay")
    without = changed(delayed, NOW, blackout=())
    assert (without.blackout, without.blackout_policy, without.due) == ((), "skip", delayed.due)


def test_a_schedule_that_needs_a_zone_keeps_its_name() -> None:
    assert make(blackout="22:00-06:00", timezone="Asia/Shanghai").timezone == "Asia/Shanghai"
    assert make(blackout="22:00-06:00").timezone is not None and make().timezone is None


# ---- history --------------------------------------------------------------------------------------------------------


def test_the_history_is_bounded_and_skips_in_a_row_are_one_record() -> None:
    schedule = make(interval_seconds=60, blackout="00:00-23:59", timezone="UTC", now=at("2026-01-05T12:00:00"))
    for _ in range(200):
        schedule = fire(schedule, due_of(schedule)).schedule
    (record,) = schedule.history
    assert (record.outcome, record.reason, record.count) == ("skipped", "blackout", 200)
    assert record.last == due_of(schedule) - 60 * S and record.due == record.last - 199 * 60 * S
    plain = make(interval_seconds=60)
    for _ in range(MAX_RECORDS + 7):
        plain = fire(plain, due_of(plain)).schedule
    # The last ones are told one by one, those before as one record.
    assert [each.count for each in plain.history] == [MAX_RECORDS + 7 - 9] + [1] * 9
    assert plain.history[0].due == NOW + 60 * S and plain.history[-1].due == due_of(plain) - 60 * S
    assert all(has_made(plain.history, NOW + n * 60 * S) for n in range(1, MAX_RECORDS + 8))
    changes = [FiringRecord(n, "skipped" if n % 2 else "run_now", n, str(n)) for n in range(2 * MAX_RECORDS)]
    assert len(recorded((), changes)) == MAX_RECORDS


def test_another_timing_ends_a_row_of_firings() -> None:
    schedule = make(interval_seconds=60)
    for _ in range(20):
        schedule = fire(schedule, due_of(schedule)).schedule
    schedule = changed(schedule, due_of(schedule) - 1, interval_seconds=10)
    for _ in range(20):
        schedule = fire(schedule, due_of(schedule)).schedule
    assert [each.outcome for each in schedule.history].index("changed") == 10
    first, *_ = schedule.history
    assert not has_made(schedule.history, (first.last or 0) + 10 * 60 * S + 1)


def test_what_was_due_during_a_pause_is_told_from_a_misfire() -> None:
    schedule = make(interval_seconds=60)
    due = due_of(schedule)
    schedule = resumed(paused(schedule, due - S), due + 5 * 60 * S + S)
    firing = fire(schedule, due + 7 * 60 * S)
    assert [reason for _, reason in firing.skipped] == ["paused"] * 6 + ["misfire"]
    assert [each.outcome for each in firing.schedule.history] == ["paused", "resumed", "skipped", "skipped", "fired"]


def test_a_backfill_knows_the_due_time_of_a_once_at_a_part_of_a_second() -> None:
    once = make("once", execute_at=NOW // S + 3.5)
    due = due_of(once)
    late = due + S
    assert due % S == S // 2 and missing_dues(once, NOW, late, late) == [due]
    assert missing_dues(fire(once, due).schedule, NOW, late, late) == []


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.sampled_from(["fired", "a", "b"]), max_size=5), max_size=30))
def test_the_history_loses_no_count_before_its_bound(steps: list[list[str]]) -> None:
    history: tuple[FiringRecord, ...] = ()
    n = 0
    for step in steps:
        new = []
        for word in step:
            n += 1
            fired = word == "fired"
            new.append(FiringRecord(n, "fired" if fired else "skipped", n, None if fired else word))
        history = recorded(history, new)
    assert len(history) <= MAX_RECORDS
    if len(history) < MAX_RECORDS:
        assert sum(record.count for record in history) == n
    assert all(a.outcome != "skipped" or (a.outcome, a.reason) != (b.outcome, b.reason) for a, b in pairwise(history))
    assert [record.last for record in history] == sorted(record.last or 0 for record in history)


def test_a_stored_calendar_that_is_not_known_is_named() -> None:
    pytest.importorskip("holidays", reason="the extra calendars is not installed")
    with pytest.raises(ValidationError, match="calendar: no calendar is known for 'XX'"):
        day_off("XX", "skip_holidays", date(2026, 1, 1))
