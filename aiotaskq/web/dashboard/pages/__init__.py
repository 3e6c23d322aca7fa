"""Every page, and what can be changed there: each file registers its own."""

from __future__ import annotations

from aiotaskq.web.dashboard.pages import (
    activity,
    events,
    groups,
    limits,
    overview,
    queues,
    schedules,
    settings,
    task,
    tasks,
    types,
    values,
    workers,
)
from aiotaskq.web.dashboard.view import actions, pages

__all__ = [
    "MENU",
    "actions",
    "activity",
    "events",
    "groups",
    "limits",
    "overview",
    "pages",
    "queues",
    "schedules",
    "settings",
    "task",
    "tasks",
    "types",
    "values",
    "workers",
]

MENU = (
    "",
    "tasks",
    "types",
    "queues",
    "workers",
    "limits",
    "groups",
    "schedules",
    "events",
    "values",
    "activity",
    "settings",
)
"""The pages in the menu, in its order."""
