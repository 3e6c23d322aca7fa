"""The dashboard as an integration mounts it: only behind a check of its visitors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiotaskq.app.taskq import TaskQ
from aiotaskq.errors import ValidationError
from aiotaskq.web.policy import check_taskq

if TYPE_CHECKING:
    from aiotaskq.web.dashboard.site import Dashboard


def guarded_dashboard(tq: TaskQ, guarded: bool, how: str, **options: Any) -> Dashboard:
    """Return the pages, with the options of ``Dashboard``.

    Raises ValidationError for a dashboard that everybody could open, where ``how`` says what is needed, and for a task
    queue of ``aiotaskq.sync``.
    """
    check_taskq("dashboard", tq)
    if not guarded:
        raise ValidationError(f"dashboard: anybody could open it; give {how}")
    from aiotaskq.web.dashboard.site import Dashboard  # it needs jinja2, which the rest of an integration does not

    return Dashboard(tq, **options)
