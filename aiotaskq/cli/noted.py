"""How commands tell of what they have changed: as the dashboard and the operations API do, in the audit log."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Awaitable, Mapping
from typing import Any

from aiotaskq.app.taskq import TaskQ
from aiotaskq.runtime.audit import audit


async def noted(tq: TaskQ, action: str, *targets: str) -> None:
    """Tell of a change that was made."""
    await audit(tq.queue, "cli", action, actor(), targets)


async def counted(tq: TaskQ, action: str, where: Mapping[str, Any], change: Awaitable[int]) -> int:
    """Await a change of the tasks that match, tell of it, also where an error stops it, and return how many."""
    words = " ".join(f"{name}={_word(value)}" for name, value in where.items()) or "all"
    try:
        count = await change
    except BaseException as error:  # an interrupted command, too, has done what it has done
        await noted(tq, action, f"filter: {words}", f"stopped by: {type(error).__name__}")
        raise
    if count:
        await noted(tq, action, f"filter: {words}", f"count: {count}")
    return count


def actor() -> str:
    """Return the user and the host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container may have no name for its user
        user = str(os.getuid()) if hasattr(os, "getuid") else "?"
    return f"{user}@{socket.gethostname()}"


def _word(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
