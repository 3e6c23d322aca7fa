"""The records that calls return, and the types of what they take: for annotations.

The blocking twins of the handles are in ``aiotaskq.sync.types``.
"""

from __future__ import annotations

from aiotaskq.app.groups import GroupHandle
from aiotaskq.app.handle import BoundTask, PushOptions, TaskCall, TaskFunction, TaskHandle
from aiotaskq.app.registry import TaskOptions
from aiotaskq.app.schedules import Schedules
from aiotaskq.backends.base import InvalidRow
from aiotaskq.core.firing_record import FiringRecord
from aiotaskq.core.groups import GroupState
from aiotaskq.core.history import Period
from aiotaskq.core.notes import LogEntry
from aiotaskq.core.schedule import Schedule, ScheduleOptions
from aiotaskq.core.steps import EventValue, Step
from aiotaskq.core.stopping import ExitCode
from aiotaskq.core.task import Attempt, Filters, Task
from aiotaskq.core.worker_info import RunStack, WorkerInfo, WorkerStack
from aiotaskq.runtime.context import TaskContext
from aiotaskq.runtime.fleet import Workers
from aiotaskq.runtime.hooks import HookCall
from aiotaskq.runtime.limits import Limits, LimitState
from aiotaskq.runtime.queue.groups import GroupProgress, MemberResult
from aiotaskq.runtime.queue.operations import Stats
from aiotaskq.runtime.queue.pushes import TaskChanges
from aiotaskq.web.policy import DashboardOptions, OperationsOptions, RunningOptions

__all__ = [
    "Attempt",
    "BoundTask",
    "DashboardOptions",
    "EventValue",
    "ExitCode",
    "Filters",
    "FiringRecord",
    "GroupHandle",
    "GroupProgress",
    "GroupState",
    "HookCall",
    "InvalidRow",
    "LimitState",
    "Limits",
    "LogEntry",
    "MemberResult",
    "OperationsOptions",
    "Period",
    "PushOptions",
    "RunStack",
    "RunningOptions",
    "Schedule",
    "ScheduleOptions",
    "Schedules",
    "Stats",
    "Step",
    "Task",
    "TaskCall",
    "TaskChanges",
    "TaskContext",
    "TaskFunction",
    "TaskHandle",
    "TaskOptions",
    "WorkerInfo",
    "WorkerStack",
    "Workers",
]
