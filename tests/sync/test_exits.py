"""Scripts with the blocking twin: their ends, Ctrl-C, signals."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import aiotaskq
import aiotaskq.sync
from tests.support.machine import within
from tests.support.programs import Program
from tests.sync.threads import from_thread

AT_ONCE = 8.0  # seconds for an interpreter to end; what it must not wait for takes 60


ENDINGS = [("", 0, ""), ("raise ValueError('mine')", 1, "ValueError: mine"), ("sys.exit(5)", 5, "")]


NAMES = "MemoryQueue, SessionLocal, TaskQ, get_scheduler, pop_task, set_public"
USES = {
    "MemoryQueue": "queue = MemoryQueue(); queue.push_task({'type': 'x'}); queue.start_cleanup()",
    "default queue": "threading.Thread(target=pop_task, daemon=True).start(); set_public('k', 1)",
    "TaskQ": "tq = TaskQ('sqlite:///tq.db'); tq.push('x', {}, task_id='mine')",
    "workers": "tq = TaskQ('sqlite:///tq.db'); tq.running().__enter__()",
    "get_scheduler": "get_scheduler().add_scheduler_task('n', 'x', 'interval', interval_seconds=60, task_id='mine')",
    "session": "session = SessionLocal(); session.connection()",
}


@pytest.mark.parametrize("use", USES)
def test_a_script_that_just_ends_ends_at_once_and_silently(
    use: str, start: Callable[..., Program], tmp_path: Path
) -> None:  # E5
    code = f"import sys, threading, time\nfrom aiotaskq.sync import {NAMES}\n{USES[use]}\nprint('used')\n"
    programs = [(start(code + ending), status, err) for ending, status, err in ENDINGS]
    interrupted = start(code + "time.sleep(60)")
    for program, status, err in programs:
        program.wait_for("used")
        assert program.seconds_to_end(status, err) < within(AT_ONCE)
    interrupted.wait_for("used")
    interrupted.signal(signal.SIGINT)
    assert interrupted.seconds_to_end(-signal.SIGINT, "KeyboardInterrupt") < within(AT_ONCE)
    if use == "TaskQ":
        tq = aiotaskq.sync.TaskQ(f"sqlite:///{tmp_path}/tq.db")
        assert tq.get("mine").type == "x"
        tq.close()
    if use == "get_scheduler":
        scheduler = aiotaskq.sync.Scheduler(url=f"sqlite:///{tmp_path}/aiotaskq.db")
        assert scheduler.get_task("mine")["enabled"] is True
        scheduler.stop()


def test_calls_while_the_interpreter_ends_are_told_in_one_type_of_error(start: Callable[..., Program]) -> None:  # E6
    code = """
        import atexit, threading, time
        from aiotaskq.errors import ClosedError
        from aiotaskq.sync import DatabaseQueue, push_task
        queue = DatabaseQueue("sqlite:///x.db")
        queue.push_task({"type": "x"})
        def hammer():
            while True:
                try:
                    queue.get_queue_size()
                except ClosedError:
                    pass
        def hammer_and_die():
            while True:
                queue.push_task({"type": "x"})
        for target in (hammer, hammer_and_die) * 4:
            threading.Thread(target=target, daemon=True).start()
        def late():
            print("at exit", queue.get_queue_size() > 0)
        atexit.register(late)
        time.sleep(0.2)
        print("ends")
    """
    program = start(code)
    program.wait_for("ends")
    assert program.end() == ["at exit True"]


def test_ctrl_c_ends_a_wait_within_a_second_and_the_program_goes_on(start: Callable[..., Program]) -> None:  # E9
    code = """
        import time
        from aiotaskq.sync import MemoryQueue, TaskQ, pop_task
        tq = TaskQ("sqlite:///tq.db")
        handle = tq.push("x")
        calls = [lambda: pop_task(), lambda: MemoryQueue().pop_task(timeout=60), lambda: handle.result()]
        for call in calls:
            try:
                print("waits")
                call()
            except KeyboardInterrupt:
                print("interrupted")
        print(tq.stats().counts["pending"])
    """
    program = start(code)
    for _ in range(3):
        program.wait_for("waits")
        time.sleep(0.1)
        sent = time.monotonic()
        program.signal(signal.SIGINT)
        program.wait_for("interrupted")
        assert time.monotonic() - sent < within(1)
    assert program.end() == ["1"]


@pytest.mark.parametrize(
    ("kind", "patience"),
    [("MemoryQueue()", 0.003), ("DatabaseQueue('sqlite:///q.db')", 0.006)],
    ids=["memory", "sqlite"],
)
def test_a_task_popped_after_the_caller_has_left_goes_back_at_once(
    kind: str, patience: float, start: Callable[..., Program]
) -> None:  # E10
    code = f"""
        import random, signal, sys, threading, time
        from aiotaskq.sync import DatabaseQueue, MemoryQueue, pop_task, push_task
        from tests.support.machine import watchdog, within
        sys.unraisablehook = lambda *_: None  # the signal may strike within a weakref's callback
        queue = {kind}
        total = 200
        def push():
            for number in range(total):
                queue.push_task({{"type": "x", "task_id": str(number)}})
                time.sleep(0.001)
        class Left(BaseException): ...
        def leave(*_):
            raise Left
        queue.get_queue_size()
        signal.signal(signal.SIGALRM, leave)
        pusher = threading.Thread(target=push)
        pusher.start()
        got, left, last = [], 0, time.monotonic()
        while len(got) < total and time.monotonic() - last < within(10):
            task = None
            try:
                signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0001, {patience}))
                task = queue.pop_task(timeout=0.01)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Left:
                left += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            if task is not None:
                got.append(task["task_id"])
                last = time.monotonic()
                queue.task_done()
        for _ in range(100):  # a task may be on its way back when we look
            counts = queue.stats().counts
            if counts["running"] + counts["pending"] + len(got) == total and counts["running"] <= left // 20:
                break
            time.sleep(within(0.05))
        # An interrupt may strike between the return of a pop and its assignment: no code can know of that one.
        print(len(got) == len(set(got)), counts["running"] + counts["pending"] + len(got) == total)
        print(counts["running"] <= left // 20, left > 9)
    """
    assert start(code).end() == ["True True", "True True"]


@pytest.mark.parametrize("kind", ["MemoryQueue()", "DatabaseQueue('sqlite:///q.db')"], ids=["memory", "sqlite"])
def test_a_pop_whose_caller_leaves_at_its_last_moment_is_undone(
    kind: str, start: Callable[..., Program]
) -> None:  # E10
    """The loop has popped, and its caller goes before it is told: by a signal, or since its time is over."""
    code = f"""
        import os, signal, threading, time
        import aiotaskq.runtime.queue.queue
        from aiotaskq.sync import DatabaseQueue, MemoryQueue, pop_task, push_task
        from tests.support.machine import within

        class Left(BaseException): ...
        def leave(*_):
            raise Left
        signal.signal(signal.SIGUSR1, leave)
        left = threading.Event()
        remember = aiotaskq.runtime.queue.queue.Queue._remember
        async def remembered(self, task):
            await remember(self, task)
            if threading.current_thread() is not threading.main_thread():
                os.kill(os.getpid(), signal.SIGUSR1)
                left.wait(within(20))  # what follows comes too late for the caller

        queue = {kind}
        queue.get_queue_size()
        aiotaskq.runtime.queue.queue.Queue._remember = remembered
        threading.Timer(0.2, queue.push_task, [{{"type": "x", "task_id": "mine"}}]).start()
        try:
            queue.pop_task()
        except Left:
            left.set()
        end = time.monotonic() + within(20)
        while (counts := queue.stats().counts)["running"] or not counts["pending"]:
            assert time.monotonic() < end, counts
            time.sleep(0.01)
        aiotaskq.runtime.queue.queue.Queue._remember = remember
        again = queue.pop_task(0)
        print(again["task_id"], again["retry_count"])
        queue.task_done()
        print(queue.stats().counts["completed"])
    """
    assert start(code).end() == ["mine 0", "1"]


def test_run_works_until_a_signal_in_the_main_thread(start: Callable[..., Program]) -> None:
    code = """
        import signal, sys, threading, time
        from aiotaskq.sync import TaskQ
        tq = TaskQ("sqlite:///tq.db")
        @tq.task
        def work(seconds: float) -> None:
            print("works")
            time.sleep(seconds)
        @tq.task
        async def stubborn() -> None:
            import asyncio
            print("works")
            await asyncio.sleep(60)
        tq.push(sys.argv[1], {"seconds": 0.3} if sys.argv[1] == "work" else {})
        before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
        code = tq.run(grace=0.5)
        assert before == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))
        tq.open()
        print(code.name, tq.find()[0].status)
        sys.exit(code)
    """
    drained, hurried = start(code, "work"), start(code.replace("tq.db", "tq2.db"), "stubborn")
    drained.wait_for("works")
    drained.signal(signal.SIGTERM)
    hurried.wait_for("works")
    hurried.signal(signal.SIGINT)
    assert drained.end() == ["DRAINED completed"]
    time.sleep(0.6)  # sooner it would be an echo of the first
    hurried.signal(signal.SIGINT)
    assert hurried.end(3) == ["RELEASED pending"]


def test_run_outside_of_the_main_thread_is_refused(tmp_path: Path) -> None:
    tq = aiotaskq.sync.TaskQ(f"sqlite:///{tmp_path}/x.db")
    with pytest.raises(ValueError, match="main thread"):
        from_thread(tq.run)


def test_what_was_used_is_closed_with_the_loop(start: Callable[..., Program]) -> None:
    code = """
        from aiotaskq.sync.bridge import Home, run

        async def close(made):
            print("closed", made, flush=True)

        inner = Home(lambda: "inner", close=close)
        outer = Home(lambda: "outer", needs=inner, close=close)
        run(outer.enter, "outer")
    """
    program = start(code)
    for name in ("outer", "inner"):  # the last one entered first
        program.wait_for(f"closed {name}")
    assert program.seconds_to_end(0, "") < within(AT_ONCE)
