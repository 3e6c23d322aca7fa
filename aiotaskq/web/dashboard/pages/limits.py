"""Limits, rates and fair shares: their bounds, how many tasks they hold, and how many wait."""

from __future__ import annotations

import msgspec

from aiotaskq.core.instants import to_iso
from aiotaskq.core.task import Status, Task
from aiotaskq.web.dashboard.operated import Operated
from aiotaskq.web.dashboard.rows import LimitRow, limit_row
from aiotaskq.web.dashboard.view import View, operated_on, pages
from aiotaskq.web.dashboard.words import marked

ROWS = 200
LISTED = 20
"""Tasks that are listed of those that hold a limit, and of those that wait."""


class LimitRows(msgspec.Struct):
    """The data of the page."""

    limits: list[LimitRow]
    key: str
    """The filter: only limits whose keys begin so."""
    more: bool


@pages("limits", marked("Limits"), "key")
async def limits(view: View) -> LimitRows:
    """Read the limits by their keys."""
    key = view.text("key") or ""
    found = await view.tq.limits.list(ROWS + 1, prefix=key)
    return LimitRows([limit_row(each) for each in found[:ROWS]], key, len(found) > ROWS)


class AtLimit(msgspec.Struct):
    """A task at a limit. Instants are RFC 3339."""

    task_id: str
    type: str
    status: str
    since: str | None
    """When it was claimed, or when it is due."""


class LimitPage(msgspec.Struct):
    """The data of one limit's page."""

    row: LimitRow
    holding: list[AtLimit]
    """Some of the tasks that hold a slot."""
    waiting: list[AtLimit]
    """The first ones of those that wait."""
    changes: list[Operated]
    """What operators did with it, the latest first."""


@pages("limit", marked("Limit"), "key", section="limits")
async def limit(view: View) -> LimitPage:
    """Read one limit. Raises NotFound."""
    key = view.needed("key")
    row = limit_row(await view.tq.limits.get(key))
    held, waiting = await view.tq.limits.tasks(key, LISTED)
    rows = {task.task_id: task for task in await view.tq.queue.backend.get([*held, *waiting]) if task is not None}
    holding, waits = ([_at_limit(rows[each]) for each in ids if each in rows] for ids in (held, waiting))
    return LimitPage(row, holding, waits, await operated_on(view, key, ("limits",)))


def _at_limit(task: Task) -> AtLimit:
    since = task.began_at if task.status is Status.RUNNING else task.due
    return AtLimit(task.task_id, task.type, str(task.status), to_iso(since))
