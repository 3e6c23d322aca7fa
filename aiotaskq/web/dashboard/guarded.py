"""The dashboard as an integration mounts it: only behind a check of its visitors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiotaskq.app.taskq import TaskQ, check_taskq
from aiotaskq.errors import ValidationError
from aiotaskq.web.dashboard.reply import CheckUser

if TYPE_CHECKING:
    from aiotaskq.web.dashboard.site import Dashboard


def guarded_dashboard(
    tq: TaskQ, guarded: bool, how: str, *, login: CheckUser | None, secret: str | None, **options: Any
) -> Dashboard:
    """Return the pages, with the options of ``Dashboard``.

    Raises ValidationError for a dashboard that everybody could open, where ``how`` says what is needed, for one of
    ``login`` and ``secret`` alone, for a weak secret, and for a task queue of ``aiotaskq.sync``.
    """
    check_taskq("dashboard", tq)
    if not guarded and login is None:
        raise ValidationError(f"dashboard: anybody could open it; give {how}, or login=…")
    if (login is None) != (secret is None):
        raise ValidationError(
            "login, secret: give both; login checks a user name and a password, secret signs the sessions, the same "
            "text in every process"
        )
    # They need jinja2, which the rest of an integration does not.
    from aiotaskq.web.dashboard.login import UserLogin
    from aiotaskq.web.dashboard.site import Dashboard

    found = None if login is None or secret is None else UserLogin(login, secret)
    return Dashboard(tq, login=found, **options)
