"""Virtual time that passes while a scheduler runs."""

from __future__ import annotations

from typing import Any

from aiotaskq import TaskQ
from aiotaskq.concurrency.clock import VirtualClock

START = 1_700_000_000_000_000


async def passes(tq: TaskQ, clock: VirtualClock, seconds: float, step: float = 1.0) -> None:
    """Let time pass, with a look of the scheduler at every step."""
    for _ in range(round(seconds / step)):
        clock.step(step)
        await tq._scheduler._look()


async def fired(tq: TaskQ) -> list[Any]:
    return sorted(await tq.find(limit=10_000), key=lambda task: task.run_at)
