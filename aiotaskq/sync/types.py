"""The blocking twins of the types in ``aiotaskq.types`` that have methods to wait for: for annotations."""

from __future__ import annotations

from aiotaskq.sync.facades import Limits, Workers
from aiotaskq.sync.taskq import BoundTask, GroupHandle, Schedules, TaskContext, TaskFunction, TaskHandle

__all__ = ["BoundTask", "GroupHandle", "Limits", "Schedules", "TaskContext", "TaskFunction", "TaskHandle", "Workers"]
