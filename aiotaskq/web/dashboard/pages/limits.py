"""Limits, rates and fair shares: their bounds, how many tasks they hold, and how many wait."""

from __future__ import annotations

import math
from typing import Any

from aiotaskq.core.instants import to_iso
from aiotaskq.core.status import Status
from aiotaskq.core.task import Task
from aiotaskq.errors import ValidationError
from aiotaskq.operations.limits import limits as operations
from aiotaskq.web.dashboard.view import View, action, number, operated_on, page
from aiotaskq.web.dashboard.words import marked

ROWS = 200
LISTED = 20
"""Tasks that are listed of those that hold a limit, and of those that wait."""


@page("limits", marked("Limits"), "key")
async def limits(view: View) -> dict[str, Any]:
    """Read the limits by their keys."""
    key = view.text("key") or ""
    found = await view.perform(operations["list"], {"limit": ROWS, "prefix": key})
    return {"limits": found.limits, "key": key, "more": found.more}


@page("limit", marked("Limit"), "key", section="limits")
async def limit(view: View) -> dict[str, Any]:
    """Read one limit. Raises NotFound."""
    key = view.needed("key")
    found = await view.perform(operations["get"], {"key": key})
    held, waiting = await view.tq.limits.tasks(key, LISTED)
    rows = {task.task_id: task for task in await view.tq.queue.backend.get([*held, *waiting]) if task is not None}
    holding, waits = ([_at_limit(rows[each]) for each in ids if each in rows] for ids in (held, waiting))
    changes = await operated_on(view, key, ("limits",))
    return {"limit": found, "holding": holding, "waiting": waits, "changes": changes}


def _at_limit(task: Task) -> dict[str, Any]:
    """Return a task, and since when it runs or is due."""
    since = to_iso(task.began_at if task.status is Status.RUNNING else task.due_us)
    return {"task_id": task.task_id, "type": task.type, "status": task.status, "since": since}


def _bounds(view: View) -> dict[str, Any]:
    """Return the bounds of the form; an empty field takes one away."""
    given: dict[str, Any] = {name: view.text(name) for name in ("key", "cap", "window", "max_waiting", "rate")}
    burst = view.text("burst")
    if given["rate"] is not None:
        given["rate"], given["per"] = _rate(number("rate", given["rate"]))
        if burst is not None:
            given["burst"] = burst
    elif burst is not None:
        raise ValidationError("burst: it is about a rate; give that, too")
    return given


def _rate(rate: float) -> tuple[int, float]:
    """Return tokens and seconds of a rate of a form, which holds six digits of what was set: it must stay the same."""
    near = round(rate, 3)  # a limit has whole microseconds for each token: 3 per second is shown as 2.99999
    if math.isclose(near, rate, rel_tol=1e-5):
        rate = near
    return (int(rate), 1.0) if rate.is_integer() else (1, 1 / rate)


action(operations["pause"], marked("The limit {key} is paused."), asks=True)
action(operations["resume"], marked("The limit {key} lets tasks pass."))
action(operations["reset"], marked("The limit {key} takes the bounds that pushes declare."))
action(operations["set"], marked("The bounds of the limit {key} are set."), values=_bounds)
