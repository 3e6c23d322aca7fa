"""The blocking facade: what a call from a thread costs, beside the ways that the standard library has."""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
import uuid
from collections.abc import Callable
from typing import Any

import aiotaskq.sync
from benchmarks.case import AIOTASKQ, LIMIT, Run, Sample, Unit, rate, scenario
from benchmarks.old_design import ThreadQueue
from benchmarks.system import in_threads

CALLS = {"rate": Unit("calls/s")}
TASK = {"type": "work", "params": {"at": 0.0}}
PUSH = scenario("facade", "push", "push into memory, from one thread", CALLS, start=1_000)
LOOP = scenario("facade", "loop", "a call that needs the event loop", CALLS, start=500)
CYCLE = scenario("facade", "cycle", "push, pop and task_done, in three threads", {"rate": Unit("tasks/s")}, start=500)
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


# ---- push -----------------------------------------------------------------------------------------------------------


@PUSH.by(AIOTASKQ)
def push_aiotaskq(run: Run) -> Sample:
    tasks = aiotaskq.sync.MemoryQueue()
    return from_threads(run, 1, lambda: tasks.push_task(TASK))


@PUSH.by("queue.Queue")
def push_standard(run: Run) -> Sample:
    tasks: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()
    return from_threads(run, 1, lambda: tasks.put((str(uuid.uuid4()), TASK)))


@PUSH.by("old design")
def push_old(run: Run) -> Sample:
    tasks = ThreadQueue()
    return from_threads(run, 1, lambda: tasks.push_task(TASK))


@PUSH.by("run_coroutine_threadsafe")
def push_threadsafe(run: Run) -> Sample:
    with LoopInThread() as loop:
        tasks: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()

        def push() -> None:
            asyncio.run_coroutine_threadsafe(tasks.put((str(uuid.uuid4()), TASK)), loop).result()

        return from_threads(run, 1, push)


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


@CYCLE.by(AIOTASKQ)
def cycle_aiotaskq(run: Run) -> Sample:
    tasks = aiotaskq.sync.MemoryQueue()

    def cycle() -> None:
        tasks.push_task(TASK)
        while tasks.pop_task(timeout=0) is None:
            pass  # another thread was quicker
        tasks.task_done()

    return from_threads(run, 3, cycle)


@CYCLE.by("old design")
def cycle_old(run: Run) -> Sample:
    tasks = ThreadQueue()

    def cycle() -> None:
        tasks.push_task(TASK)
        while tasks.pop_task(timeout=0) is None:
            pass
        tasks.task_done()

    return from_threads(run, 3, cycle)


# ---- durable --------------------------------------------------------------------------------------------------------


@DURABLE.by(AIOTASKQ)
def durable_aiotaskq(run: Run) -> Sample:
    tasks = aiotaskq.sync.DatabaseQueue(f"sqlite:///{run.place}")
    tasks.open()
    try:
        return from_threads(run, 50, lambda: tasks.push_task(TASK))
    finally:
        tasks.close()
