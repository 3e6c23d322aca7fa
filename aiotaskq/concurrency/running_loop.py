"""The event loop that the calling thread runs, or None."""

from __future__ import annotations

# The public get_running_loop() raises where no loop runs; the exception costs too much in calls that need none.
from asyncio import _get_running_loop as running_loop_or_none

__all__ = ["running_loop_or_none"]
