"""Threads for the tests of the blocking twin."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable
from typing import Any

from tests.support.machine import watchdog

PROMPT = 0.5  # seconds; what is woken at once takes milliseconds, and a poll 60 seconds


def in_thread(fn: Callable[[], Any]) -> concurrent.futures.Future[Any]:
    """Run ``fn`` in a daemon thread of its own; the future holds how it ended."""
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def body() -> None:
        try:
            future.set_result(fn())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=body, daemon=True).start()
    return future


def from_thread(fn: Callable[[], Any]) -> Any:
    return in_thread(fn).result(watchdog())
