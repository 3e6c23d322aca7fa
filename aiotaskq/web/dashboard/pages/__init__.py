"""Every page: each file registers its own."""

from __future__ import annotations

from aiotaskq.web.dashboard.pages import (
    gates,
    groups,
    overview,
    queues,
    schedules,
    settings,
    task,
    task_form,
    tasks,
    values,
)
from aiotaskq.web.dashboard.view import pages

__all__ = [
    "MENU",
    "gates",
    "groups",
    "overview",
    "pages",
    "queues",
    "schedules",
    "settings",
    "task",
    "task_form",
    "tasks",
    "values",
]

MENU = ("", "tasks", "queues", "gates", "groups", "schedules", "values", "settings")
"""The pages in the menu, in its order."""
