"""Every field of a task and of a schedule comes back as it was stored, whatever JSON is in it."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from aiotaskq.backends.base import Backend, Change, Schedules
from aiotaskq.backends.values import Values
from aiotaskq.core.errors import INT32, INT64, check_json
from aiotaskq.core.firing_record import FiringRecord
from aiotaskq.core.gate import PARKED, Bounds, Flow
from aiotaskq.core.ids import new_id
from aiotaskq.core.schedule import Schedule
from aiotaskq.core.status import FINAL, Status
from aiotaskq.core.task import Attempt, Task
from aiotaskq.core.usage import MAX_NAME, MAX_SUM

ON_ONE_STORE = settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

# What every store can hold (I1, I3): no NUL, no lone surrogates. Emoji and combining marks among them (I10).
chars = st.characters(exclude_categories=["Cs"], exclude_characters="\x00")
text = st.text(chars, max_size=30) | st.sampled_from(
    ["", " ", "🙂👩‍👩‍👧", "a\u0308\u0323", "'; --", '"', "\\", "\u2028"]
)
ints = st.integers(-INT64 - 1, INT64) | st.sampled_from([-INT64 - 1, INT64, 0, 2**53 + 1])
floats = st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | ints | floats | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)
json_objects = st.dictionaries(text, json_values, max_size=4)


def name(limit: int) -> st.SearchStrategy[str]:
    return st.text(chars, min_size=1, max_size=limit)


int32 = st.integers(-INT32, INT32)
instants = st.integers(0, INT64)
maybe: Any = lambda strategy: st.none() | strategy  # noqa: E731

tasks = st.builds(
    Task,
    task_id=st.builds(new_id),
    type=name(100),
    params=json_objects,
    status=st.sampled_from(Status),
    priority=int32,
    retry_count=st.integers(0, INT32),
    max_retries=st.integers(0, INT32),
    created_at=instants,
    started_at=maybe(instants),
    completed_at=maybe(instants),
    began_at=maybe(instants),
    ended_at=maybe(instants),
    error_message=maybe(text),
    scheduler_task_id=maybe(name(36)),
    queue=name(100),
    run_at=st.integers(-INT64, PARKED),  # none is later than that of a parked task
    due_at=maybe(instants),
    seq=instants,
    expires_at=maybe(instants),
    timeout=maybe(st.floats(0, 1e9)),
    fence=instants,
    crashes=st.integers(0, INT32),
    lease_owner=maybe(name(100)),
    lease_until=maybe(instants),
    unique_key=maybe(name(200)),
    idempotency_key=maybe(name(200)),
    result=json_values,
    progress=maybe(json_objects),
    usage=maybe(st.dictionaries(name(MAX_NAME), st.integers(0, MAX_SUM) | st.floats(0, 1e9), min_size=1, max_size=3)),
    cancel_requested=st.booleans(),
    on_success=maybe(name(100)),
    on_failure=maybe(name(100)),
    extra=json_objects,
    attempts=st.lists(
        st.builds(
            Attempt,
            number=st.integers(1, INT32),
            began_at=maybe(instants),
            ended_at=maybe(instants),
            outcome=maybe(st.sampled_from(["failed", "lost"])),
            error=maybe(text),
        ),
        max_size=3,
    ).map(tuple),
)
bounds = st.builds(
    Bounds,
    cap=maybe(st.integers(0, INT32)),
    window=maybe(st.integers(0, INT32)),
    interval=maybe(st.integers(1, 2**40)),
    burst=st.integers(1, INT32),
    max_waiting=st.none(),  # nothing is refused here
)
flows = st.builds(
    Flow,
    gates=st.lists(st.tuples(name(255), bounds), min_size=1, max_size=3, unique_by=lambda pair: pair[0]).map(tuple),
    weight=st.integers(1, INT32),
    weights=st.lists(st.tuples(name(255), st.integers(1, INT32)), max_size=2).map(tuple),
)
gated_tasks = st.builds(lambda task, flow, gate: task.replace(flow=flow, gate=gate), tasks, flows, maybe(name(255)))
schedule_values = st.builds(
    Schedule,
    task_id=st.builds(new_id),
    name=name(255),
    task_type=name(100),
    params=json_objects,
    schedule_type=st.sampled_from(["interval", "cron", "once"]),
    interval_seconds=maybe(st.integers(1, INT32)),
    cron_expression=maybe(name(100)),
    execute_at=maybe(instants),
    last_run_at=maybe(instants),
    next_run_at=maybe(instants),
    run_count=st.integers(0, INT32),
    max_runs=st.integers(0, INT32),
    enabled=st.booleans(),
    created_at=instants,
    updated_at=instants,
    description=maybe(text),
    next_run_us=st.integers(0, 999_999),
    timezone=maybe(name(64)),
    misfire=st.sampled_from(["fire_once", "skip", "fire_all"]),
    overlap=st.sampled_from(["allow", "skip", "buffer_one"]),
    catch_up=maybe(instants),
    jitter=st.integers(0, INT32),
    calendar=maybe(name(64)),
    calendar_rule=st.sampled_from(["skip_holidays", "working_days"]),
    blackout=st.lists(st.sampled_from(["22:00-06:00", "2026-12-24", "2026-12-24/2027-01-02"]), max_size=2).map(tuple),
    blackout_policy=st.sampled_from(["skip", "delay"]),
    priority=int32,
    queue=name(100),
    max_retries=st.integers(0, INT32),
    timeout=maybe(st.floats(0, 1e9)),
    tags=st.dictionaries(st.sampled_from(["order", "tenant"]), name(100), max_size=2),
    declared=st.booleans(),
    version=instants,
    outbox=st.lists(tasks, max_size=2).map(tuple),
    history=st.lists(
        st.builds(
            FiringRecord,
            at=instants,
            outcome=st.sampled_from(["fired", "skipped", "paused"]),
            due=maybe(instants),
            reason=maybe(st.sampled_from(["misfire", "holiday"])),
            count=st.integers(1, INT32),
            until=maybe(instants),
            start=maybe(instants),
            task_id=maybe(st.builds(new_id)),
        ),
        max_size=3,
    ).map(tuple),
)


def test_the_strategies_know_every_field() -> None:
    """A field that is added must be drawn here as well."""
    drawn = set(tasks.wrapped_strategy.kwargs)  # type: ignore[attr-defined]
    assert set(Task.__struct_fields__) - drawn == {"coded", "undecodable", "flow", "gate", "waits"}
    assert drawn < set(Task.__struct_fields__)
    assert set(Schedule.__struct_fields__) == set(schedule_values.wrapped_strategy.kwargs)  # type: ignore[attr-defined]


def apart(task: Task) -> Task:
    """The task with keys that no other example has."""
    keys = {key: value and f"{uuid.uuid4()}{value}" for key, value in _keys(task).items()}
    return task.replace(**keys)


def _keys(task: Task) -> dict[str, str | None]:
    return {"unique_key": task.unique_key, "idempotency_key": task.idempotency_key}


def exactly(a: Any, b: Any) -> bool:
    """Equal, also in type: True is not 1, and 1.0 is not 1."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(exactly(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(exactly, a, b))
    return bool(a == b)


@ON_ONE_STORE
@given(drawn=st.lists(tasks, min_size=1, max_size=5))
async def test_tasks(backend: Backend, drawn: list[Task]) -> None:  # I3, I10, F17
    pushed = [apart(task) for task in drawn]
    stored = await backend.push(pushed)
    assert all(a is b for a, b in zip(stored, pushed, strict=True))
    rows = await backend.get([task.task_id for task in pushed])
    assert rows == pushed
    for row, task in zip(rows, pushed, strict=True):
        assert row is not None
        for field in ("params", "extra", "result", "progress", "timeout", "cancel_requested", "priority"):
            assert exactly(getattr(row, field), getattr(task, field)), field


@ON_ONE_STORE
@given(before=tasks, after=tasks)
async def test_every_field_that_update_writes(backend: Backend, before: Task, after: Task) -> None:
    before = apart(before.replace(status=Status.RUNNING, cancel_requested=False))
    kept = (
        *("task_id", "created_at", "scheduler_task_id", "timeout", "fence", "unique_key", "idempotency_key"),
        *("progress", "usage", "on_success", "on_failure"),
    )
    after = after.replace(**{field: getattr(before, field) for field in kept})
    await backend.push([before])
    assert await backend.update([Change(before, after)]) == [True]
    assert await backend.get([before.task_id]) == [after]


@ON_ONE_STORE
@given(before=gated_tasks, after=gated_tasks)
async def test_gates_of_a_task(backend: Backend, before: Task, after: Task) -> None:
    pushed = apart(before)
    await backend.push([pushed])
    assert await backend.get([pushed.task_id]) == [pushed]
    before = apart(before.replace(task_id=new_id(), status=Status.RUNNING, cancel_requested=False))
    await backend.push([before])
    after = before.replace(status=after.status, run_at=after.run_at, due_at=after.due_at, gate=after.gate)
    assert await backend.update([Change(before, after)]) == [True]
    assert await backend.get([before.task_id]) == [after]


@ON_ONE_STORE
@given(value=json_values, key=name(255))
@example(value={"": {"": [[], {}, None, -0.0, 5e-324, 1.7976931348623157e308]}}, key="k")
async def test_values(values: Values, value: Any, key: str) -> None:  # I3
    check_json("value", value)  # what is let through comes back equal
    await values.put([(key, value, None)])
    ((found,),) = await values.get([key], 0)  # type: ignore[misc]
    assert exactly(found, value)


@ON_ONE_STORE
@given(drawn=st.lists(schedule_values, min_size=1, max_size=4))
async def test_schedules(schedules: Schedules, drawn: list[Schedule]) -> None:
    assert await schedules.add(drawn) == drawn
    assert await schedules.get([schedule.task_id for schedule in drawn]) == drawn


@pytest.mark.parametrize("status", sorted(FINAL))
async def test_the_largest_texts(backend: Backend, status: Status) -> None:  # F16, I2
    params = {"text": "🙂" * 60_000}  # the limit is 256 KB of JSON
    check_json("params", params)
    error = "é" * (8 * 1024)  # and 16 KB of error text
    task = Task(task_id=new_id(), type="t", params=params, fence=1, status=Status.RUNNING)
    await backend.push([task])
    after = task.replace(status=status, error_message=error, result=params)
    assert await backend.update([Change(task, after)]) == [True]
    assert await backend.get([task.task_id]) == [after]
