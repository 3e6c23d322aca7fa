"""Task dicts and ids that a queue accepts or refuses before anything is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aiotaskq import DatabaseQueue, MemoryQueue, Status
from aiotaskq.errors import NoOpenTask, TaskConflict, ValidationError
from tests.support.kinds import Level


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("x", "task: a dict is needed (got str)"),
        ({}, "type: missing"),
        ({"type": ""}, "type: must not be empty"),
        ({"type": 3}, "type: a string is needed (got int)"),
        ({"type": "a\x00b"}, "type: NUL"),
        ({"type": "t", "params": [1]}, "params: a dict is needed (got list)"),
        ({"type": "t", "priority": 1.5}, "priority: an int is needed (got float"),
        ({"type": "t", "priority": True}, "priority: an int is needed (got bool"),
        ({"type": "t", "timeout": -1}, "timeout: must be more than 0 seconds"),
        ({"type": "t", "timeout": float("nan")}, "timeout: nan is not a number of seconds"),
        ({"type": "t", "max_retries": -1}, "max_retries: -1 is not in 0.."),
        ({"type": "t", 5: 1}, "task: key 5 is int"),
    ],
)
async def test_bad_task_dicts_are_refused_before_anything_is_written(
    queue: MemoryQueue, task: Any, message: str
) -> None:  # I9
    with pytest.raises(ValidationError) as caught:
        await queue.push_task(task)
    assert str(caught.value).startswith(message)
    assert isinstance(caught.value, ValueError)
    assert await queue.is_empty()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"items": [1, 2, 3, {1}]}, "params.items[3]: set is not JSON"),
        ({"x": float("nan")}, "params.x: nan is not JSON"),
        ({"x": "a\x00"}, "params.x: NUL"),
        ({"x": "\ud800"}, "params.x: a lone surrogate"),
        ({"x": 2**63}, "params.x: an int over 64 bits"),
        ({"x": -(2**63) - 1}, "params.x: an int over 64 bits"),
        ({"x": "y" * 300_000}, "params: 300,008 bytes of JSON are more than 262,144"),
        ({3: 1}, "params: key 3 is int"),
        ({"x": b"raw"}, "params.x: bytes is not JSON; encode it as text"),
    ],
)
async def test_durable_queues_take_json_only(tmp_path: Path, params: Any, message: str) -> None:  # I1, I2, I3
    queue = DatabaseQueue(f"sqlite:///{tmp_path}/j.db")
    with pytest.raises(ValidationError) as caught:
        await queue.push_task({"type": "t", "params": params})
    assert str(caught.value).startswith(message)
    assert await queue.is_empty()
    await queue.close()


async def test_an_enum_is_a_priority(tmp_path: Path) -> None:
    for queue in (MemoryQueue(), DatabaseQueue(f"sqlite:///{tmp_path}/e.db")):
        await queue.push_task({"type": "later"}, Level.HIGH)
        await queue.push_task({"type": "first", "priority": Level.LOW, "max_retries": Level.LOW})
        for name, level in (("first", 1), ("later", 2)):
            task = await queue.pop_task(0)
            assert task is not None and (task["type"], task["priority"]) == (name, level)
            assert type(task["priority"]) is int
        await queue.close()


@pytest.mark.parametrize(
    ("task_id", "message"),
    [
        ("x" * 37, "task_id: 37 characters are more than 36"),
        ("", "task_id: must not be empty"),
        (5, "task_id: a string is needed (got int)"),
    ],
)
async def test_ids_on_a_durable_queue_are_short_text(tmp_path: Path, task_id: Any, message: str) -> None:
    queue = DatabaseQueue(f"sqlite:///{tmp_path}/i.db")
    with pytest.raises(ValidationError) as caught:
        await queue.push_task({"type": "t", "task_id": task_id})
    assert str(caught.value).startswith(message)
    assert await queue.is_empty()
    await queue.close()


IDS: list[Any] = ["x" * 1_000, "", "a\x00b", 5, ("job", 1), b"raw", frozenset({1})]


async def test_in_memory_an_id_is_any_hashable_value() -> None:
    """As the dict of the old queue took them: pushed, popped, retried, settled by name and pushed again."""
    queue = MemoryQueue()
    for task_id in IDS:
        assert await queue.push_task({"type": "t", "task_id": task_id}) == task_id
        assert await queue.push_task({"type": "t", "task_id": task_id}) == task_id
        with pytest.raises(TaskConflict, match="is pending with other content"):
            await queue.push_task({"type": "u", "task_id": task_id})
    for task_id in IDS:
        task = await queue.pop_task(0)
        assert task is not None and task["task_id"] == task_id
        task["retry_count"] += 1
        assert await queue.push_task(task, priority=1) == task_id
        await queue.task_done()
    for task_id in IDS:
        task = await queue.pop_task(0)
        assert task is not None and (task["task_id"], task["retry_count"]) == (task_id, 1)
        await queue.task_done(task_id)
        assert (await queue.get(task_id)).status is Status.COMPLETED
        assert await queue.push_task({"type": "t", "task_id": task_id}) == task_id
        assert await queue.cancel(task_id)
    with pytest.raises(NoOpenTask, match=r"\('job', 1\) was not popped here"):
        await queue.task_done(IDS[4])
    assert len(await queue.find()) == len(IDS)
    with pytest.raises(ValidationError, match=r"^task_id: list is not hashable, so it cannot be a key$"):
        await queue.push_task({"type": "t", "task_id": ["x"]})


async def test_memory_keeps_python_values_as_they_are() -> None:
    queue = MemoryQueue()
    value = object()
    await queue.push_task({"type": "t", "params": {"o": value, "s": {1}}})
    task = await queue.pop_task(0)
    assert task is not None and task["params"]["o"] is value
