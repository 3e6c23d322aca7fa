"""The buffer of claimed tasks."""

from __future__ import annotations

import pytest

from aiotaskq.core.task import Task
from aiotaskq.runtime.worker.prefetch import Buffer


def names(tasks: object) -> str:
    return "".join(task.task_id for task in tasks)  # type: ignore[attr-defined]


@pytest.fixture
def buffer() -> Buffer:
    return Buffer(Task(task_id=name, type="t") for name in "abcde")


def test_tasks_leave_in_the_order_in_which_they_came(buffer: Buffer) -> None:
    assert [buffer.popleft().task_id for _ in range(5)] == list("abcde")
    assert not buffer


def test_some_tasks_are_taken_out_and_the_others_keep_their_order(buffer: Buffer) -> None:
    assert names(buffer.take(lambda task: task.task_id in "bd")) == "bd"
    assert names(buffer) == "ace"
    assert buffer.take(lambda task: False) == []
    assert names(buffer.take()) == "ace"
    assert not buffer


def test_the_last_tasks_are_taken_out(buffer: Buffer) -> None:
    assert names(buffer.take_last(2)) == "cde"
    assert (names(buffer), buffer.take_last(2), buffer.take_last(7)) == ("ab", [], [])
    assert names(buffer.take_last(0)) == "ab"


def test_an_empty_buffer_does_not_wait(buffer: Buffer) -> None:
    buffer.moved = 100
    assert buffer.waited(350) == 250
    buffer.clear()
    assert buffer.waited(350) == 0
