"""The scripts of the old guide run unchanged, as real programs, with one import line in place of each old file."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.documented import LEGACY
from tests.support.programs import ROOT, Program, programs_in

# The bodies of a user's old files, each replaced by one import line.
OLD_FILES = {
    "app/__init__.py": "",
    "app/core/__init__.py": "",
    "app/models/__init__.py": "",
    "app/core/message_queue.py": (
        "from aiotaskq.sync import MemoryQueue, get_queue, push_task, pop_task, set_public, get_public, delete_public\n"
    ),
    "app/core/scheduler.py": "from aiotaskq.sync import Scheduler, get_scheduler\n",
    "app/models/scheduler_task.py": "from aiotaskq.models import SchedulerTask, TaskQueue\n",
    "app/database.py": "from aiotaskq.sync import engine, Base, SessionLocal, get_db\n",
    "app/log.py": "from aiotaskq.log import logger\n",
}

# What the old scripts share.
WORKERS = """
import json, signal, sys, threading, time
from tests.support.documented import LEGACY
from tests.support.machine import within
from app.core.message_queue import MemoryQueue, get_queue, push_task, pop_task, set_public, get_public, delete_public
from app.core.scheduler import Scheduler, get_scheduler
from app.database import Base, SessionLocal, engine, get_db
from app.log import logger
from app.models.scheduler_task import SchedulerTask, TaskQueue

logger.remove()
running = threading.Event()
running.set()
done, lock = [], threading.Lock()

def handle(task):
    with lock:
        done.append(task)

def worker(name):
    while running.is_set():
        task = pop_task(timeout=1)
        if task is None:
            continue
        try:
            handle(task)
        except Exception as error:
            logger.error(f"{name}: {task['task_id']} failed: {error}")
        finally:
            get_queue().task_done()

def start_workers(count=3, target=worker):
    threads = [threading.Thread(target=target, args=(f"worker-{n}",)) for n in range(count)]
    for thread in threads:
        thread.start()
    return threads

def stop_workers(threads):
    running.clear()
    for thread in threads:
        thread.join()

def wait_until(condition, seconds=within(40)):
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline, "never came true"
        time.sleep(0.005)
"""


QUEUES = {"memory": "memory://", "durable": "sqlite:///aiotaskq.db"}


@pytest.fixture(params=QUEUES)
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], Program]]:
    """Start a script that begins as the old ones do; its process-wide queue is in memory, or in the database."""
    for name, body in OLD_FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(body)
    with programs_in(tmp_path) as start:
        yield lambda script: start(WORKERS + script, AIOTASKQ_QUEUE_URL=QUEUES[request.param])


def test_a_producer_and_three_worker_threads(start: Callable[[str], Program]) -> None:
    script = """
def download_audio(params):
    return f"{params['url']} with {get_public('cookie')}"

def convert_folder(params):
    return params["folder"]

HANDLERS = {"download_audio": download_audio, "convert_folder": convert_folder}
results = []

def handle(task):
    results.append((task["task_id"], HANDLERS[task["type"]](task["params"]), threading.current_thread().name))

set_public("cookie", "secret", ttl=3600)
threads = start_workers()
tasks = [{"type": "download_audio", "params": {"url": f"u{n}"}} for n in range(50)]
ids = [push_task(task) for task in tasks]
ids.append(push_task({"task_id": "mine", "type": "convert_folder", "params": {"folder": "/a"}}, priority=-1))
push_task({"type": "nobody handles this"})
wait_until(lambda: len(results) == 51 and get_queue().is_empty())  # the last one has no result
stop_workers(threads)
assert tasks[0] == {"type": "download_audio", "params": {"url": "u0"}}
assert sorted(task_id for task_id, _, _ in results) == sorted(ids)
assert ("mine", "/a") in [(task_id, result) for task_id, result, _ in results]
assert {result for _, result, _ in results} == {f"u{n} with secret" for n in range(50)} | {"/a"}
assert get_queue().is_empty() and get_queue().get_queue_size() == 0
print("done")
"""
    assert start(script).end() == ["done"]


RETRY = {
    "task_done in finally": """
        finally:
            get_queue().task_done()
""",
    "task_done after success only": """
        else:
            get_queue().task_done()
""",
}


@pytest.mark.parametrize("ending", RETRY)
def test_the_retry_recipe(ending: str, start: Callable[[str], Program]) -> None:
    script = f"""
attempts, gave_up = [], []

def handle(task):
    with lock:
        attempts.append((task["task_id"], task["retry_count"]))
    if task["params"]["fails"] > task["retry_count"]:
        raise ConnectionError("as told")
    with lock:
        done.append(task["task_id"])

def retrying_worker(name):
    while running.is_set():
        task = pop_task(timeout=1)
        if task is None:
            continue
        try:
            handle(task)
        except Exception as error:
            if task["retry_count"] < task["max_retries"]:
                task["retry_count"] += 1
                push_task(task)
            else:
                gave_up.append(task["task_id"])
{RETRY[ending]}
threads = start_workers(target=retrying_worker)
for n in range(60):
    push_task({{"task_id": str(n), "type": "x", "params": {{"fails": n % 5}}}}, priority=n % 3)
wait_until(lambda: len(done) + len(gave_up) == 60)
stop_workers(threads)
assert all(not thread.is_alive() for thread in threads)
assert sorted(gave_up) == sorted(str(n) for n in range(60) if n % 5 == 4)
assert len(attempts) == len(set(attempts)) == 12 * (1 + 2 + 3 + 4 + 4)
assert get_queue().is_empty()
counts = get_queue().stats().counts
assert counts["completed"] == (60 if "{ending}" == "task_done in finally" else 48), counts
print("done")
"""
    assert start(script).end() == ["done"]


def test_the_documented_worker_completes_only_successful_tasks(start: Callable[[str], Program]) -> None:
    """Its ``task_done`` is skipped when the handler raises; on a durable queue that task is a retry, and then dead."""
    script = """
import os
os.environ["AIOTASKQ_VISIBILITY_TIMEOUT"] = f"{within(2):.0f}"  # more than all the work before it is over
runs, errors = [], []

def handle(task):
    runs.append((task["task_id"], task["retry_count"]))
    if task["type"] == "fails":
        raise ConnectionError("as told")

def worker(name):
    while running.is_set():
        task = pop_task(timeout=1)
        if task is None:
            continue
        try:
            handle(task)
            get_queue().task_done()
        except Exception as error:
            errors.append(f"{task['task_id']}: {error}")

push_task({"task_id": "A", "type": "fails", "max_retries": 1})
push_task({"task_id": "B", "type": "works"})
threads = start_workers(count=1, target=worker)
durable = type(get_queue()).__name__ != "MemoryQueue"
status = lambda name: str(get_queue().get(name).status)
wait_until(lambda: status("B") == "completed")
assert runs == [("A", 0), ("B", 0)] and status("A") == "running"
push_task({"task_id": "C", "type": "works"})
if durable:
    wait_until(lambda: status("A") == "failed")
wait_until(lambda: status("C") == "completed")
stop_workers(threads)
assert runs == [("A", 0), ("B", 0), ("C", 0)] + [("A", 1)] * durable, runs
assert errors == ["A: as told"] * (1 + durable)
counts = {status: count for status, count in get_queue().stats().counts.items() if count}
assert counts == {"completed": 2, "failed" if durable else "running": 1}, counts
print("done")
"""
    assert start(script).end() == ["done"]


def test_a_graceful_stop_on_sigterm(start: Callable[[str], Program]) -> None:
    script = """
def handle(task):
    print("began", flush=True)
    time.sleep(task["params"]["seconds"])
    done.append(task["task_id"])

def on_signal(number, frame):
    push_task({"type": "bye", "params": {"seconds": 0}})  # from within a signal handler
    running.clear()

signal.signal(signal.SIGTERM, on_signal)
signal.signal(signal.SIGINT, on_signal)
scheduler = get_scheduler()
get_queue().start_cleanup()
threads = start_workers()
push_task({"type": "sleep", "params": {"seconds": 0.3}, "task_id": "slow"})
while running.is_set():
    time.sleep(0.05)
for thread in threads:
    thread.join()
scheduler.stop()
get_queue().stop_cleanup()
print("slow" in done, scheduler.running)
"""
    program = start(script)
    program.wait_for("began")
    program.signal(signal.SIGTERM)
    assert program.end()[-1] == "True False"


def test_the_public_store_with_ttl(start: Callable[[str], Program]) -> None:
    script = """
queue = MemoryQueue(cleanup_interval=0.05)
get_queue()
set_at, ttl = time.time(), within(0.5)
for place, value in ((queue, [1, (2, 3)]), (get_queue(), [1, [2, 3]])):
    place.set_public("for ever", value)
    place.set_public("soon gone", {"a": 1}, ttl=ttl)
    assert place.get_public("soon gone") == {"a": 1} and place.get_public("for ever") == value
    assert place.list_keys() == ["for ever", "soon gone"] and place.get_store_size() == 2
queue.start_cleanup()
wait_until(lambda: queue.get_public("soon gone") is None)
assert ttl - 0.01 < time.time() - set_at < within(30)
wait_until(lambda: queue.get_store_size() == 1 and queue.list_keys() == ["for ever"])
queue.stop_cleanup()
wait_until(lambda: get_public("soon gone") is None)
assert delete_public("for ever") is True and delete_public("for ever") is False and get_public("none") is None
set_public("again", None, ttl=60)
assert get_queue().list_keys() == ["again"]
get_queue().clear_store()
assert get_queue().get_store_size() == 0 and get_queue().cleanup() == 0
print("done")
"""
    assert start(script).end() == ["done"]


def test_schedules_go_on_after_a_restart_until_max_runs(start: Callable[[str], Program], tmp_path: Path) -> None:
    script = """
Base.metadata.create_all(bind=engine)
scheduler = get_scheduler()
if not scheduler.list_tasks():
    scheduler.add_scheduler_task(
        name="every second", task_type="tick", schedule_type="interval", interval_seconds=1, max_runs=3,
        params={"n": 1}, description="three times",
    )
    scheduler.add_scheduler_task("nightly", "backup", "cron", cron_expression="0 2 * * *")
    scheduler.add_scheduler_task("once", "late", "once", execute_at=int(time.time()) + 86400)
[ticks, nightly, once] = sorted(scheduler.list_tasks(), key=lambda task: task["name"] != "every second")
print(ticks["run_count"])
threads = start_workers()
wait_until(lambda: done)
assert done[0]["type"] == "tick" and done[0]["params"] == {"n": 1}
assert done[0]["scheduler_task_id"] == ticks["task_id"]
if ticks["run_count"]:
    wait_until(lambda: not scheduler.get_task(ticks["task_id"])["enabled"])
    assert len(scheduler.list_tasks(enabled_only=True)) == 2 and len(scheduler.list_tasks()) == 3
scheduler.stop()
stop_workers(threads)
print(len(done) + get_queue().get_queue_size())
"""
    first, second = start(script).end(), start(script).end()
    # By the time of its first look the second process may have fired what came due in between.
    assert first[0] == "0" and int(first[1]) <= int(second[0]) <= 3
    assert int(first[1]) + int(second[1]) == 3
    with sqlite3.connect(tmp_path / "aiotaskq.db") as connection:
        rows = connection.execute("SELECT name, run_count, enabled FROM scheduler_task ORDER BY name").fetchall()
    connection.close()
    assert rows == [("every second", 3, 0), ("nightly", 0, 1), ("once", 0, 1)]


def test_an_existing_database_is_adopted_in_place(start: Callable[[str], Program], tmp_path: Path) -> None:
    now = int(time.time())
    schedules = [
        ("overdue", "interval", 60, None, None, now - 86_400, 7, 0, 1),
        ("last run", "interval", 3600, None, None, now - 60, 4, 5, 1),
        ("future", "cron", None, "0 2 * * *", None, now + 3600, 1, 0, 1),
        ("missed", "once", None, None, now - 500, now - 500, 0, 0, 1),
        ("off", "interval", 60, None, None, now - 60, 9, 0, 0),
    ]
    with sqlite3.connect(tmp_path / "aiotaskq.db") as connection:
        connection.executescript(LEGACY)
        for name, kind, seconds, cron, at, due, runs, most, enabled in schedules:
            connection.execute(
                "INSERT INTO scheduler_task VALUES (?, ?, 'work', ?, ?, ?, ?, ?, NULL, ?, ?, ?, ?, ?, ?, 'old one')",
                (name, name, json.dumps({"of": name}), kind, seconds, cron, at, due, runs, most, enabled, now, now),
            )
        connection.execute(
            "INSERT INTO task_queue (task_id, task_type, params, priority, created_at) VALUES ('t', 'old', '{}', 2, ?)",
            (now - 9,),
        )
    connection.close()
    script = """
Base.metadata.create_all(bind=engine)
scheduler = get_scheduler()
durable = type(get_queue()).__name__ != "MemoryQueue"
popped = [pop_task(timeout=within(20)) for _ in range(3 + durable)]  # with the old table's own task
assert pop_task(timeout=0.3) is None, "a flood"
fired = [task for task in popped if task["type"] != "old"]
for task in fired:
    get_queue().task_done(task["task_id"])
tasks = {task["name"]: task for task in scheduler.list_tasks()}
assert sorted(task["params"]["of"] for task in fired) == ["last run", "missed", "overdue"]
print({name: (task["run_count"], task["enabled"]) for name, task in sorted(tasks.items())})
assert tasks["overdue"]["next_run_at"] > time.time() and tasks["future"]["description"] == "old one"
from aiotaskq.sync import DatabaseQueue
queue = get_queue() if durable else DatabaseQueue()
(old,) = [task for task in popped if task["type"] == "old"] or [queue.pop_task(timeout=0)]
assert (old["task_id"], old["type"], old["priority"], old["created_at"] < time.time() - 5) == ("t", "old", 2, True)
queue.task_done()
queue.close()
with SessionLocal() as session:
    assert session.get(TaskQueue, "t").status == "completed"
"""
    assert start(script).end() == [
        str(
            {
                "future": (1, True),
                "last run": (5, False),
                "missed": (1, False),
                "off": (9, False),
                "overdue": (8, True),
            }
        )
    ]


def test_rows_that_the_old_session_inserts_fire(start: Callable[[str], Program]) -> None:
    script = """
Base.metadata.create_all(bind=engine)

def insert(name, due, **columns):
    now = int(time.time())
    db = next(get_db())
    row = SchedulerTask(
        task_id=name, name=name, task_type="report", params=json.dumps({"of": name}), next_run_at=due,
        created_at=now, updated_at=now, **columns,
    )
    db.add(row)
    db.commit()
    db.close()

insert("before", int(time.time()) - 5, schedule_type="interval", interval_seconds=3600)
scheduler = Scheduler(check_interval=0.1)
scheduler.start()
first = pop_task(timeout=within(20))
assert (first["type"], first["params"], first["scheduler_task_id"]) == ("report", {"of": "before"}, "before"), first
get_queue().task_done()
insert("while it runs", int(time.time()), schedule_type="once", execute_at=int(time.time()))
assert pop_task(timeout=within(20))["params"] == {"of": "while it runs"}
get_queue().task_done()

session = SessionLocal()
wait_until(lambda: session.query(SchedulerTask).filter_by(enabled=False).count() == 1 or session.rollback())
ran = session.get(SchedulerTask, "before")
assert ran.run_count == 1 and ran.enabled and ran.last_run_at and ran.next_run_at > time.time()
ran.enabled = False
session.commit()
session.close()
assert scheduler.list_tasks(enabled_only=True) == []
scheduler.stop()
print("done")
"""
    assert start(script).end() == ["done"]


@pytest.mark.parametrize("script", ["test_message_queue.py", "test_scheduler.py"])
def test_the_guides_test_commands(script: str, tmp_path: Path) -> None:
    """``python tests/test_….py`` in the project's root needs no pytest, says what passed, and leaves nothing behind."""
    (tmp_path / "pytest.py").write_text("raise ImportError('not there')")
    before = sorted(path.name for path in ROOT.iterdir())
    with programs_in(ROOT) as start:
        lines = start(f"tests/{script}", PYTHONPATH=f"{tmp_path}:{ROOT}", LOGURU_AUTOINIT="True").end()
    tests = re.findall(r"^def test_", (ROOT / "tests" / script).read_text(), re.MULTILINE)
    assert lines[-1] == f"{len(tests)} of {len(tests)} passed"
    assert [line.split()[0] for line in lines[:-1]] == ["passed"] * len(tests)
    assert sorted(path.name for path in ROOT.iterdir()) == before


def test_a_guides_test_command_that_fails_says_so(tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text(
        "import sys\n\ndef test_right(): ...\n\ndef test_wrong():\n    'It is wrong'\n    assert 1 == 2\n\n"
        f"sys.path.insert(0, {str(ROOT / 'tests')!r})\nfrom support import script\nsys.exit(script.run(globals()))\n"
    )
    with programs_in(tmp_path) as start:
        lines = start("wrong.py").end(1, "AssertionError")
    assert lines == ["passed  test_right", "FAILED  It is wrong", "1 of 2 passed"]
