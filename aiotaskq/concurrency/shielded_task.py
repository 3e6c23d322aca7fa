"""Tasks shielded from cancellation: no code that might cancel them has them, so only the end of their loop does."""

from __future__ import annotations

import asyncio
from typing import TypeVar

T = TypeVar("T")


class ShieldedTask(asyncio.Task[T]):
    """An asyncio task that is given to no code that might cancel it; only the end of the loop does.

    A transaction in it needs no task and no ``asyncio.shield`` of its own, which saves iterations of the loop.
    """


def in_shielded_task() -> bool:
    """Whether the running coroutine is in a ShieldedTask."""
    return isinstance(asyncio.current_task(), ShieldedTask)
