"""The gates of limits, rates and fair shares: bounds, how many tasks they hold, and how many wait."""

from __future__ import annotations

import msgspec

from aiotaskq.runtime.limits import LimitState
from aiotaskq.runtime.waiting import ENDLESS
from aiotaskq.web.dashboard.view import View, pages
from aiotaskq.web.dashboard.words import marked
from aiotaskq.web.schemas.limits import LimitView
from aiotaskq.web.views import limit_view

ROWS = 200


class GateRow(msgspec.Struct):
    """One gate."""

    limit: LimitView
    share: float | None
    """How full it is, from 0 to 1; None where nothing bounds what it holds."""
    closed: bool
    endless: bool
    """Whether it is closed until it is opened."""


class GateRows(msgspec.Struct):
    """The data of the page."""

    gates: list[GateRow]
    key: str
    """The filter: only gates whose keys begin so."""
    more: bool


def gate_row(state: LimitState, now: int) -> GateRow:
    """Return the row of a gate; ``now`` in microseconds UTC."""
    bounds = [each for each in (state.cap, state.window) if each is not None]
    most = min(bounds, default=None)
    left = 0 if state.closed_until is None else state.closed_until - now
    share = None if most is None else min(1.0, state.held / most) if most else 1.0
    return GateRow(limit_view(state), share, left > 0, left > ENDLESS)


@pages("gates", marked("Gates"), "key")
async def gates(view: View) -> GateRows:
    """Read the gates by their keys."""
    key = view.text("key") or ""
    found = await view.tq.limits.list(ROWS + 1, prefix=key)
    return GateRows([gate_row(each, view.now) for each in found[:ROWS]], key, len(found) > ROWS)


class GatePage(msgspec.Struct):
    """The data of one gate's page."""

    gate: GateRow


@pages("gate", marked("Gate"), "key", section="gates")
async def gate(view: View) -> GatePage:
    """Read one gate. Raises NotFound."""
    return GatePage(gate_row(await view.tq.limits.get(view.needed("key")), view.now))
