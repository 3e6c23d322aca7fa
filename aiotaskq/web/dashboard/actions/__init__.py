"""What can be changed: each file registers the actions on one kind of thing."""

from __future__ import annotations

from aiotaskq.web.dashboard.actions import events, groups, limits, many_tasks, queues, schedules, tasks, values, workers
from aiotaskq.web.dashboard.view import actions

__all__ = ["actions", "events", "groups", "limits", "many_tasks", "queues", "schedules", "tasks", "values", "workers"]
