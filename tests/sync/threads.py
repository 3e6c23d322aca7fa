"""Threads for the tests of the blocking twin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.support.machine import watchdog
from tests.support.threads import in_thread

PROMPT = 0.5  # seconds; what is woken at once takes milliseconds, and a poll 60 seconds


def from_thread(fn: Callable[[], Any]) -> Any:
    return in_thread(fn).result(watchdog())
