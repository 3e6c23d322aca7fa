"""Signals in the main thread of a blocking program: the handler's exception is raised, and no task is lost."""

from __future__ import annotations

import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aiotaskq import Limit
from aiotaskq.sync import MemoryQueue, TaskQ
from tests.support.machine import watchdog
from tests.support.programs import Program, programs_in
from tests.support.threads import in_thread
from tests.sync.threads import from_thread

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

URLS = {"memory": "memory://", "sqlite": "sqlite:///signals.db"}
STORES = {"memory": "MemoryQueue()", "sqlite": "DatabaseQueue('sqlite:///signals.db')"}

HEAD = """
import random, signal, sys, threading, time
from aiotaskq.errors import NoOpenTask, NotFound
from aiotaskq.sync import DatabaseQueue, MemoryQueue

queue = {make}
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str, str], Program]]:
    with programs_in(tmp_path) as start:
        yield lambda store, script: start(HEAD.format(make=STORES[store]) + script)


# What a signal handler may raise: TimeoutError is the guide's own, and the others are what a careless wait would take
# for an answer of its own.
RAISED = ("TimeoutError", "KeyboardInterrupt", "SystemExit", "RuntimeError", "CancelledError", "ClosedError")


@pytest.mark.parametrize("store", STORES)
def test_the_guides_alarm_interrupts_a_pop_with_its_own_exception(
    start: Callable[[str, str], Program], store: str
) -> None:
    script = f"""
from concurrent.futures import CancelledError
from aiotaskq.errors import ClosedError

def alarm(number, frame):
    raise error

signal.signal(signal.SIGALRM, alarm)
for kind in ({", ".join(RAISED)}):
    for timeout in (None, 30):
        error = kind("Task timed out")
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            queue.pop_task(timeout)
        except BaseException as caught:
            assert caught is error and caught.__cause__ is None and caught.__context__ is None, repr(caught)
        else:
            raise AssertionError("it was not interrupted")
    queue.push_task({{"type": "x", "task_id": kind.__name__}})
    assert queue.pop_task(timeout=30)["task_id"] == kind.__name__
    queue.task_done()
print("done")
"""
    assert start(store, script).end() == ["done"]


@pytest.mark.parametrize("store", URLS)
def test_the_guides_alarm_interrupts_the_module_functions_with_its_own_exception(tmp_path: Path, store: str) -> None:
    script = """
import signal
from aiotaskq.sync import get_queue, pop_task, push_task

def alarm(number, frame):
    raise error

signal.signal(signal.SIGALRM, alarm)
get_queue()
error = TimeoutError("Task timed out")
try:
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    pop_task(timeout=30)
except TimeoutError as caught:
    assert caught is error and caught.__cause__ is None and caught.__context__ is None, repr(caught.__context__)
try:
    push_task({})
except ValueError as refused:
    assert refused.__context__ is None, repr(refused.__context__)
print("done")
"""
    with programs_in(tmp_path) as start:
        assert start(script, AIOTASKQ_QUEUE_URL=URLS[store]).end() == ["done"]


@pytest.mark.parametrize("store", STORES)
def test_the_guides_alarm_interrupts_a_handler(start: Callable[[str, str], Program], store: str) -> None:
    script = """
def timeout_handler(signum, frame):
    raise TimeoutError("Task timed out")

signal.signal(signal.SIGALRM, timeout_handler)
queue.push_task({"type": "slow", "task_id": "slow"})
queue.push_task({"type": "quick", "task_id": "quick"})
errors = []
while (task := queue.pop_task(timeout=0)) is not None:
    try:
        signal.setitimer(signal.ITIMER_REAL, {"slow": 0.2, "quick": 60.0}[task["type"]])
        if task["type"] == "slow":
            time.sleep(30)
        queue.task_done()
    except TimeoutError as error:
        errors.append(f"{task['task_id']}: {error}")
    finally:
        signal.alarm(0)
assert errors == ["slow: Task timed out"], errors
assert [queue.get(name).status for name in ("slow", "quick")] == ["running", "completed"]
print("done")
"""
    unsettled = "slow slow was popped and not settled; it comes back after its visibility timeout"  # in a durable store
    assert start(store, script).end(stderr=("", unsettled)) == ["done"]


@pytest.mark.parametrize("store", STORES)
def test_ctrl_c_in_a_pop_that_waits(start: Callable[[str, str], Program], store: str) -> None:
    script = """
def late():
    print("waits", flush=True)

threading.Timer(0.1, late).start()
try:
    queue.pop_task()
finally:
    queue.push_task({"type": "x"})
    assert queue.pop_task(timeout=30) is not None
"""
    program = start(store, script)
    program.wait_for("waits")
    program.signal(signal.SIGINT)
    program.end(-signal.SIGINT, "KeyboardInterrupt")


# Each operation has one signal, at a random moment within it or a little after.
STORM = """
class Alarm(TimeoutError):
    pass

def alarm(number, frame):
    global armed, struck
    if armed:  # the signal may come after its timer was stopped
        armed, struck = False, Alarm()
        raise struck

signal.signal(signal.SIGALRM, alarm)
chance = random.Random({seed!r})
armed, struck, strikes, operations = False, None, 0, 0
usual = {{}}  # seconds that an operation takes

def interrupted(kind, operation):
    \"\"\"Return what the operation returns, None if the alarm has struck before.\"\"\"
    global armed, struck, strikes, operations
    struck, answer, start = None, None, time.monotonic()
    operations += 1
    try:
        armed = True
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, 1.5 * usual.get(kind, 0.01)))
        answer = operation()
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        usual[kind] = 0.8 * usual.get(kind, 0.01) + 0.2 * (time.monotonic() - start)
    except Alarm as error:
        assert error is struck and error.__cause__ is None, repr(error)
        strikes += 1
        usual[kind] = 1.1 * usual.get(kind, 0.01)
    return answer

pushed, delivered = [], []
while len(pushed) < {count}:
    name = str(len(pushed))
    task = {{"type": "x", "task_id": name, "params": {{"n": len(pushed)}}}}
    if interrupted("push", lambda: queue.push_task(task)) is None:
        try:
            assert queue.get(name).status == "pending"
        except NotFound:
            queue.push_task(task)
    pushed.append(name)
    task = interrupted("pop", lambda: queue.pop_task({wait}))
    if task is not None:
        delivered.append(task["task_id"])
        interrupted("done", lambda: queue.task_done(task["task_id"]))
        if queue.get(task["task_id"]).status == "running":  # the alarm was first
            queue.task_done(task["task_id"])
        try:
            queue.task_done(task["task_id"])
        except NoOpenTask:
            pass
while (task := queue.pop_task(0)) is not None:
    delivered.append(task["task_id"])
    queue.task_done()
assert sorted(delivered) == sorted(pushed), set(pushed) ^ set(delivered)
counts = {{status: count for status, count in queue.stats().counts.items() if count}}
assert counts == {{"completed": len(pushed)}}, counts
assert operations / 10 < strikes < operations, (operations, strikes)
print("done")
"""


PROCESS_WIDE = """
import aiotaskq.sync
from aiotaskq.sync import configure, get_queue

configure(queue_url="{url}")

class ProcessWide:
    def __getattr__(self, name):
        return getattr(aiotaskq.sync if name in ("push_task", "pop_task") else get_queue(), name)

queue = ProcessWide()
"""


def interrupted_everywhere(call: Callable[[], object]) -> int:
    """Interrupt a call of the main thread at its first step, then at its second, until it ends; return how often."""
    interrupted = reached = 0

    def interrupt(frame: types.FrameType, _event: str, _arg: object) -> Any:
        nonlocal reached
        frame.f_trace_opcodes = True
        reached += 1
        if reached == interrupted + 1:  # one step further each time
            raise KeyboardInterrupt
        return interrupt

    before, ended = sys.gettrace(), False
    while not ended:
        reached = 0
        sys.settrace(interrupt)
        try:
            call()
            ended = True
        except KeyboardInterrupt:
            interrupted += 1
        finally:
            sys.settrace(before)
    return interrupted


def test_a_push_may_be_interrupted_anywhere_and_leaves_no_lock_behind() -> None:
    queue = MemoryQueue()
    queue.push_task({"type": "x"})
    interrupted = interrupted_everywhere(lambda: queue.push_task({"type": "x"}))
    assert interrupted > 100
    size = from_thread(queue.get_queue_size)
    assert 2 < size < 2 + interrupted, "interrupted before and after the task was there"
    assert from_thread(lambda: [queue.pop_task(0) is not None for _ in range(size + 1)]) == [True] * size + [False]


def test_a_push_at_a_gate_may_be_interrupted_anywhere_and_leaves_no_lock_behind() -> None:
    tq = TaskQ("memory://")
    tq.task(name="x", limit=Limit(1))(lambda: None)
    tq.queue.push_task({"type": "x"})
    assert interrupted_everywhere(lambda: tq.queue.push_task({"type": "x"})) > 100
    (state,) = from_thread(tq.queue.limits.list)
    assert state.held == 1 and state.waiting == from_thread(lambda: tq.queue.stats().counts["pending"]) - 1 > 1


def test_a_script_pushes_without_a_loop_where_no_sink_takes_its_lines(start: Callable[[str, str], Program]) -> None:
    script = """
from aiotaskq.log import logger

logger.remove()
queue.push_task({"type": "x"})
assert [thread.name for thread in threading.enumerate()] == ["MainThread"]
assert queue.pop_task(timeout=0)["type"] == "x"
print("done")
"""
    assert start("memory", script).end() == ["done"]


def test_a_set_and_a_get_may_be_interrupted_anywhere_and_leave_no_lock_behind() -> None:
    queue = MemoryQueue()
    queue.set_public("a", 0, 60)
    assert interrupted_everywhere(lambda: queue.set_public("a", 1, 60)) > 50
    assert interrupted_everywhere(lambda: queue.get_public("a")) > 30
    assert from_thread(lambda: (queue.get_public("a"), queue.get_store_size(), queue.cleanup())) == (1, 1, 0)


def test_a_push_of_the_main_thread_waits_for_no_lock() -> None:
    queue = MemoryQueue()
    held, pushed = threading.Event(), threading.Event()

    def hold() -> None:
        with queue._reach().backend.queues.lock:
            held.set()
            assert pushed.wait(watchdog())

    holding = in_thread(hold)
    assert held.wait(watchdog())
    task_id = queue.push_task({"type": "x"})
    pushed.set()
    holding.result(watchdog())
    assert queue.get(task_id).status == "pending"


@pytest.mark.parametrize("wait", [0, 0.0005])
@pytest.mark.parametrize("through", ["a queue", "the module's functions"])
@pytest.mark.parametrize("store", STORES)
def test_signals_at_random_moments_lose_and_double_nothing(
    start: Callable[[str, str], Program], store: str, through: str, wait: float
) -> None:
    script = STORM.format(seed=f"{store} {wait}", count={"memory": 2_000, "sqlite": 200}[store], wait=wait)
    if through != "a queue":
        script = PROCESS_WIDE.format(url=URLS[store]) + script
    # A strike in the callback of a weak reference interrupts nothing: Python reports it on stderr and goes on.
    assert start(store, script).end(stderr=("", "Alarm: ")) == ["done"]


@pytest.mark.parametrize("store", STORES)
def test_a_handler_that_pushes_may_come_at_any_moment_of_the_first_use(
    start: Callable[[str, str], Program], store: str
) -> None:
    """Each forked child makes the process-wide queue and its loop anew; the handler needs both while that is done."""
    url, longest = {"memory": ("memory://", 0.002), "sqlite": ("sqlite:///first_use.db", 0.02)}[store]
    script = f"""
import os, traceback
import aiotaskq.sync
from aiotaskq.sync import configure, get_queue, push_task

configure(database_url="sqlite:///first_use.db", queue_url="{url}")
get_queue().push_task({{"type": "import what is needed"}})
chance = random.Random(7)

def child(number):
    pushed = []

    def alarm(signal_number, frame):
        pushed.append(push_task({{"type": "x", "task_id": f"{{number}} from the handler"}}))

    signal.signal(signal.SIGALRM, alarm)
    signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, {longest}))
    here = push_task({{"type": "x", "task_id": f"{{number}} from the main thread"}})
    while not pushed:
        signal.sigtimedwait([], 0.001)
    assert [get_queue().get(name).status for name in (here, *pushed)] == ["pending"] * 2

for number in range(60):
    chance.random()  # another moment for each child
    if pid := os.fork():
        assert os.waitpid(pid, 0)[1] == 0, number
    else:
        try:
            child(number)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
print("done")
"""
    assert start(store, script).end() == ["done"]
