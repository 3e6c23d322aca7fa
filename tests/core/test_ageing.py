"""The rule of ``age``: which tasks have waited for long, and what they become."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aiotaskq.core.errors import INT32
from aiotaskq.core.gate import PARKED
from aiotaskq.core.status import Status
from aiotaskq.core.task import HIGHEST, SECOND, aged, new_task, not_aged, same_content


@given(st.integers(-INT32, INT32), st.integers(0, 10**7), st.integers(-(10**7), 10**7), st.booleans())
def test_a_task_that_has_waited_for_its_age_has_the_highest_priority(
    priority: int, age: int, waited: int, put_off: bool
) -> None:
    now, extra = 5_000 * SECOND, {"mine": 1}
    task = new_task("work", now=now, run_at=now - waited, priority=priority, extra=extra)
    if put_off:
        task = task.replace(run_at=now + SECOND, due_at=now - waited)
    after = aged(task, age, now)
    if waited < age or priority == HIGHEST:
        assert after is None
        return
    assert after is not None
    assert after == task.replace(priority=HIGHEST, extra={**extra, "aged_from": priority})
    assert after.aged_from == priority and aged(after, age, now) is None
    assert not_aged(after) == task and not_aged(task) is task
    assert same_content(after, task) and not same_content(after, after.replace(priority=7, extra=extra))


def test_only_tasks_that_wait_age() -> None:
    task = new_task("work", now=0, run_at=0)
    assert aged(task, None, SECOND) is None
    assert aged(task.replace(status=Status.RUNNING), 0, SECOND) is None
    assert aged(task.replace(undecodable="no key"), 0, SECOND) is None
    assert aged(task.replace(run_at=PARKED), 0, SECOND) is None, "it waits at a limit"
    assert aged(task.replace(run_at=PARKED, due_at=0, waits=1), 0, SECOND) is None, "it waits for another task"
    foreign = task.replace(extra={"aged_from": "of the application"})
    assert not_aged(foreign) is foreign and foreign.aged_from is None
