"""The reaper, run once by hand."""

from __future__ import annotations

from aiotaskq.runtime.queue.queue import Queue
from aiotaskq.runtime.worker.worker import Worker


async def reap(queue: Queue) -> None:
    await Worker(queue, {}).leases.reap()
