"""The reaper, run once by hand."""

from __future__ import annotations

from typing import Any

from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.runtime.queue.queue import Queue
from aiotaskq.runtime.worker.worker import Worker


async def reap(queue: Queue, backend: Any, clock: VirtualClock) -> None:
    await Worker(queue, backend, clock, {}).leases.reap()
