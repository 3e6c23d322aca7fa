"""The guide's scenarios for the scheduler: run by pytest, and by ``python tests/test_scheduler.py``."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aiotaskq.errors import NotFound
from aiotaskq.sync import MemoryQueue, Scheduler

PATIENCE = 60  # seconds to wait for what must happen


@contextlib.contextmanager
def a_database() -> Iterator[str]:
    """Give the URL of an empty database."""
    with tempfile.TemporaryDirectory() as folder:
        yield f"sqlite:///{Path(folder) / 'schedules.db'}"


@contextlib.contextmanager
def started(url: str) -> Iterator[tuple[Scheduler, MemoryQueue]]:
    """Give a started scheduler, and the queue that it fires into."""
    queue = MemoryQueue()
    scheduler = Scheduler(check_interval=1, url=url, queue=queue)
    scheduler.start()
    try:
        yield scheduler, queue
    finally:
        scheduler.stop()


def popped(queue: MemoryQueue) -> dict[str, Any]:
    """Return the next task, which must come, and say that it is done."""
    task = queue.pop_task(timeout=PATIENCE)
    assert task is not None, "nothing was fired"
    queue.task_done()
    return task


def wait_until_disabled(scheduler: Scheduler, queue: MemoryQueue, schedule_id: str) -> None:
    end = time.monotonic() + PATIENCE
    while scheduler.get_task(schedule_id)["enabled"]:
        assert time.monotonic() < end, "it is still enabled"
        queue.pop_task(timeout=0.01)


def test_once() -> None:
    """A schedule of type once whose time has passed fires at once, and is disabled"""
    with a_database() as url, started(url) as (scheduler, queue):
        schedule_id = scheduler.add_scheduler_task(
            name="once", task_type="report", schedule_type="once", execute_at=int(time.time()) - 5, params={"n": 1}
        )
        task = popped(queue)
        assert (task["type"], task["params"], task["scheduler_task_id"]) == ("report", {"n": 1}, schedule_id)
        wait_until_disabled(scheduler, queue, schedule_id)
        assert scheduler.get_task(schedule_id)["run_count"] == 1


def test_interval() -> None:
    """A schedule of type interval fires until max_runs is reached"""
    with a_database() as url, started(url) as (scheduler, queue):
        added = int(time.time())
        schedule_id = scheduler.add_scheduler_task(
            name="tick", task_type="tick", schedule_type="interval", interval_seconds=1, max_runs=2
        )
        assert added + 1 <= scheduler.get_task(schedule_id)["next_run_at"] <= int(time.time()) + 1
        assert [popped(queue)["type"] for _ in range(2)] == ["tick", "tick"]
        wait_until_disabled(scheduler, queue, schedule_id)
        assert scheduler.get_task(schedule_id)["run_count"] == 2
        assert queue.is_empty()


def test_cron() -> None:
    """A schedule of type cron is due at the times of its time zone"""
    with a_database() as url, started(url) as (scheduler, _queue):
        schedule_id = scheduler.add_scheduler_task(
            name="nightly",
            task_type="backup",
            schedule_type="cron",
            cron_expression="0 2 * * *",
            timezone="Asia/Shanghai",
            description="every night at 2",
        )
        row = scheduler.get_task(schedule_id)
        assert (row["name"], row["description"], row["enabled"]) == ("nightly", "every night at 2", True)
        two_in_shanghai = 18 * 3600  # seconds after midnight UTC
        assert row["next_run_at"] > time.time() and row["next_run_at"] % 86_400 == two_in_shanghai


def test_managing() -> None:
    """Schedules are listed, paused, resumed, changed, fired by hand and deleted"""
    with a_database() as url, started(url) as (scheduler, queue):
        kept, other = [
            scheduler.add_scheduler_task(name, "work", "interval", interval_seconds=3600) for name in ("kept", "other")
        ]
        scheduler.pause_task(other)
        assert [row["name"] for row in scheduler.list_tasks(enabled_only=True)] == ["kept"]
        assert sorted(row["name"] for row in scheduler.list_tasks()) == ["kept", "other"]
        scheduler.resume_task(other)
        scheduler.update_task(other, name="changed", params={"n": 2})
        scheduler.run_now(other)
        assert popped(queue)["params"] == {"n": 2}
        assert scheduler.get_task(other)["name"] == "changed"
        scheduler.delete_task(other)
        assert [row["task_id"] for row in scheduler.list_tasks()] == [kept]
        try:
            scheduler.get_task(other)
        except NotFound:
            return
        raise AssertionError("a deleted schedule was found")


def test_a_restart() -> None:
    """Schedules are in the database, and go on after a restart"""
    with a_database() as url:
        with started(url) as (scheduler, _queue):
            schedule_id = scheduler.add_scheduler_task("hourly", "work", "interval", interval_seconds=3600)
        with started(url) as (scheduler, queue):
            assert [row["task_id"] for row in scheduler.list_tasks()] == [schedule_id]
            scheduler.run_now(schedule_id)
            assert popped(queue)["scheduler_task_id"] == schedule_id


if __name__ == "__main__":
    from support import script

    sys.exit(script.run(globals()))
