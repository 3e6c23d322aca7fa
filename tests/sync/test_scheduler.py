"""The blocking scheduler: its verbs before a start and after a stop, and what cannot be an id."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import aiotaskq
from aiotaskq.errors import NotFound, ValidationError
from aiotaskq.sync import DatabaseQueue, MemoryQueue, Scheduler
from tests.support.machine import watchdog


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[Scheduler]:
    made = Scheduler(url=f"sqlite:///{tmp_path}/s.db", queue=MemoryQueue())
    yield made
    made.stop()


def verbs(scheduler: Scheduler) -> None:
    task_id = scheduler.add_scheduler_task("n", "t", "interval", interval_seconds=3600)
    scheduler.pause_task(task_id)
    assert [row["task_id"] for row in scheduler.list_tasks(enabled_only=True)] == []
    scheduler.resume_task(task_id)
    scheduler.update_task(task_id, name="changed")
    assert scheduler.get_task(task_id)["name"] == "changed"
    scheduler.run_now(task_id)
    assert [row["run_count"] for row in scheduler.list_tasks()] == [1]
    assert scheduler.delete_task(task_id) is True and scheduler.delete_task(task_id) is False


def test_the_verbs_before_a_start_and_after_each_stop(scheduler: Scheduler) -> None:
    verbs(scheduler)
    for _ in range(2):
        scheduler.start()
        verbs(scheduler)
        scheduler.stop()
        assert not scheduler.running
        verbs(scheduler)
        assert not scheduler.running, "only a start makes it fire"


@pytest.mark.parametrize("verb", ["add_scheduler_task", "get_task", "list_tasks", "delete_task"])
def test_each_verb_alone_connects_after_a_stop(scheduler: Scheduler, verb: str) -> None:
    task_id = scheduler.add_scheduler_task("n", "t", "interval", interval_seconds=3600)
    scheduler.stop()
    arguments: dict[str, tuple[Any, ...]] = {"add_scheduler_task": ("m", "t", "interval", {}, 60), "list_tasks": ()}
    assert getattr(scheduler, verb)(*arguments.get(verb, (task_id,)))


def test_it_fires_again_after_a_stop_into_a_durable_queue(tmp_path: Path) -> None:
    queue = DatabaseQueue(f"sqlite:///{tmp_path}/q.db")
    scheduler = Scheduler(1, url=queue._reach().url, queue=queue)
    for _ in range(2):
        scheduler.start()
        scheduler.add_scheduler_task("n", "t", "once", execute_at=1)
        assert queue.pop_task(timeout=watchdog()) is not None
        queue.task_done()
        scheduler.stop()
    queue.close()


@pytest.mark.parametrize("wrong", [None, 5, True, ["x"], b"x", "a\x00b", "\ud800"])
def test_what_cannot_be_an_id(scheduler: Scheduler, wrong: Any) -> None:
    for verb in ("get_task", "pause_task", "resume_task", "update_task", "run_now", "delete_task"):
        with pytest.raises(ValidationError, match=r"^task_id: "):
            getattr(scheduler, verb)(wrong)


@pytest.mark.parametrize("wrong", [5, "memory://", aiotaskq.MemoryQueue()], ids=["int", "str", "awaited"])
def test_what_is_no_blocking_queue(wrong: Any) -> None:
    with pytest.raises(ValidationError, match=r"^queue: a queue of aiotaskq\.sync is needed \(got \S+\)"):
        Scheduler(queue=wrong)


def test_a_blocking_queue_is_no_awaited_one() -> None:
    queue: Any = MemoryQueue()
    with pytest.raises(ValidationError, match=r"is needed \(got aiotaskq\.sync\.facades\.MemoryQueue\)"):
        aiotaskq.Scheduler(queue=queue)


@pytest.mark.parametrize("unknown", ["", "none", "x" * 500, "没有"])
def test_an_unknown_id(scheduler: Scheduler, unknown: str) -> None:
    for verb in ("get_task", "pause_task", "resume_task", "update_task", "run_now"):
        with pytest.raises(NotFound, match="there is no schedule"):
            getattr(scheduler, verb)(unknown)
    assert scheduler.delete_task(unknown) is False
