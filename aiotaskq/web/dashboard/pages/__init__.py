"""Every page, and what can be changed there: each file registers its own."""

from __future__ import annotations

from aiotaskq.web.dashboard.pages import (
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
    waits,
    workers,
)
from aiotaskq.web.dashboard.view import actions, pages

__all__ = [
    "MENU",
    "actions",
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
    "waits",
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
    "waits",
    "values",
    "events",
    "settings",
)
"""The pages in the menu, in its order."""
