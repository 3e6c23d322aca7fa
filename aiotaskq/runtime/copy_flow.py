"""Copies gates and groups from one store to another, beside the tasks (``runtime.copy``).

Gates are made first, closed and without ``max_waiting``: the tasks that hold slots of them may be copied after the ones
that wait. They get their own state after the last task; a copy that is interrupted leaves them closed, and the next one
goes on with them. Groups are copied before the tasks, so that no end of a member is missed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from msgspec.structs import asdict

from aiotaskq.backends.base import Backend
from aiotaskq.core.gate import Gate, GateChange
from aiotaskq.core.groups import GroupState, Member, Plan
from aiotaskq.log import printable

COPYING = 2**61
"""The ``closed_until`` of a gate whose tasks are being copied."""
MOST_GATES = 100_000
PAGE = 500


async def groups_of(backend: Backend) -> AsyncIterator[GroupState]:
    """Yield all groups, the newest first."""
    last: str | None = None
    while page := await backend.groups.find(PAGE, after=last):
        for group in page:
            yield group
        last = page[-1].group_id


async def conflicting_groups(source: Backend, target: Backend) -> list[str]:
    """Name the groups of the target that are others than those of the source with the same ids."""
    wrong: list[str] = []
    async for group in groups_of(source):
        (there,) = await target.groups.get([group.group_id])
        if there is not None and (there.created_at, there.name) != (group.created_at, group.name):
            wrong.append(f"group {printable(group.group_id)}")
    return wrong


async def copy_groups(source: Backend, target: Backend) -> tuple[int, int]:
    """Copy all groups with their numbers and members; return how many, and how many were there. Raises NotSupported."""
    copied = there = 0
    async for group in groups_of(source):
        members: list[Member] = []
        while page := await source.groups.members(group.group_id, PAGE, start=len(members)):
            members += page
        made = await target.groups.push(Plan(groups=(group,), members=tuple(members), tasks=()))
        copied += made
        there += not made
    return copied, there


async def close_gates(source: Backend, target: Backend, now: int) -> list[Gate]:
    """Make the gates of the source in the target, closed; return those that ``open_gates`` gives their state.

    One that is in the target stays as it is.
    """
    gates = [found.gate for found in await source.gates.find(limit=MOST_GATES)]
    known = {found.gate.key: found.gate for found in await target.gates.find([gate.key for gate in gates], MOST_GATES)}
    closed = []
    for gate in gates:
        there = known.get(gate.key)
        if there is None:
            bounds = asdict(gate.bounds) | {"max_waiting": None}
            await target.gates.change(gate.key, GateChange(bounds=bounds, closed_until=COPYING), now)
        if there is None or there.closed_until == COPYING:
            closed.append(gate)
    return closed


async def open_gates(target: Backend, gates: list[Gate], now: int) -> None:
    """Give gates the state that they have in the source: bounds, tokens taken, and until when they are closed."""
    for gate in gates:
        interval = gate.bounds.interval
        charge = 0 if interval is None or gate.tat <= now else -(-(gate.tat - now) // interval)
        state = GateChange(bounds=asdict(gate.bounds), closed_until=gate.closed_until, charge=charge)
        await target.gates.change(gate.key, state, now)
        if not gate.fixed:
            await target.gates.change(gate.key, GateChange(declared=True), now)
