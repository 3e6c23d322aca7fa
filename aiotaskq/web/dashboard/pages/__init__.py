"""Every page: each file registers its own."""

from __future__ import annotations

from aiotaskq.web.dashboard.pages import gates, overview, queues, task, tasks
from aiotaskq.web.dashboard.view import pages

__all__ = ["MENU", "gates", "overview", "pages", "queues", "task", "tasks"]

MENU = ("", "tasks", "queues", "gates")
"""The pages in the menu, in its order."""
