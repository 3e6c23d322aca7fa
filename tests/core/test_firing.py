"""Firing: which tasks a due schedule becomes, and its own next state, as properties of pure functions."""

from __future__ import annotations

import time
import uuid
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiotaskq.core.firing import HOSTS_DIFFER, NAMESPACE, Firing, brought_near, derived_id, fire, run_now
from aiotaskq.core.firing_record import MAX_RECORDS
from aiotaskq.core.schedule import Schedule, ScheduleStuck, paused, resumed
from aiotaskq.errors import AiotaskqError, CronError, ValidationError
from tests.core.schedules import ANY, DAY, HOUR, NOW, YEAR, S, due_of, make
from tests.support.machine import working

POLICIES = {
    "misfire": st.sampled_from(["fire_once", "skip", "fire_all"]),
    "overlap": st.sampled_from(["allow", "skip", "buffer_one"]),
    "catch_up": st.one_of(st.none(), st.integers(1, 10**7)),
    "max_runs": st.integers(0, 12),
    "run_count": st.integers(0, 12),
}


TURNED = st.builds(lambda schedule, policies: schedule.replace(**policies), ANY, st.fixed_dictionaries(POLICIES))


LATENESS = st.one_of(st.integers(0, 200 * S), st.integers(0, 30 * DAY), st.integers(0, 174 * YEAR))


# ---- firing ---------------------------------------------------------------------------------------------------------


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
    # The history keeps each of them.
    kept = sum(record.count for record in after.history)
    assert kept == len(firing.fired) + firing.skipped_count or len(after.history) == MAX_RECORDS
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
    took = []
    for _ in range(3):  # the garbage collector takes part in some of them
        begin = time.thread_time()
        assert fire(schedule, now).fired == firing.fired
        took.append(time.thread_time() - begin)
    assert min(took) < working(0.2)
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
        assert (after.enabled, after.next_run_at, after.due) == (False, None, None)
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


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), st.integers(0, 10**17))
def test_an_id_of_a_due_time_is_a_uuid_of_version_5(schedule_id: str, due: int) -> None:
    assert derived_id(schedule_id, due) == str(uuid.uuid5(NAMESPACE, f"{schedule_id}:{due}"))


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
    monkeypatch.setattr("aiotaskq.core.firing.following", lambda schedule, instant: instant)
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
