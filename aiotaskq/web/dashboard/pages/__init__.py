"""Every page: each file registers its own."""

from __future__ import annotations

from aiotaskq.web.dashboard.pages import gates, groups, overview, queues, task, tasks
from aiotaskq.web.dashboard.view import pages

__all__ = ["MENU", "gates", "groups", "overview", "pages", "queues", "task", "tasks"]

MENU = ("", "tasks", "queues", "gates", "groups")
"""The pages in the menu, in its order."""
