"""The gates of limits, rates and fair shares: bounds, how many tasks they hold, and how many wait."""

from __future__ import annotations

import msgspec

from aiotaskq.core.instants import to_iso
from aiotaskq.core.task import Status, Task
from aiotaskq.web.dashboard.operated import Operated
from aiotaskq.web.dashboard.rows import GateRow, gate_row
from aiotaskq.web.dashboard.view import View, operated_on, pages
from aiotaskq.web.dashboard.words import marked

ROWS = 200
LISTED = 20
"""Tasks that are listed of those that hold a gate, and of those that wait."""


class GateRows(msgspec.Struct):
    """The data of the page."""

    gates: list[GateRow]
    key: str
    """The filter: only gates whose keys begin so."""
    more: bool


@pages("gates", marked("Gates"), "key")
async def gates(view: View) -> GateRows:
    """Read the gates by their keys."""
    key = view.text("key") or ""
    found = await view.tq.limits.list(ROWS + 1, prefix=key)
    return GateRows([gate_row(each, view.now) for each in found[:ROWS]], key, len(found) > ROWS)


class AtGate(msgspec.Struct):
    """A task at a gate. Instants are RFC 3339."""

    task_id: str
    type: str
    status: str
    since: str | None
    """When it was claimed, or when it is due."""


class GatePage(msgspec.Struct):
    """The data of one gate's page."""

    gate: GateRow
    holding: list[AtGate]
    """Some of the tasks that hold a slot."""
    waiting: list[AtGate]
    """The first ones of those that wait."""
    changes: list[Operated]
    """What operators did with it, the latest first."""


@pages("gate", marked("Gate"), "key", section="gates")
async def gate(view: View) -> GatePage:
    """Read one gate. Raises NotFound."""
    key = view.needed("key")
    row = gate_row(await view.tq.limits.get(key), view.now)
    held, waiting = await view.tq.limits.tasks(key, LISTED)
    rows = {task.task_id: task for task in await view.tq.queue.backend.get([*held, *waiting]) if task is not None}
    holding, waits = ([_at_gate(rows[each]) for each in ids if each in rows] for ids in (held, waiting))
    return GatePage(row, holding, waits, await operated_on(view, key, ("gate", "limit")))


def _at_gate(task: Task) -> AtGate:
    since = task.began_at if task.status is Status.RUNNING else task.due
    return AtGate(task.task_id, task.type, str(task.status), to_iso(since))
