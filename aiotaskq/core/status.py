"""The states of a task."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, TypeAlias


class Status(StrEnum):
    """The state of a task. A delayed task, and one that waits for its retry, is ``pending`` with a later ``run_at``."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    __hash__ = str.__hash__  # the hash of Enum is a Python function, and sets of statuses are asked about each task


StatusName: TypeAlias = Status | Literal["pending", "running", "completed", "failed", "cancelled", "expired"]
"""A status, or its name."""

FINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.EXPIRED})
"""The statuses of tasks that have ended."""

# As global names for code that runs for each task: on Python 3.11 `Status.PENDING` is a function call.
PENDING, RUNNING, COMPLETED, FAILED = Status.PENDING, Status.RUNNING, Status.COMPLETED, Status.FAILED
