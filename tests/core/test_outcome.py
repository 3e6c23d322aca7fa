"""The transitions of a task: the complete table, and the fields that each transition writes."""

from __future__ import annotations

import itertools
import typing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiotaskq.core import outcome as outcome_module
from aiotaskq.core.gate import Bounds, Flow, budget_gate
from aiotaskq.core.outcome import (
    DEAD_AFTER,
    MAX_CRASHES,
    POP_OWNER,
    Backoff,
    Cancelled,
    Completed,
    Expired,
    Failed,
    HandedBack,
    IllegalTransition,
    LeaseExpired,
    Life,
    Outcome,
    Released,
    Requeued,
    Rerun,
    TimedOut,
    is_dead,
    is_poison,
    marked,
    outcome_of_lost,
    owner_of,
    settle,
    uncounted,
    unmarked,
)
from aiotaskq.core.status import FINAL, Status
from aiotaskq.core.task import SECOND, Attempt, Task
from tests.core.outcomes import NOW, NOW_S, C, E, F, P, R, X, backoffs, chances, task
from tests.support.rows import worker_info

NEW = Task(
    task_id="1",
    type="other",
    params={"b": 2},
    priority=3,
    retry_count=1,
    max_retries=7,
    queue="q",
    seq=99,
    timeout=4.0,
    scheduler_task_id="s",
    created_at=NOW_S,
)


SAMPLES: dict[type, Outcome] = {
    Completed: Completed({"r": 1}),
    Failed: Failed("boom"),
    TimedOut: TimedOut(2.5),
    Released: Released("stopped"),
    Cancelled: Cancelled(),
    LeaseExpired: LeaseExpired(),
    Expired: Expired(),
    Requeued: Requeued(),
    HandedBack: HandedBack(NEW),
    Rerun: Rerun(NEW),
}


# The table of the design: (from, trigger) to what it may become. What is not in here is refused.
TABLE: dict[tuple[Status, type], set[Status]] = {
    (R, Completed): {C},
    (R, Failed): {P, F, X},  # X: its cancel was requested
    (R, TimedOut): {P, F, X},
    (R, Released): {P, X},
    (R, LeaseExpired): {P, F, X},
    (R, Cancelled): {X},
    (R, HandedBack): {P},
    (P, Cancelled): {X},
    (P, Expired): {E},
    (F, Requeued): {P},
    (X, Requeued): {P},
    (E, Requeued): {P},
    (C, Rerun): {P},
    (F, Rerun): {P},
    (X, Rerun): {P},
    (E, Rerun): {P},
}


def test_every_outcome_is_sampled() -> None:
    assert set(SAMPLES) == set(typing.get_args(Outcome))
    assert set(outcome_module._ALLOWED) == set(SAMPLES)


@pytest.mark.parametrize("kind", SAMPLES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("status", Status)
def test_the_table_of_transitions_and_no_other(status: Status, kind: type) -> None:
    reached = set()
    for retries, flag, crashes, owner, retryable in itertools.product(
        (0, 2, 3), (False, True), (0, 2), ("worker-1", "worker-1!alone", "pop-1"), (True, False)
    ):
        before = task(status, retry_count=retries, max_retries=3, cancel_requested=flag, crashes=crashes)
        if status is R:
            before = before.replace(lease_owner=owner)
        sample = Failed("boom", retryable=retryable) if kind is Failed else SAMPLES[kind]
        if (status, kind) in TABLE:
            reached.add(settle(before, sample, NOW).status)
        else:
            with pytest.raises(IllegalTransition, match=rf"^task 1 is {status}: {kind.__name__} is not possible$"):
                settle(before, sample, NOW)
    assert reached == TABLE.get((status, kind), set())


# ---- properties of every transition ---------------------------------------------------------------------------------


outcomes: st.SearchStrategy[Outcome] = st.one_of(
    st.builds(Completed, st.integers()),
    st.builds(Failed, st.text(max_size=20), retryable=st.booleans(), backoff=backoffs, chance=chances),
    st.builds(TimedOut, st.floats(0.001, 1e6), backoff=backoffs, chance=chances),
    st.builds(Released, st.just("r"), delay=st.integers(0, 10**12)),
    st.builds(Cancelled),
    st.builds(LeaseExpired),
    st.builds(Expired),
    st.builds(Requeued),
    st.just(HandedBack(NEW)),
    st.just(Rerun(NEW)),
)


tasks = st.builds(
    task,
    st.sampled_from(Status),
    retry_count=st.integers(0, 2**31 - 1) | st.integers(0, 4),
    max_retries=st.integers(0, 4) | st.just(2**31 - 1),
    crashes=st.integers(0, 4),
    fence=st.integers(0, 10**6),
    cancel_requested=st.booleans(),
    run_at=st.integers(0, 2 * NOW),
    unique_key=st.none() | st.just("u"),
    idempotency_key=st.none() | st.just("i"),
)


@settings(max_examples=600, deadline=None)
@given(before=tasks, outcome=outcomes, owner=st.sampled_from(["worker-1", "worker-1!alone", "pop-1", None]))
def test_what_holds_for_every_transition(before: Task, outcome: Outcome, owner: str | None) -> None:
    if before.status is R:
        before = before.replace(lease_owner=owner)
    copy = before.replace()
    try:
        after = settle(before, outcome, NOW)
    except IllegalTransition:
        assert (before.status, type(outcome)) not in TABLE
        return
    finally:
        assert before == copy  # frozen, and so are its parts
    assert after.status in TABLE[before.status, type(outcome)]
    assert after.status is not R  # only a claim makes it run
    # The fence is the backend's and rises with a claim; otherwise only if other work takes the id.
    assert after.fence == before.fence + isinstance(outcome, Rerun)
    # Who it is does not change, whatever becomes of it; what it is about, only by another push of its id.
    for field in ("task_id", "unique_key", "idempotency_key"):
        assert getattr(after, field) == getattr(before, field)
    pushed = NEW if isinstance(outcome, HandedBack | Rerun) else before
    for field in ("scheduler_task_id", "timeout", "params", "type"):
        assert getattr(after, field) == getattr(pushed, field)
    assert after.created_at == (NEW if isinstance(outcome, Rerun) else before).created_at
    # A task that does not run has no lease.
    assert (after.lease_owner, after.lease_until) == (None, None)
    if after.final:
        assert (after.completed_at, after.ended_at) == (NOW_S, NOW)
        assert after.run_at == before.run_at
    else:
        assert not after.cancel_requested
        assert after.completed_at is after.ended_at is None
    # Only what the handler did counts as a try; only a lost lease counts as a crash.
    retries = after.retry_count - before.retry_count
    crashes = after.crashes - before.crashes
    if isinstance(outcome, Failed | TimedOut):
        assert (retries, crashes) == (int(after.status is P), 0)
    elif isinstance(outcome, LeaseExpired):
        popped = (owner or "").startswith(POP_OWNER)
        if after.status is X:
            assert (retries, crashes) == (0, 0)
        elif popped:
            assert (retries, crashes) == (int(after.status is P), 0)
        elif before.crashes >= MAX_CRASHES - 1 and after.status is P:
            assert (retries, after.crashes) == (0, MAX_CRASHES - 1) and owner != "worker-1!alone"
        else:
            assert (retries, crashes) == (0, 1)
            assert (after.status is F) == (after.crashes >= MAX_CRASHES)
    elif isinstance(outcome, Requeued):
        assert (after.retry_count, after.crashes) == (0, 0)
    elif isinstance(outcome, Rerun):
        assert (after.retry_count, after.crashes) == (NEW.retry_count, 0)
    elif not isinstance(outcome, HandedBack):
        assert (retries, crashes) == (0, 0)
    # A cancel that was asked for is never lost with a task that goes on by itself.
    if before.cancel_requested and before.status is R and not isinstance(outcome, HandedBack):
        assert after.final


@given(before=tasks, outcome=outcomes)
def test_a_final_status_changes_only_by_an_operators_retry_or_a_push_of_its_id(before: Task, outcome: Outcome) -> None:
    if before.final and not (isinstance(outcome, Rerun) or (isinstance(outcome, Requeued) and before.status is not C)):
        with pytest.raises(IllegalTransition):
            settle(before, outcome, NOW)


# ---- one by one -----------------------------------------------------------------------------------------------------


def test_completed() -> None:
    after = settle(task(error_message="an earlier try"), Completed({"r": 1}), NOW + 999_999)
    assert (after.status, after.result) == (C, {"r": 1})
    assert (after.completed_at, after.ended_at) == (NOW_S, NOW + 999_999)
    late = settle(task(lease_until=NOW - 5 * SECOND), Completed(1), NOW)
    assert late.status is C  # the lease is over, but no worker has claimed the task again


def test_failed_until_the_retries_are_used_up() -> None:
    current = task(max_retries=2)
    for attempt in range(2):
        current = settle(current, Failed(f"try {attempt}", backoff=Backoff(jitter=False)), NOW)
        assert (current.status, current.retry_count, current.error_message) == (P, attempt + 1, f"try {attempt}")
        assert current.run_at == NOW + 2**attempt * SECOND
        current = current.replace(status=R)
    current = settle(current, Failed("the last"), NOW)
    assert (current.status, current.retry_count, current.error_message) == (F, 2, "the last")


def test_not_retryable_fails_at_once() -> None:
    after = settle(task(max_retries=9), Failed("no", retryable=False), NOW)
    assert (after.status, after.retry_count) == (F, 0)


def test_timed_out() -> None:
    after = settle(task(), TimedOut(2.5, backoff=Backoff(jitter=False)), NOW)
    assert (after.status, after.error_message, after.run_at) == (P, "TimeoutError: timed out after 2.5 s", NOW + SECOND)
    assert settle(task(max_retries=0), TimedOut(1), NOW).status is F


def test_given_back_unharmed() -> None:  # D7
    before = task(retry_count=1, crashes=1, error_message="earlier", run_at=NOW - 5)
    assert settle(before, Released("stopped"), NOW) == before.replace(status=P, lease_owner=None, lease_until=None)
    assert settle(before, Released("snoozed", 7), NOW).run_at == NOW + 7
    assert settle(before.replace(run_at=NOW + 9), Released("snoozed", 7), NOW).run_at == NOW + 9
    put_off = settle(before, Released("unknown type", 7, put_off=True), NOW)
    assert (put_off.run_at, put_off.due_at) == (NOW + 7, before.run_at)
    again = settle(put_off.replace(status=R), Released("unknown type", 9, put_off=True), NOW)
    assert (again.run_at, again.due_at) == (NOW + 9, before.run_at), "still due when it was first"
    for outcome in (Released("stopped"), Failed("x")):
        assert settle(again.replace(status=R), outcome, NOW).due_at is None


@pytest.mark.parametrize("outcome", [Released("stopped"), Released("stopped", ran=True), LeaseExpired()])
def test_a_run_that_ends_after_the_clock_was_set_back_is_due_at_once(outcome: Outcome) -> None:
    before = task(run_at=NOW + 3_600 * SECOND, flow=Flow(gates=(("g", Bounds(1)),)))
    assert settle(before, outcome, NOW).run_at == NOW, "and it keeps its slot"
    assert settle(before, Released("snoozed", 7), NOW).due_us == NOW + 7


def test_given_back_after_a_cancel_is_cancelled() -> None:  # D6
    after = settle(task(cancel_requested=True), Released("its worker was stopped"), NOW)
    assert (after.status, after.error_message) == (X, "cancelled; its worker was stopped")


@pytest.mark.parametrize("outcome", [Failed("boom"), TimedOut(1), LeaseExpired()], ids=lambda o: type(o).__name__)
def test_after_a_cancel_nothing_is_tried_again(outcome: Outcome) -> None:  # D6
    assert settle(task(cancel_requested=True, max_retries=9), outcome, NOW).status is X


def test_poison_after_three_crashes() -> None:  # A4, A10
    current = task(max_retries=9)
    place = current.run_at  # it has waited long enough
    for crash in range(1, MAX_CRASHES):
        current = settle(current, LeaseExpired(), NOW)
        assert (current.status, current.crashes, current.retry_count, current.run_at) == (P, crash, 0, place)
        current = current.replace(status=R, lease_owner="worker-2")
    beside = settle(current, LeaseExpired(), NOW)
    assert (beside.status, beside.crashes, beside.run_at) == (P, MAX_CRASHES - 1, place), (
        "beside others, or not started"
    )
    current = settle(marked(current), LeaseExpired(), NOW)
    error = "poison: its worker died 3 times, the last time while it ran alone"
    assert (current.status, current.crashes, current.error_message) == (F, 3, error)
    assert is_poison(current) and not is_poison(beside) and not is_poison(settle(current, Requeued(), NOW))


def test_the_mark_of_a_task_that_runs_alone() -> None:
    before = task(lease_owner="worker-1")
    alone = marked(before)
    assert (alone.lease_owner, owner_of(alone), owner_of(before)) == ("worker-1!alone", "worker-1", "worker-1")
    assert marked(alone) == alone and unmarked(alone) == unmarked(before) == before


@pytest.mark.parametrize("late", [0, 1, DEAD_AFTER * 10 - 1, DEAD_AFTER * 10, DEAD_AFTER * 10 + 1])
@pytest.mark.parametrize("life", Life)
def test_a_process_that_lives_did_not_die(life: Life, late: int) -> None:
    assert is_dead(life, late, 10) is (life is not Life.LIVES or late >= DEAD_AFTER * 10)
    outcome = outcome_of_lost(life, worker_info(seen_at=NOW - 7))
    if life is Life.UNKNOWN:
        assert outcome == LeaseExpired(NOW - 7) and outcome_of_lost(life) == LeaseExpired()
    else:
        assert isinstance(outcome, Released)
        assert settle(task(crashes=1), outcome, NOW).crashes == 1


@given(crashes=st.integers(0, 3), counted=st.integers(0, 3), status=st.sampled_from(Status), again=st.booleans())
def test_the_count_is_taken_back_once(crashes: int, counted: int, status: Status, again: bool) -> None:
    lost = task(crashes=crashes)
    row = lost.replace(status=status, crashes=crashes + counted, fence=lost.fence + again)
    after = uncounted(row, lost)
    if status in FINAL or (status is R and not again) or not counted:
        assert after is None
    else:
        assert after == row.replace(crashes=crashes + counted - 1)


def test_for_a_manual_consumer_an_overdue_lease_is_a_retry() -> None:
    before = task(lease_owner="pop-host-1", max_retries=1, crashes=2)
    after = settle(before, LeaseExpired(), NOW)
    assert (after.status, after.retry_count, after.crashes, after.run_at) == (P, 1, 2, NOW)
    last = settle(after.replace(status=R, lease_owner="pop-host-1"), LeaseExpired(), NOW)
    assert (last.status, last.error_message) == (F, "not settled within its visibility timeout")


def test_cancelled() -> None:
    assert settle(task(P), Cancelled(), NOW).error_message == "cancelled"
    assert settle(task(R), Cancelled("by the user"), NOW).error_message == "by the user"


def test_expired() -> None:
    assert settle(task(P, expires_at=NOW), Expired(), NOW).error_message == "expired before it was claimed"


@pytest.mark.parametrize(
    "outcome",
    [Failed("x"), TimedOut(1.0), Released("snoozed", 60 * SECOND, ran=True), LeaseExpired()],
)
def test_what_has_started_does_not_expire_any_more(outcome: Outcome) -> None:
    before = task(R, expires_at=NOW + 1, max_retries=3)
    after = settle(before, outcome, NOW)
    assert (after.status, after.expires_at) == (P, None)
    assert settle(before, Released("it never started"), NOW).expires_at == NOW + 1


@pytest.mark.parametrize("status", [C, F, X, E])
def test_run_again_as_the_new_push_says_under_the_old_keys(status: Status) -> None:
    before = task(
        status,
        result=1,
        started_at=5,
        expires_at=NOW - 1,
        timeout=2.0,
        on_success="x",
        created_at=3,
        unique_key="u",
        idempotency_key="i",
        cancel_requested=True,
        extra={"old": 1},
        attempts=(Attempt(number=1),),
        seq=1,
    )
    new = NEW.replace(run_at=NOW + 7, expires_at=NOW + 9, created_at=NOW_S, extra={"own": 1}, on_failure="mail")
    assert settle(before, Rerun(new), NOW) == new.replace(fence=5, unique_key="u", idempotency_key="i")


@pytest.mark.parametrize("status", [F, X, E])
def test_requeued(status: Status) -> None:
    runs = (Attempt(number=1),)
    changed: dict[str, Any] = {"started_at": 5, "expires_at": NOW - 1, "cancel_requested": True}
    before = task(status, result=1, unique_key="u", attempts=runs, **changed)
    after = settle(before, Requeued(), NOW)
    assert after == Task(
        task_id="1", type="t", params={"a": 1}, status=P, run_at=NOW, fence=4, unique_key="u", attempts=runs
    )  # the fence goes on rising


def test_content_of_another_push_replaces_what_could_not_be_decoded() -> None:
    lost = task(undecodable="params: coded, and no codec is set", coded={"params": "$aiotaskq1$", "attempts": "$"})
    after = settle(lost, HandedBack(NEW), NOW)
    assert (after.params, after.coded, after.undecodable) == (NEW.params, None, None)


def test_handed_back() -> None:
    before = task(unique_key="u", retry_count=0, extra={"x": 1})
    after = settle(before, HandedBack(NEW), NOW)
    assert after == before.replace(
        status=P,
        type="other",
        params={"b": 2},
        priority=3,
        retry_count=1,
        max_retries=7,
        queue="q",
        seq=99,
        timeout=4.0,
        scheduler_task_id="s",
        attempts=after.attempts,
        run_at=NOW,
        extra={},
        lease_owner=None,
        lease_until=None,
    )


@pytest.mark.parametrize("gates", [(), (("new", Bounds(cap=2)),)])
def test_a_member_that_is_pushed_again_while_it_runs_keeps_its_group_and_budget(
    gates: tuple[tuple[str, Bounds], ...],
) -> None:
    budget, old = (budget_gate("g"), Bounds()), ("old", Bounds(cap=1))
    running = task(R, flow=Flow(gates=(budget, old), group="g"), gate="old")
    after = settle(running, HandedBack(NEW.replace(flow=Flow(gates=gates) if gates else None)), NOW)
    assert after.flow is not None
    assert (after.flow.group, after.flow.gates) == ("g", (budget, *gates))
    assert (after.gate, after.parked) == (budget[0], True)
