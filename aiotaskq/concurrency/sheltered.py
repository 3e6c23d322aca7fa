"""Coroutines that nobody cancels but the end of their loop."""

from __future__ import annotations

import asyncio
from typing import TypeVar

T = TypeVar("T")


class Sheltered(asyncio.Task[T]):
    """A task of ours, handed to nobody who might cancel it: what it awaits is cut short by the end of the loop alone.

    So a transaction in it needs no task and no shield of its own: of the eight rounds of the loop that a lone push on
    SQLite took, four.
    """


def is_sheltered() -> bool:
    """Whether this coroutine runs in such a task."""
    return isinstance(asyncio.current_task(), Sheltered)
