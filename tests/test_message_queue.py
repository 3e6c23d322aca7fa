"""The guide's scenarios for the message queue: run by pytest, and by ``python tests/test_message_queue.py``."""

from __future__ import annotations

import sys
import tempfile
import threading
from pathlib import Path

from aiotaskq.errors import NoOpenTask, TaskConflict
from aiotaskq.sync import (
    DatabaseQueue,
    MemoryQueue,
    delete_public,
    get_public,
    get_queue,
    pop_task,
    push_task,
    set_public,
)

PATIENCE = 60  # seconds to wait for what must happen


def test_push_pop_and_task_done() -> None:
    """A task is pushed, popped and done"""
    queue = MemoryQueue()
    task_id = queue.push_task({"type": "download_audio", "params": {"url": "https://example.com/a.mp3"}})
    assert queue.get_queue_size() == 1 and not queue.is_empty()
    task = queue.pop_task()
    assert task is not None
    assert (task["task_id"], task["type"]) == (task_id, "download_audio")
    assert task["params"] == {"url": "https://example.com/a.mp3"}
    assert (task["priority"], task["retry_count"], task["max_retries"]) == (0, 0, 3)
    queue.task_done()
    assert queue.is_empty() and queue.pop_task(timeout=0) is None
    try:
        queue.task_done()
    except NoOpenTask:
        return
    raise AssertionError("task_done() without a popped task did not raise")


def test_smaller_priorities_go_first() -> None:
    """Smaller priority numbers go first, equal ones in the order of their pushes"""
    queue = MemoryQueue()
    for name, priority in (("c", 5), ("a", -1), ("d", 5), ("b", 0)):
        queue.push_task({"type": name}, priority=priority)
    popped = [queue.pop_task(timeout=0) for _ in range(4)]
    assert [task["type"] for task in popped if task is not None] == ["a", "b", "c", "d"]


def test_a_pop_waits_for_a_push() -> None:
    """A pop waits until another thread pushes"""
    queue = MemoryQueue()
    assert queue.pop_task(timeout=0.01) is None
    producer = threading.Timer(0.05, queue.push_task, [{"type": "late"}])
    producer.start()
    task = queue.pop_task(timeout=PATIENCE)
    producer.join()
    assert task is not None and task["type"] == "late"


def test_several_workers() -> None:
    """Three worker threads run each of 100 tasks once"""
    queue = MemoryQueue()
    done: list[int] = []
    stop = threading.Event()

    def worker() -> None:
        while not stop.is_set():
            task = queue.pop_task(timeout=0.05)
            if task is not None:
                done.append(task["params"]["n"])
                queue.task_done()

    threads = [threading.Thread(target=worker) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(100):
        queue.push_task({"type": "work", "params": {"n": number}})
    while not (queue.is_empty() and queue.stats().counts["running"] == 0):
        queue.pop_task(timeout=0) and queue.task_done()  # the main thread may help
    stop.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert set(done) <= set(range(100)) and len(done) == len(set(done))
    assert queue.stats().counts["completed"] == 100


def test_the_retry_recipe() -> None:
    """A task that fails is pushed again with retry_count + 1, and succeeds at last"""
    queue = MemoryQueue()
    queue.push_task({"task_id": "flaky", "type": "convert_folder"})
    attempts = []
    while (task := queue.pop_task(timeout=0)) is not None:
        attempts.append(task["retry_count"])
        try:
            if len(attempts) < 3:
                raise ConnectionError("the first two attempts fail")
            queue.task_done()
        except ConnectionError:
            task["retry_count"] += 1
            queue.push_task(task)
    assert attempts == [0, 1, 2]
    assert queue.get("flaky").status == "completed"


def test_a_failed_task_is_not_completed_by_the_next_one() -> None:
    """task_done() completes the task that was popped last, not an earlier one that failed"""
    queue = MemoryQueue()
    for name in ("failed", "done"):
        queue.push_task({"task_id": name, "type": "work"})
        queue.pop_task()
    queue.task_done()
    assert [str(queue.get(name).status) for name in ("failed", "done")] == ["running", "completed"]


def test_an_id_of_ones_own() -> None:
    """A known id is pending only once, and runs again after it has ended"""
    queue = MemoryQueue()
    for _night in range(2):
        assert queue.push_task({"task_id": "nightly", "type": "backup"}) == "nightly"
        assert queue.push_task({"task_id": "nightly", "type": "backup"}) == "nightly"
        assert queue.get_queue_size() == 1
        try:
            queue.push_task({"task_id": "nightly", "type": "something else"})
        except TaskConflict:
            pass
        else:
            raise AssertionError("other content under a pending id was not refused")
        task = queue.pop_task()
        assert task is not None and task["type"] == "backup"
        queue.task_done()


def test_the_public_store() -> None:
    """Public values are set, read, listed and deleted, and are gone when their time is over"""
    queue = MemoryQueue()
    queue.set_public("cookie", {"session": "abc"})
    queue.set_public("token", "xyz", ttl=3600)
    queue.set_public("gone at once", 1, ttl=0)
    assert queue.get_public("cookie") == {"session": "abc"} and queue.get_public("token") == "xyz"
    assert queue.get_public("gone at once") is None and queue.get_public("never set") is None
    assert queue.list_keys() == ["cookie", "token"] and queue.get_store_size() == 2
    assert queue.cleanup() == 1
    assert queue.delete_public("token") is True and queue.delete_public("token") is False
    queue.start_cleanup()
    queue.stop_cleanup()
    queue.clear_store()
    assert queue.get_store_size() == 0


def test_the_process_wide_queue() -> None:
    """push_task, pop_task and the public functions act on the one queue of get_queue()"""
    queue = get_queue()
    assert get_queue() is queue
    task_id = push_task({"type": "mail", "params": {"to": "a@example.com"}}, priority=-1_000_000)
    task = pop_task(timeout=PATIENCE)
    assert task is not None and task["task_id"] == task_id
    queue.task_done()
    set_public("of the scenario", 1)
    assert (get_public("of the scenario"), queue.get_public("of the scenario")) == (1, 1)
    assert delete_public("of the scenario")


def test_a_durable_queue() -> None:
    """What was pushed into a database is there when it is opened again"""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'tasks.db'}"
        queue = DatabaseQueue(url)
        queue.push_task({"task_id": "kept", "type": "work", "params": {"n": 1}})
        queue.set_public("cookie", "abc")
        queue.close()
        queue = DatabaseQueue(url)
        task = queue.pop_task(timeout=0)
        assert task is not None and (task["task_id"], task["params"]) == ("kept", {"n": 1})
        queue.task_done()
        assert queue.get_public("cookie") == "abc"
        queue.close()


if __name__ == "__main__":
    from support import script

    sys.exit(script.run(globals()))
