"""A task that was popped by hand and not settled yet, and whose it is."""

from __future__ import annotations

import asyncio
import threading
import weakref
from typing import Any

import msgspec

from aiotaskq.task import Task


class OpenPop(msgspec.Struct):
    """A task that was popped and not settled yet. ``given_back`` once its id was pushed again (the retry recipe)."""

    task: Task
    owner: weakref.ref[Any]
    given_back: bool = False

    def orphaned(self) -> bool:
        """Whether the coroutine or thread that popped it has ended."""
        owner = self.owner()
        if isinstance(owner, asyncio.Task):
            return owner.done()
        return owner is None or (isinstance(owner, threading.Thread) and not owner.is_alive())
