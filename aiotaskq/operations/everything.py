"""Every operation, by its name."""

from __future__ import annotations

from aiotaskq.operations.audit import audit
from aiotaskq.operations.events import events
from aiotaskq.operations.failures import failures
from aiotaskq.operations.groups import groups
from aiotaskq.operations.history import history
from aiotaskq.operations.limits import limits
from aiotaskq.operations.queues import queues, stats
from aiotaskq.operations.scale import scale
from aiotaskq.operations.schedules import schedules
from aiotaskq.operations.table import Operation, Operations
from aiotaskq.operations.tasks import tasks
from aiotaskq.operations.values import values
from aiotaskq.operations.workers import workers

NOUNS: tuple[Operations, ...]
NOUNS = (tasks, failures, schedules, queues, groups, limits, workers, events, values, history, audit, stats, scale)
OPERATIONS: dict[str, Operation] = {each.name: each for nouns in NOUNS for each in nouns.values()}
