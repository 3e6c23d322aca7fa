"""The checker on forged ledgers: it finds each kind of fault, and none in a correct ledger."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from aiotaskq.core.firing import derived_id, fire
from aiotaskq.core.schedule import new_schedule
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task, new_task
from tests.chaos.checker import Harm, check, harms_in, percentile, runs_of, schedule_tasks, zombie_writes
from tests.chaos.harness import SURFACED
from tests.chaos.ledger import Ledger, Line, read, read_all
from tests.chaos.places import Place
from tests.chaos.scenarios_limits import most_at_once

LEASE = 2.0
NOW = 1_700_000_000 * SECOND


def line(what: str, at: float, pid: int = 1, task: str = "t", fence: int = 1, **fields: Any) -> Line:
    return Line(what=what, at=at, pid=pid, id=task, fence=fence, **fields)


def run(at: float, until: float | None = None, how: str = "completed", **where: Any) -> list[Line]:
    """A start; with ``until`` also the end and what the store said."""
    lines = [line("start", at, **where)]
    if until is not None:
        lines += [line("end", until, how="returned", **where), line("settled", until + 0.1, how=how, **where)]
    return lines


def row(task: str = "t", fence: int = 1, status: Status = Status.COMPLETED, **fields: Any) -> Task:
    return new_task("short", task_id=task, now=NOW).replace(
        **{"status": status, "fence": fence, "result": {"fence": fence}, **fields}
    )


def violations(lines: list[Line], rows: list[Task], *harms: Harm, **options: Any) -> list[str]:
    return check([line("ack", 0.0), *lines], rows, harms, lease=LEASE, **options).violations


def killed(at: float, pid: int = 1) -> Harm:
    return Harm("killed", at, at, pid)


RERUN = [*run(1.0), *run(4.0, 5.0, pid=2, fence=2)]
"""A run without an end, and one more elsewhere."""


def test_a_good_run() -> None:
    assert violations(run(1.0, 2.0), [row()]) == []


# ---- lost -----------------------------------------------------------------------------------------------------------


def test_an_acknowledged_task_without_a_row_is_lost() -> None:
    assert violations([], []) == ["lost: t: acknowledged, and there is no row"]


def test_only_what_was_acknowledged_can_be_lost() -> None:
    assert check([line("intent", 0.0)], [], [], lease=LEASE).violations == []


@pytest.mark.parametrize("status", [Status.PENDING, Status.FAILED, Status.CANCELLED, Status.EXPIRED])
def test_a_task_that_did_not_complete_is_lost(status: Status) -> None:
    assert violations(run(1.0, 2.0), [row(status=status)])[0].startswith(f"lost: t: {status}")


def test_a_completed_task_that_never_ran_is_lost() -> None:
    assert violations([], [row()]) == ["lost: t: completed, and no handler ever returned"]
    assert violations(run(1.0), [row()]) == ["lost: t: completed, and no handler ever returned"]


def test_where_some_are_meant_to_fail_none_is_lost() -> None:
    assert violations(run(1.0, 2.0), [row(status=Status.FAILED)], all_complete=False) == []


def test_a_task_left_running_is_stuck() -> None:
    found = violations(run(1.0), [row(status=Status.RUNNING)], all_complete=False)
    assert [each.partition(":")[0] for each in found] == ["stuck"]


# ---- duplicates -----------------------------------------------------------------------------------------------------


def test_a_kill_explains_the_next_run() -> None:
    found = check(RERUN, [row(fence=2)], [killed(2.0)], lease=LEASE)
    assert (found.violations, found.duplicates, found.explained, found.recovery) == ([], 1, 1, [2.0])


@pytest.mark.parametrize(
    "harm",
    [
        killed(2.0, pid=3),  # another process
        killed(4.5),  # later than the next run began
        Harm("paused", -4.0, -2.0, 1),  # over long before
        Harm("cut", 4.5, 5.0),
    ],
)
def test_what_happened_elsewhere_explains_nothing(harm: Harm) -> None:
    found = check([*RERUN[:1], line("end", 1.5, how="returned"), *RERUN[1:]], [row(fence=2)], [harm], lease=LEASE)
    assert (found.duplicates, found.explained) == (1, 0)
    assert [each.partition(":")[0] for each in found.violations] == ["unexplained"]


@pytest.mark.parametrize("harm", [Harm("paused", 1.5, 4.5, 1), Harm("paused", 0.0, 0.9, 1), Harm("cut", 2.0, 3.0)])
def test_pauses_and_cuts_explain_too(harm: Harm) -> None:
    assert violations(RERUN, [row(fence=2)], harm) == []


def test_a_committed_run_is_never_followed_by_another() -> None:
    lines = [*run(1.0, 2.0), *run(4.0, 5.0, pid=2, fence=2)]
    found = violations(lines, [row(fence=2)], killed(3.0))
    assert found == ["unexplained: t: fence 1 was completed, and fence 2 ran"]


@pytest.mark.parametrize("how", ["released", "retried"])
def test_a_task_given_back_may_run_again(how: str) -> None:
    found = check([*run(1.0, 2.0, how), *run(3.0, 4.0, pid=2, fence=2)], [row(fence=2)], [], lease=LEASE)
    assert (found.violations, found.duplicates) == ([], 0)


def test_a_suicide_is_a_kill() -> None:
    lines = [*run(1.0), line("suicide", 1.5), *run(4.0, 5.0, pid=2, fence=2)]
    assert harms_in(lines) == [killed(1.5)]
    assert violations(lines, [row(fence=2)]) == []


def test_runs_at_the_same_time() -> None:
    lines = [*run(1.0, 6.0, "lost"), *run(4.0, 5.0, pid=2, fence=2)]
    kinds = [each.partition(":")[0] for each in violations(lines, [row(fence=2)])]
    assert kinds == ["unexplained", "parallel"]
    assert violations(lines, [row(fence=2)], Harm("paused", 1.5, 5.5, 1)) == []


# ---- fences ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("second", [1, 2])
def test_fences_must_rise(second: int) -> None:
    lines = [*run(1.0, fence=2), *run(4.0, 5.0, pid=2, fence=second)]
    found = violations(lines, [row(fence=2, result=None)], killed(2.0))
    first, other = sorted([(2, 1, "1.000"), (second, 2, "4.000")], key=lambda each: each[0])
    expected = "fence: t: fence {} (pid {}) started at {}, and fence {} (pid {}) at {}".format(*first, *other)
    assert expected in found


@pytest.mark.parametrize(("harm", "good"), [(Harm("paused", 0.5, 4.0, 1), True), (Harm("paused", 0.5, 4.0, 3), False)])
def test_a_process_paused_behind_its_claim_starts_late(harm: Harm, good: bool) -> None:
    lines = [*run(1.0, 2.0, pid=2, fence=2), *run(4.1, 4.2, "lost", fence=1)]
    kinds = [each.partition(":")[0] for each in violations(lines, [row(fence=2)], harm)]
    assert kinds == ([] if good else ["unexplained", "fence", "parallel"])


def test_the_result_is_the_last_deliverys() -> None:
    found = violations(RERUN, [row(fence=2, result={"fence": 1})], killed(2.0))
    assert found == ["fence: t: the result is of fence 1, the row has 2"]


def test_the_row_is_not_behind_its_runs() -> None:
    found = violations(RERUN, [row(fence=1)], killed(2.0))
    assert found == ["fence: t: the row's fence 1 is behind its runs'"]


@pytest.mark.parametrize("how", ["mark", "report", "retry", "complete"])
def test_a_zombies_write(how: str) -> None:
    def lines(held: bool) -> list[Line]:
        return [*run(1.0), *run(4.0, 9.0, pid=2, fence=2), line("write", 5.0, how=how, held=held)]

    assert zombie_writes(lines(False), runs_of(lines(False))) == (1, [])
    tried, found = zombie_writes(lines(True), runs_of(lines(True)))
    assert (tried, found) == (1, [f"t: {how} of fence 1 (pid 1) was taken after fence 2"])


def test_a_write_before_anybody_took_over_is_no_zombies() -> None:
    lines = [*run(1.0), line("write", 2.0, how="mark", held=True), *run(4.0, 5.0, pid=2, fence=2)]
    assert zombie_writes(lines, runs_of(lines)) == (0, [])


@pytest.mark.parametrize(("how", "bad"), [("lost", 0), ("completed", 1), ("retried", 1)])
def test_a_zombies_settlement(how: str, bad: int) -> None:
    lines = [*run(1.0, 6.0, how), *run(4.0, 9.0, pid=2, fence=2)]
    tried, found = zombie_writes(lines, runs_of(lines))
    assert (tried, len(found)) == (1, bad)


def test_a_settlement_that_is_told_late_is_no_zombies() -> None:
    lines = [line("start", 1.0), line("end", 2.0, how="cancelled"), *run(2.1, 3.0, pid=2, fence=2)]
    lines.append(line("settled", 2.2, how="released"))
    assert zombie_writes(lines, runs_of(lines)) == (0, [])


# ---- recovery, owners -----------------------------------------------------------------------------------------------


def test_recovery_is_from_the_kill_to_the_next_start() -> None:
    lines = [*RERUN, *run(1.5, task="u"), *run(4.5, 5.0, task="u", pid=2, fence=2), *run(0.5, 0.8, task="v")]
    found = check(lines, [row(fence=2), row("u", 2), row("v")], [killed(2.0)], lease=LEASE)
    assert (sorted(found.recovery), found.violations) == ([2.0, 2.5], [])


def test_a_task_that_never_started_again() -> None:
    found = violations(run(1.0), [row(status=Status.PENDING)], killed(2.0), all_complete=False)
    assert found == ["never recovered: t: fence 1 died with pid 1 and never started again"]


def test_poison_need_not_start_again() -> None:
    assert violations(run(1.0), [row(status=Status.FAILED)], killed(2.0), all_complete=False) == []


def test_owners_are_fresh() -> None:
    boots = [Line(what="boot", at=at, pid=pid, owner=owner) for at, pid, owner in ((1, 1, "a"), (2, 1, "b"))]
    assert violations([*boots, *run(1.0, 2.0)], [row()]) == []
    again = Line(what="boot", at=3.0, pid=1, owner="a")
    assert violations([*boots, again, *run(1.0, 2.0)], [row()])[0].startswith("owner: owner a is not fresh")


def test_percentiles() -> None:
    assert [percentile(range(1, 101), p) for p in (50, 99, 100)] == [50, 99, 100]
    assert (percentile([], 99), percentile([7.0], 50)) == (0.0, 7.0)


# ---- schedules ------------------------------------------------------------------------------------------------------


def fired(times: int = 3) -> tuple[Any, dict[str, int], list[Task]]:
    """A schedule of one second after so many dues, its first due, and its tasks."""
    schedule = new_schedule("every second", "nothing", "interval", interval_seconds=1, misfire="fire_all", now=NOW)
    first = schedule.due
    assert first is not None
    firing = fire(schedule, first + (times - 1) * SECOND)
    assert len(firing.tasks) == times
    return firing.schedule, {schedule.task_id: first}, list(firing.tasks)


def test_a_good_schedule() -> None:
    schedule, first, tasks = fired()
    assert schedule_tasks([schedule], first, tasks) == []


def test_a_due_without_a_task() -> None:
    schedule, first, tasks = fired()
    found = schedule_tasks([schedule], first, tasks[:-1])
    assert found[0] == "every second: run_count is 3, and there are 2 tasks"
    assert found[1].startswith("every second: 1 dues have no task, the first")
    counted = schedule.replace(run_count=2)
    assert schedule_tasks([counted], first, tasks[:-1], gaps=True) == []


def test_a_due_with_two_tasks() -> None:
    schedule, first, tasks = fired()
    found = schedule_tasks([schedule], first, [*tasks, tasks[0]])
    assert found == ["every second: run_count is 3, and there are 4 tasks", "every second: 1 tasks are there twice"]
    other = tasks[0].replace(task_id=derived_id(schedule.task_id, first[schedule.task_id] + 1))
    found = schedule_tasks([schedule.replace(run_count=4)], first, [*tasks, other])
    assert found == ["every second: 1 tasks belong to no due before the next one"]


# ---- the place ------------------------------------------------------------------------------------------------------


def test_a_store_is_locked_while_another_connection_writes(tmp_path: Path) -> None:
    place = Place("sqlite", f"sqlite:///{tmp_path / 'tasks.db'}")
    assert not place.locked()
    with contextlib.closing(sqlite3.connect(tmp_path / "tasks.db")) as connection:
        connection.execute("BEGIN IMMEDIATE")
        assert place.locked()
        connection.rollback()
        assert not place.locked()


# ---- limits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("harm", "most"),
    [
        (Harm("killed", 3.0, 3.0, 1), 1),
        (Harm("killed", 3.0, 3.0, 3), 2),
        (Harm("paused", 1.5, 6.0, 1, lease_until=4.0), 1),
        (Harm("paused", 0.9, 6.0, 1, lease_until=4.0), 1),  # the run started before the signal arrived
        (Harm("paused", 1.5, 6.0, 1, lease_until=4.2), 2),  # the lease was not over
        (Harm("paused", 1.5, 3.5, 1, lease_until=3.6), 2),  # it went on before its lease was over
        (Harm("paused", 0.5, 0.9, 1, lease_until=0.7), 2),  # before the run
        (Harm("paused", 1.5, 6.0, 1, lease_until=-1.0), 1),
    ],
)
def test_a_run_takes_a_slot_until_its_process_or_its_lease_is_over(harm: Harm, most: int) -> None:
    runs = runs_of([*run(1.0, 6.5), *run(4.0, 5.0, pid=2, task="other")])
    assert most_at_once([each for of_task in runs.values() for each in of_task], [harm]) == most


# ---- the ledger -----------------------------------------------------------------------------------------------------


def test_ledgers_are_read_in_the_order_of_what_happened(tmp_path: Any) -> None:
    one, two = Ledger(tmp_path / "one.ledger"), Ledger(tmp_path / "two.ledger")
    one.write("start", id="t", fence=1)
    two.write("start", id="t", fence=2)
    one.write("end", id="t", fence=1, how="returned")
    one.close()
    two.close()
    assert [(each.what, each.fence) for each in read_all(tmp_path)] == [("start", 1), ("start", 2), ("end", 1)]
    again = Ledger(tmp_path / "one.ledger")
    again.write("boot")
    again.close()
    assert [each.what for each in read(tmp_path / "one.ledger")] == ["start", "end", "boot"]
    assert read(tmp_path / "none.ledger") == []


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("OperationalError: (1213, 'Dead lock')", True),
        ("OperationalError: 1205: Lock wait timeout exceeded", True),
        ("ERROR failed member 01a21bc3-1213-7d94-a86e-525c0de462cc: ValueError", False),
    ],
)
def test_the_number_of_a_mysql_error_is_found_and_not_a_part_of_an_id(said: str, found: bool) -> None:
    assert bool(SURFACED.search(said)) is found
