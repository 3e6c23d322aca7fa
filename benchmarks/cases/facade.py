"""The blocking facade: what a call from a thread costs, beside the ways that the standard library has."""

from __future__ import annotations

import asyncio
import itertools
import queue
import signal
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import aiotaskq.log
import aiotaskq.sync
from benchmarks.case import AIOTASKQ, LIMIT, Run, Sample, Unit, rate, scenario
from benchmarks.old_design import ThreadQueue
from benchmarks.system import in_threads

CALLS = {"rate": Unit("calls/s")}
TASK = {"type": "work", "params": {"at": 0.0}}
PUSH = scenario("facade", "push", "push into memory, from one thread", CALLS, start=1_000)
LOOP = scenario("facade", "loop", "a call that needs the event loop", CALLS, start=500)
PUSH_MAIN = scenario("facade", "push.main", "push into memory, from the main thread", CALLS, start=1_000)
LINES = scenario(
    "facade",
    "log",
    "push into memory, from one thread, with lines at DEBUG",
    {"off": Unit("calls/s"), "on": Unit("calls/s")},
    start=500,
)
CYCLED = {"rate": Unit("tasks/s")}
CYCLE_ONE = scenario("facade", "cycle.one", "push, pop and task_done, in one thread", CYCLED, start=500)
CYCLE = scenario("facade", "cycle", "push, pop and task_done, in three threads", CYCLED, start=500)
DURABLE = scenario(
    "facade", "push.sqlite", "push into SQLite, from 50 threads", {"rate": Unit("tasks/s")}, start=200, place="file"
)


def from_threads(run: Run, threads: int, call: Callable[[], Any]) -> Sample:
    """Time so many calls in all, from so many threads. Never the main one: in it the facade takes the longer way."""
    each = max(1, run.n // threads)

    def body() -> None:
        for _ in itertools.repeat(None, each):
            call()

    return rate(each * threads, in_threads(threads, body))


def from_main(run: Run, call: Callable[[], Any]) -> Sample:
    """Time so many calls from the main thread, as in a script: signals may interrupt it, Ctrl-C with an exception."""
    assert threading.current_thread() is threading.main_thread()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background may ignore it
    start = time.perf_counter()
    for _ in itertools.repeat(None, run.n):
        call()
    return rate(run.n, time.perf_counter() - start)


# ---- push -----------------------------------------------------------------------------------------------------------


def push_aiotaskq() -> Callable[[], Any]:
    tasks = aiotaskq.sync.MemoryQueue()
    return lambda: tasks.push_task(TASK)


def push_standard() -> Callable[[], Any]:
    tasks: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()
    return lambda: tasks.put((str(uuid.uuid4()), TASK))


def push_old() -> Callable[[], Any]:
    tasks = ThreadQueue()
    return lambda: tasks.push_task(TASK)


for _who, _make in ((AIOTASKQ, push_aiotaskq), ("queue.Queue", push_standard), ("old design", push_old)):
    PUSH.by(_who)(lambda run, make=_make: from_threads(run, 1, make()))
    PUSH_MAIN.by(_who)(lambda run, make=_make: from_main(run, make()))


@PUSH.by("run_coroutine_threadsafe")
def push_threadsafe(run: Run) -> Sample:
    with LoopInThread() as loop:
        tasks: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()

        def push() -> None:
            asyncio.run_coroutine_threadsafe(tasks.put((str(uuid.uuid4()), TASK)), loop).result()

        return from_threads(run, 1, push)


@LINES.by(AIOTASKQ)
def push_with_lines(run: Run) -> Sample:
    """The lines are made, and go to a sink of loguru that drops them."""
    from loguru import logger

    sink, rates, seconds = logger.add(lambda _line: None, level="DEBUG"), {}, 0.0
    try:
        for name, level in (("off", "INFO"), ("on", "DEBUG")):
            aiotaskq.log.output(level, to="loguru")
            sample = from_threads(run, 1, push_aiotaskq())
            rates[name] = sample.values["rate"]
            seconds += sample.seconds
    finally:  # no later case is measured with lines
        aiotaskq.log.output("INFO", to="loguru")
        logger.remove(sink)
    return Sample(rates, seconds)


class LoopInThread:
    """An event loop in a thread of its own."""

    def __enter__(self) -> asyncio.AbstractEventLoop:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        return self._loop

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


# ---- a round trip ---------------------------------------------------------------------------------------------------


@LOOP.by(AIOTASKQ)
def loop_aiotaskq(run: Run) -> Sample:
    tasks = aiotaskq.sync.MemoryQueue()
    return from_threads(run, 1, tasks.paused)


@LOOP.by(LIMIT)
def loop_limit(run: Run) -> Sample:
    """Two threads that wake each other by locks: no round trip is shorter."""
    ping, pong = threading.Lock(), threading.Lock()
    ping.acquire()
    pong.acquire()

    def other() -> None:
        for _ in itertools.repeat(None, run.n):
            ping.acquire()
            pong.release()

    def call() -> None:
        ping.release()
        pong.acquire()

    thread = threading.Thread(target=other)
    thread.start()
    sample = from_threads(run, 1, call)
    thread.join()
    return sample


@LOOP.by("run_coroutine_threadsafe")
def loop_threadsafe(run: Run) -> Sample:
    async def nothing() -> None: ...

    with LoopInThread() as loop:
        return from_threads(run, 1, lambda: asyncio.run_coroutine_threadsafe(nothing(), loop).result())


# ---- the old program's loop -----------------------------------------------------------------------------------------


def life_aiotaskq() -> Callable[[], None]:
    return life(aiotaskq.sync.MemoryQueue())


def life_old() -> Callable[[], None]:
    return life(ThreadQueue())


def life(tasks: Any) -> Callable[[], None]:
    """Return a function that pushes a task, takes one, and says that it is done."""

    def cycle() -> None:
        tasks.push_task(TASK)
        while tasks.pop_task(timeout=0) is None:
            pass  # another thread was quicker
        tasks.task_done()

    return cycle


def life_standard() -> Callable[[], None]:
    tasks: queue.PriorityQueue[tuple[int, int, str, dict[str, Any]]] = queue.PriorityQueue()
    numbers = itertools.count()

    def cycle() -> None:
        tasks.put((0, next(numbers), str(uuid.uuid4()), TASK))
        tasks.get()
        tasks.task_done()

    return cycle


for _who, _life in ((AIOTASKQ, life_aiotaskq), ("old design", life_old), ("queue.PriorityQueue", life_standard)):
    CYCLE_ONE.by(_who)(lambda run, make=_life: from_threads(run, 1, make()))
    CYCLE.by(_who)(lambda run, make=_life: from_threads(run, 3, make()))


# ---- durable --------------------------------------------------------------------------------------------------------


@DURABLE.by(AIOTASKQ)
def durable_aiotaskq(run: Run) -> Sample:
    tasks = aiotaskq.sync.DatabaseQueue(f"sqlite:///{run.place}")
    tasks.open()
    try:
        return from_threads(run, 50, lambda: tasks.push_task(TASK))
    finally:
        tasks.close()
