"""The queue in memory: aiotaskq, the limit of asyncio, the old design; and what a waiting task takes of the memory."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import queue
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from benchmarks.aiotaskq import Aiotaskq
from benchmarks.case import AIOTASKQ, LIMIT, Run, Sample, Unit, scenario
from benchmarks.loops import running
from benchmarks.old_design import ThreadQueue, Workers
from benchmarks.queues import contestant, opened, push_and_run
from benchmarks.system import System, ThreadSystem


@contestant
class AiotaskqInMemory(Aiotaskq):
    family = "memory"
    note = "TaskQ('memory://')"

    def url(self) -> str:
        return "memory://"

    async def unfinished(self) -> bool:
        counts = (await self.tq.stats()).counts  # kept as it goes; to find tasks would look at each
        return bool(counts.get("pending") or counts.get("running"))


@contestant
class AsyncioQueue(System):
    """Nothing but ids, a queue and a table of handlers."""

    who = LIMIT
    family = "memory"
    note = "asyncio.Queue, uuid4, handlers by name in a dict"

    async def open(self) -> None:
        self.queue: asyncio.Queue[tuple[str, str, dict[str, Any]]] = asyncio.Queue()

        async def work(at: float = 0.0) -> None:
            self.tally.hit(at)

        self.handlers: dict[str, Callable[..., Awaitable[None]]] = {"work": work}

    async def push(self, at: float = 0.0) -> None:
        await self.queue.put((str(uuid.uuid4()), "work", {"at": at}))

    async def push_many(self, count: int) -> None:
        for _ in range(count):
            self.queue.put_nowait((str(uuid.uuid4()), "work", {"at": 0.0}))

    async def _worker(self) -> None:
        while True:
            _id, name, params = await self.queue.get()
            await self.handlers[name](**params)
            self.queue.task_done()

    def working(self, concurrency: int) -> AbstractAsyncContextManager[Any]:
        return running(self.tally, *[self._worker] * concurrency)

    async def unfinished(self) -> bool:
        return not self.queue.empty()


@contestant
class OldThreads(ThreadSystem):
    who = "old design"
    family = "memory"
    note = "queue.PriorityQueue, uuid4, worker threads (benchmarks/old_design.py)"
    without = ("push.bulk", "backlog")

    async def open(self) -> None:
        self.queue = ThreadQueue()

    def push_now(self, at: float = 0.0) -> None:
        self.queue.push_task({"type": "work", "params": {"at": at}})

    @contextlib.asynccontextmanager
    async def working(self, concurrency: int) -> AsyncIterator[None]:
        workers = Workers(self.queue, {"work": self.tally.hit}, concurrency)
        try:
            yield
        finally:
            await asyncio.to_thread(workers.stop)

    async def unfinished(self) -> bool:
        return not self.queue.is_empty()


# ---- fewer threads --------------------------------------------------------------------------------------------------

THREADS = scenario("memory", "run.threads", "… in three threads", {"rate": Unit("tasks/s")}, start=200)


class _ThreeThreads(OldThreads):
    """Threads disturb each other: where tasks are quick, few are faster than many, and a plain queue than a heap."""

    async def open(self) -> None:
        self.queue = ThreadQueue(queue.Queue())

    def working(self, concurrency: int) -> AbstractAsyncContextManager[None]:
        return super().working(3)


@THREADS.by("old design")
async def old_threads(run: Run) -> Sample:
    return await push_and_run(_ThreeThreads, run)


# ---- with a timeout on each task ------------------------------------------------------------------------------------

TIMED = scenario("memory", "run.timeout", "… with a timeout on each task", {"rate": Unit("tasks/s")}, start=200)


class _AiotaskqTimed(AiotaskqInMemory):
    timeout = 30.0


class _AsyncioTimed(AsyncioQueue):
    async def open(self) -> None:
        await super().open()
        bare = self.handlers["work"]

        async def work(at: float = 0.0) -> None:
            async with asyncio.timeout(30.0):
                await bare(at)

        self.handlers["work"] = work


@TIMED.by(AIOTASKQ)
async def ours_timed(run: Run) -> Sample:
    return await push_and_run(_AiotaskqTimed, run)


@TIMED.by(LIMIT)
async def asyncio_timed(run: Run) -> Sample:
    return await push_and_run(_AsyncioTimed, run)


# ---- memory ---------------------------------------------------------------------------------------------------------

WEIGHT = scenario(
    "memory",
    "weight",
    "memory of a waiting task, of 100,000",
    {"bytes": Unit("bytes", less=True)},
    size=100_000,
    fresh=True,
)


async def _weight(kind: type[System], run: Run) -> Sample:
    import psutil

    count = max(run.n, 20_000)  # of fewer one would measure the allocator
    async with opened(kind, "") as system:
        await system.push()
        gc.collect()
        before = psutil.Process().memory_full_info().uss
        for _ in range(count):
            await system.push()
        gc.collect()
        return Sample({"bytes": (psutil.Process().memory_full_info().uss - before) / count})


@WEIGHT.by(AIOTASKQ, "psutil")
async def ours_weight(run: Run) -> Sample:
    return await _weight(AiotaskqInMemory, run)


@WEIGHT.by(LIMIT, "psutil")
async def asyncio_weight(run: Run) -> Sample:
    return await _weight(AsyncioQueue, run)


@WEIGHT.by("old design", "psutil")
async def old_weight(run: Run) -> Sample:
    return await _weight(OldThreads, run)
