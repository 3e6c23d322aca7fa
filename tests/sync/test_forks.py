"""Forks of processes with the blocking twin, and handlers in processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import aiotaskq
import aiotaskq.sync
from tests.support.machine import within
from tests.support.programs import Program


def test_100_forks_beside_threads_in_sqlite_never_stall(start: Callable[..., Program]) -> None:  # E4
    code = """
        import os, sqlite3, sys, threading
        from aiotaskq.sync import TaskQ
        tq = TaskQ("sqlite:///tq.db")
        handle = tq.push_many([("x", {})] * 300)[0]
        stop = threading.Event()
        def hammer():
            while not stop.is_set():
                tq.find(limit=300)
        threads = [threading.Thread(target=hammer) for _ in range(4)]
        for thread in threads:
            thread.start()
        for number in range(100):
            child = os.fork()
            if child == 0:
                sqlite3.connect(":memory:").execute("select 1")
                if number % 50 == 0:
                    assert handle.status() == "pending"
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        stop.set()
        for thread in threads:
            thread.join()
        print("done")
    """
    assert start(code).end() == ["done"]


def test_a_forked_child_has_a_loop_a_pool_and_an_empty_memory_of_its_own(
    start: Callable[..., Program],
) -> None:  # E1, E2, E3
    code = """
        import os, sys, threading
        from aiotaskq.sync import DatabaseQueue, MemoryQueue, SessionLocal, TaskQ, get_queue, get_scheduler, push_task
        from tests.support.machine import watchdog, within
        memory, tq, durable = MemoryQueue(), TaskQ("sqlite:///tq.db"), DatabaseQueue("sqlite:///q.db")
        push_task({"type": "parent"}); memory.push_task({"type": "parent"})
        @tq.task
        def double(n: int) -> int:
            return 2 * n
        handle = double.push(n=1)
        durable.push_task({"type": "parent"})
        scheduler = get_scheduler()
        with SessionLocal() as session:
            session.connection()
        busy = threading.Thread(target=lambda: [memory.push_task({"type": "x"}, 5) for _ in range(3000)])
        busy.start()
        children = []
        for number in range(4):
            child = os.fork()
            if child:
                children.append(child)
                continue
            assert memory.is_empty() and get_queue().is_empty(), "memory is the parent's"
            memory.push_task({"type": "child"})
            assert memory.pop_task()["type"] == "child"
            memory.task_done()
            assert durable.push_task({"type": "child"})
            assert not scheduler.running and get_scheduler() is scheduler and scheduler.running
            scheduler.add_scheduler_task("n", "x", "interval", interval_seconds=60)
            with SessionLocal() as session:
                session.connection().exec_driver_sql("select count(*) from scheduler_task").scalar()
            if number == 0:
                with tq.running():
                    assert handle.result(timeout=within(10)) == 2
                    assert double.push(n=4).result(timeout=within(10)) == 8
            else:
                double.push(n=number)
            sys.exit(0)
        for child in children:
            assert os.waitpid(child, 0)[1] == 0
        busy.join()
        assert memory.get_queue_size() == 3001 and memory.pop_task()["type"] == "parent"
        assert get_queue().get_queue_size() == 1
        assert durable.get_queue_size() == 5 and len(tq.find()) == 5 and len(scheduler.list_tasks()) == 4
        with SessionLocal() as session:
            assert session.connection().exec_driver_sql("select count(*) from scheduler_task").scalar() == 4
        print("done")
    """
    assert start(code).end() == ["done"]


def test_process_handlers_are_spawned_not_forked_beside_the_loop_thread(tmp_path: Path) -> None:  # E14
    (tmp_path / "jobs.py").write_text(
        "import os\nfrom aiotaskq.sync import TaskQ\ntq = TaskQ('memory://', schedules='sqlite:///s.db')\n"
        "@tq.task(executor='process')\ndef where(n: int) -> tuple[int, int]:\n    return os.getppid(), n\n"
        "if __name__ == '__main__':\n    import jobs\n    with jobs.tq.running(concurrency=2):\n"
        "        found = [h.result(timeout=20) for h in [jobs.where.push(n=n) for n in range(2)]]\n"
        "    print(found == [(os.getpid(), 0), (os.getpid(), 1)])\n"
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "jobs.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{Path(aiotaskq.__file__).parent.parent}", "LOGURU_AUTOINIT": "False"},
        capture_output=True,
        text=True,
        timeout=within(30),
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "True\n", "")
