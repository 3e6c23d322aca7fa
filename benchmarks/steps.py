"""What a step costs beside a push: the same number of each, by as many workflows or producers at a time."""

from __future__ import annotations

import asyncio
import time

from aiotaskq import TaskQ, step
from benchmarks.case import Run, Sample

WORKFLOWS = 50


async def _value(number: int) -> int:
    return number


async def steps(url: str, run: Run) -> Sample:
    """Return how many pushes and steps a second there are; the measured seconds are those of the steps."""
    each = max(1, run.n // WORKFLOWS)
    tq = TaskQ(url, history=False)
    here, begin, ended = 0, asyncio.Event(), 0

    @tq.task
    async def flow(count: int) -> None:
        nonlocal here, ended
        here += 1
        if here == WORKFLOWS:
            begin.set()
        await begin.wait()
        for number in range(count):
            await step("step", _value, number)
        ended += 1

    @tq.task
    async def later(number: int) -> None: ...

    async def producer() -> None:
        for number in range(each):
            await tq.push("later", {"number": number}, queue="later")

    async with tq:
        start = time.perf_counter()
        await asyncio.gather(*(producer() for _ in range(WORKFLOWS)))
        pushed = time.perf_counter() - start
        async with tq.running(concurrency=WORKFLOWS, queues=["default"], scheduler=False):
            handles = await tq.push_many([("flow", {"count": each})] * WORKFLOWS)
            await begin.wait()
            start = time.perf_counter()
            await asyncio.gather(*(handle.result() for handle in handles))
            seconds = time.perf_counter() - start
    done = each * WORKFLOWS
    return Sample({"push": done / pushed, "step": done / seconds}, seconds)
