"""A script of the older system, unchanged but for its imports: threads push and pop dicts, a schedule pushes.

Run it with `python app.py`. The names are blocking; `AIOTASKQ_QUEUE_URL` makes the queue durable.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from aiotaskq.log import output
from aiotaskq.sync import get_public, get_queue, get_scheduler, pop_task, push_task, set_public

output("WARNING")  # without this line, every operation is logged, as in the older system


def download(task: dict[str, Any]) -> None:
    """Do the work of one task."""
    set_public(f"done:{task['params']['url']}", True, ttl=60)


def worker(stop: threading.Event) -> None:
    """Pop tasks until the script ends; a task that fails is pushed again, with a count."""
    queue = get_queue()
    while not stop.is_set():
        task = pop_task(timeout=0.2)
        if task is None:
            continue
        try:
            if task["type"] == "download":
                download(task)
            queue.task_done()
        except Exception as error:
            print(f"{task['task_id']} failed: {error}")
            if task["retry_count"] < task["max_retries"]:
                push_task({**task, "retry_count": task["retry_count"] + 1}, priority=task["priority"])


def main() -> None:
    """Push tasks by hand and by a schedule, and wait until they are done."""
    stop = threading.Event()
    threads = [threading.Thread(target=worker, args=[stop]) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(3):
        push_task({"type": "download", "params": {"url": f"https://example.com/{number}"}}, priority=number)
    scheduler = get_scheduler()
    params = {"url": "https://example.com/scheduled"}
    schedule = scheduler.add_scheduler_task("nightly", "download", "once", params, execute_at=int(time.time()))
    wanted = ["0", "1", "2", "scheduled"]
    while not all(get_public(f"done:https://example.com/{name}") for name in wanted):
        time.sleep(0.05)
    stop.set()
    for thread in threads:
        thread.join()
    scheduler.delete_task(schedule)
    print("downloaded", ", ".join(wanted))


if __name__ == "__main__":
    main()
