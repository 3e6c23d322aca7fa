"""Tasks that are cancelled only by the end of their loop."""

from __future__ import annotations

import asyncio
from typing import TypeVar

T = TypeVar("T")


class Sheltered(asyncio.Task[T]):
    """An asyncio task that is given to no code that might cancel it; only the end of the loop does.

    A transaction in it needs no task and no ``asyncio.shield`` of its own, which saves iterations of the loop.
    """


def is_sheltered() -> bool:
    """Whether the running coroutine is in a Sheltered task."""
    return isinstance(asyncio.current_task(), Sheltered)
