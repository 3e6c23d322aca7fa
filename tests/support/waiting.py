"""Waits for what other coroutines, threads or processes do, on the real clock."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

from tests.support.machine import within

MOST = 0.05
"""Seconds between two looks at a store or a process, once there were many: each of them costs CPU time."""


async def eventually(condition: Callable[[], Any], seconds: float = 40.0, pause: float = 0.005) -> None:
    """Return when the condition, which may be a coroutine function, is true; raise TimeoutError otherwise.

    The seconds are those of a quiet machine; ``pause`` is the time between two looks, the first two if it is a
    coroutine function.
    """
    async with asyncio.timeout(within(seconds)):
        while True:
            answer = condition()
            if inspect.isawaitable(answer):
                answer, pause = await answer, _longer(pause)
            if answer:
                return
            await asyncio.sleep(pause)


def wait_until(condition: Callable[[], Any], seconds: float = 40.0, pause: float = 0.01) -> None:
    """Block until the condition is true; fail the test otherwise. As ``eventually``, for threads."""
    end = time.monotonic() + within(seconds)
    while not condition():
        assert time.monotonic() < end, "the condition has not become true"
        time.sleep(pause)
        pause = _longer(pause)


def _longer(pause: float) -> float:
    return max(pause, min(pause * 1.2, MOST))
