"""Mends what rows leave behind that other programs deleted: counts of groups, and gates that nothing opens."""

from __future__ import annotations

import msgspec

from aiotaskq.backends.base import Backend
from aiotaskq.core.gate import GateState

MOST_GATES = 100_000


class Mended(msgspec.Struct, frozen=True):
    """What was mended: how many counts of groups and children, and the keys of gates at which tasks waited in vain."""

    counts: int
    gates: list[str]


async def mend(backend: Backend, now: int) -> Mended:
    """Count groups anew, and make the gates due that have room for tasks that wait, and that no sweep would look at.

    None while a queue is paused, whose tasks wait at gates with room.
    """
    counts = await backend.groups.mend(now)
    states = [] if await backend.paused() else await backend.gates.find(limit=MOST_GATES)
    stuck = sorted(state.gate.key for state in states if _is_stuck(state))
    if stuck:
        await backend.gates.mend(now)
    return Mended(counts, stuck)


def _is_stuck(state: GateState) -> bool:
    bounds = state.gate.bounds
    full = any(bound is not None and state.held >= bound for bound in (bounds.cap, bounds.window))
    return state.waiting > 0 and state.gate.next_at is None and not full
