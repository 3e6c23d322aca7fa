"""The attempts of a task: what is kept of each run, and how much of it."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiotaskq.core.conversion import describe
from aiotaskq.core.outcome import (
    ALONE,
    MAX_ATTEMPTS,
    MAX_ERROR,
    Cancelled,
    Completed,
    Expired,
    Failed,
    HandedBack,
    LeaseExpired,
    Outcome,
    Released,
    Requeued,
    Rerun,
    TimedOut,
    attempts_of,
    run_time,
    settle,
    snoozes_of,
)
from aiotaskq.core.task import SECOND, Attempt, Task
from tests.core.outcomes import NOW, NOW_S, C, F, P, R, X, task

FAILED = Failed("ValueError: no")
AGAIN = Task(task_id="1", type="t", run_at=NOW)
ENDS: list[Outcome] = [
    FAILED,
    Failed("ValueError: no", retryable=False),
    TimedOut(2.5),
    LeaseExpired(),
    Released("snoozed", 7, ran=True),
    Released("never started"),
    Cancelled(),
    Completed(1),
    HandedBack(AGAIN),
]


def claimed(before: Task, now: int) -> Task:
    """As a backend claims it."""
    times = {"began_at": now, "started_at": now // SECOND}
    return before.replace(status=R, fence=before.fence + 1, lease_owner="w", lease_until=now, **times)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(ENDS), st.integers(0, 10**9), st.integers(-(10**6), 10**9), st.booleans()),
        max_size=60,
    )
)
def test_attempts_are_bounded_and_in_order_whatever_happens(
    runs: list[tuple[Outcome, int, int, bool]],
) -> None:
    now, current = NOW, AGAIN.replace(max_retries=9)
    count = 0
    for outcome, wait, took, rerun in runs:
        if current.final:
            if current.status is C or rerun:
                current, count = settle(current, Rerun(AGAIN.replace(max_retries=9)), now), 0
                assert attempts_of(current) == ()
            else:
                kept = attempts_of(current)
                current = settle(current, Requeued(), now)
                assert attempts_of(current) == kept
        now += wait
        current = claimed(current, now)
        present = attempts_of(current)[-1]
        assert (present.number, present.began_at) == (count + 1, now)
        assert present.ended_at is None and present.outcome is None and run_time(current) is None
        current = settle(current, outcome, now + took)  # the clock may have been set back meanwhile
        now += max(took, 0)
        count += not (isinstance(outcome, Released) and not outcome.ran)
        kept = attempts_of(current)
        done = int(current.status is C)
        assert len(current.attempts) == min(count - done, MAX_ATTEMPTS) and len(kept) == len(current.attempts) + done
        assert [attempt.number for attempt in kept] == list(range(count - len(kept) + 1, count + 1))
        assert all(attempt.outcome is not None for attempt in kept)
        ends = [(attempt.began_at or 0, attempt.ended_at or 0) for attempt in kept]
        assert all(NOW <= began <= ended for began, ended in ends)
        assert all(one[1] <= two[0] for one, two in itertools.pairwise(ends))


@pytest.mark.parametrize(
    ("outcome", "word", "error"),
    [
        (Failed("ValueError: no\nat all"), "failed", "ValueError: no\nat all"),
        (TimedOut(2.5), "timed_out", "TimeoutError: timed out after 2.5 s"),
        (LeaseExpired(), "lost", "its process died, or its lease was not renewed: worker worker-1"),
        (
            LeaseExpired(1_750_000_000 * SECOND),
            "lost",
            "its process died, or its lease was not renewed: worker worker-1, last seen 2025-06-15T15:06:40Z",
        ),
        (Released("snoozed", ran=True), "released", "snoozed"),
        (HandedBack(AGAIN), "released", "pushed anew while it ran"),
        (Cancelled("no longer needed"), "cancelled", "no longer needed"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Outcome) else None,
)
def test_the_words_of_each_end(outcome: Outcome, word: str, error: str) -> None:
    after = settle(task(), outcome, NOW)
    attempt = Attempt(
        number=1,
        began_at=NOW - 2,
        ended_at=NOW,
        outcome=word,
        error=error,
        worker="worker-1",
        fence=4,
        snoozes=int(error == "snoozed"),
    )
    assert after.attempts == attempts_of(after) == (attempt,) and run_time(after) == attempt.seconds == 2 / SECOND


def test_snoozes_are_counted_up_to_a_failure() -> None:
    counts, current = [], AGAIN.replace(max_retries=9)
    snoozed, stopped = Released("snoozed", 7, ran=True), Released("its worker was stopped", ran=True)
    later: list[Outcome] = [stopped, LeaseExpired(), snoozed, FAILED, snoozed, TimedOut(1), snoozed]
    for outcome in [snoozed] * MAX_ATTEMPTS + later:
        current = settle(claimed(current, NOW), outcome, NOW)
        counts.append(snoozes_of(current))
    assert counts == [*range(1, MAX_ATTEMPTS + 1), 20, 20, 21, 0, 1, 0, 1]
    dead = settle(claimed(current, NOW), Failed("too many", retryable=False), NOW)
    assert snoozes_of(settle(dead, Requeued(), NOW)) == 0, "an operator's retry starts anew"


def test_the_newest_are_kept() -> None:
    current = AGAIN.replace(max_retries=99)
    for number in range(MAX_ATTEMPTS + 7):
        current = settle(claimed(current, NOW + number), Failed(f"error {number}"), NOW + number)
    assert [attempt.number for attempt in current.attempts] == list(range(8, MAX_ATTEMPTS + 8))
    assert current.attempts[-1].error == f"error {MAX_ATTEMPTS + 6}"
    assert len(attempts_of(claimed(current, NOW))) == MAX_ATTEMPTS + 1, "with the present run"


def test_a_failure_after_a_cancel_was_a_failure() -> None:
    after = settle(task(cancel_requested=True), Failed("boom"), NOW)
    assert after.status is X and [attempt.outcome for attempt in attempts_of(after)] == ["failed"]


def test_a_pop_that_was_not_settled_is_lost() -> None:
    after = settle(task(lease_owner="pop-1"), LeaseExpired(), NOW)
    assert attempts_of(after)[0].error == "not settled within its visibility timeout"


def test_completed_at_the_first_attempt_keeps_nothing_for_it() -> None:
    after = settle(task(), Completed({"r": 1}), NOW + 3)
    assert after.attempts == ()
    completed = Attempt(number=1, began_at=NOW - 2, ended_at=NOW + 3, outcome="completed", fence=4)
    assert attempts_of(after) == (completed,)
    assert run_time(after) == 5 / SECOND


def test_what_never_ran_has_no_attempt() -> None:
    for before, outcome in ((task(P), Cancelled()), (task(P), Expired()), (task(), Released("never started"))):
        after = settle(before, outcome, NOW)
        assert attempts_of(after) == () and run_time(after) is None


def test_a_task_of_another_program_has_only_seconds() -> None:
    made: dict[str, Any] = {"began_at": None, "ended_at": None, "started_at": NOW_S - 2, "completed_at": NOW_S}
    (attempt,) = attempts_of(task(C, **made))
    assert (attempt.began_at, attempt.ended_at, attempt.seconds) == ((NOW_S - 2) * SECOND, NOW_S * SECOND, 2.0)
    (attempt,) = attempts_of(task(C, **{**made, "started_at": None, "completed_at": None}))
    assert (attempt.began_at, attempt.ended_at, attempt.seconds) == (None, None, None)


def test_an_error_is_kept_without_its_traceback_and_clipped() -> None:
    try:
        raise ValueError("é" * MAX_ERROR + "\x00")
    except ValueError as error:
        described = describe(error)
    after = settle(task(), Failed(described), NOW)
    kept = after.attempts[0].error or ""
    assert kept.startswith("ValueError: éé") and "Traceback" not in kept and "Traceback" in (after.error_message or "")
    assert 1000 <= len(kept.encode()) <= MAX_ERROR and kept.endswith("(truncated)")
    assert "ValueError" not in repr(after) and "error=…" in repr(after)


def test_attempts_that_cannot_be_read_are_left_as_they_are() -> None:
    after = settle(task(undecodable="attempts cannot be read"), Failed("undecodable", retryable=False), NOW)
    assert after.status is F and after.attempts == ()


def test_an_attempt_is_plain_json() -> None:
    after = settle(task(), Failed("boom"), NOW)
    stored = msgspec.json.decode(msgspec.json.encode(after.attempts))
    where = {"worker": "worker-1", "fence": 4}
    assert stored == [
        {"number": 1, "began_at": NOW - 2, "ended_at": NOW, "outcome": "failed", "error": "boom", **where},
    ]


WORKER = "worker-db1.example-42-0123456789ab-0123456789ab"
RAN = [each for each in ENDS if not isinstance(each, (Completed, HandedBack)) and each != Released("never started")]


@pytest.mark.parametrize("outcome", RAN, ids=lambda value: type(value).__name__)
def test_an_attempt_says_where_it_ran(outcome: Outcome) -> None:
    running = task(lease_owner=f"{WORKER}{ALONE}", crashes=2)
    (attempt,) = settle(running, outcome, NOW, "2.4.1").attempts
    assert (attempt.worker, attempt.host, attempt.version, attempt.fence) == (WORKER, "db1.example", "2.4.1", 4)
    (present,) = attempts_of(running)
    assert (present.worker, present.host, present.version, present.fence) == (WORKER, "db1.example", None, 4)
    assert Attempt(number=1).host is Attempt(number=1, worker="adopted").host is None
