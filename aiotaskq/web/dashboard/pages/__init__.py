"""Every page: each file registers its own."""

from __future__ import annotations

from aiotaskq.web.dashboard.pages import gates, groups, overview, queues, schedules, task, tasks
from aiotaskq.web.dashboard.view import pages

__all__ = ["MENU", "gates", "groups", "overview", "pages", "queues", "schedules", "task", "tasks"]

MENU = ("", "tasks", "queues", "gates", "groups", "schedules")
"""The pages in the menu, in its order."""
