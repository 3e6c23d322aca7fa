"""The bound of a push: which tasks of a call are new, and how many are too many."""

from __future__ import annotations

import pytest

from aiotaskq.backends.base import Change, Room
from aiotaskq.errors import QueueFull
from tests.support.rows import NOW, new


def test_what_conflicts_with_a_row_or_a_task_before_it_is_not_new() -> None:
    first, again, other = new(unique_key="u"), new(unique_key="u"), new(idempotency_key="once")
    tasks = [first, again, other, new(idempotency_key="once"), first, new()]
    row = new(task_id=tasks[-1].task_id)
    assert Room(9, NOW).new_of(tasks, [None, None, None, None, None, row], 9) == [first, other]


def test_a_row_that_leaves_is_in_the_way_of_none() -> None:
    gone = new(unique_key="u")
    room = Room(1, NOW, (Change(gone, gone),))
    task = new(unique_key="u")
    assert room.leaving == {gone.task_id} and room.new_of([task], [gone], 1) == [task]
    assert Room(1, NOW).new_of([task], [gone], 0) == []


def test_new_tasks_beyond_what_is_left_are_refused_and_counted() -> None:
    tasks = [new(), new(), new()]
    with pytest.raises(QueueFull) as refused:
        Room(2, NOW).new_of(tasks, [None] * 3, 1)
    assert refused.value.excess == 2
    assert Room(2, NOW).new_of([], [], -1) == []
