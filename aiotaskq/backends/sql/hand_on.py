"""The statements by which an exchange hands the slots of a gate on: they claim the first tasks that wait there."""

from __future__ import annotations

import functools
from typing import Any, Final

from sqlalchemy import Connection, String, and_, bindparam, false, func, or_, select
from sqlalchemy.sql.elements import ColumnElement

from aiotaskq.backends.sql.claim import Claim
from aiotaskq.backends.sql.claim_statements import queue_values
from aiotaskq.backends.sql.dialects import dialect_of
from aiotaskq.backends.sql.gate_statements import ALIVE, NOW, OPEN, ORDER, STILL, TAKE, WAITS, held_of
from aiotaskq.backends.sql.rows import TASKS
from aiotaskq.core.gate import Room

c = TASKS.c

_KEY: Final = bindparam("key_", type_=String)
_HELD: Final = held_of(_KEY)
_WAITING: Final = select().select_from(TASKS).where(*WAITS, OPEN).order_by(*ORDER)
# The same, and below what else it must be, without a column by which a plan could find rows: it has their places.
_STILL: Final = (func.coalesce(c.live_gate, "") == _KEY, *STILL, OPEN)


@functools.cache
def _good(queues: int | None) -> ColumnElement[bool]:
    names = None if queues is None else [bindparam(f"queue_{number}", type_=String) for number in range(queues)]
    of_claim = [] if names is None else [or_(false(), *(func.coalesce(c.queue, "") == name for name in names))]
    return and_(func.coalesce(c.due_at, 0) <= NOW, ALIVE, c.flow == bindparam("flow", type_=String), *of_claim)


def take_first(
    connection: Connection, key: str, room: Room, flow: str, floor: int, claim: Claim
) -> tuple[int, int, list[Any]] | None:
    """Claim the first tasks that wait at a gate, which is locked, if they all are due and have this flow.

    Return how many tasks held a slot, how many there were for the others, and those that were claimed, as rows of
    ``READ``. None, and nothing is claimed, where the database cannot.
    """
    values = {"key_": key, "most": room.most, "limit": min(room.together, claim.limit), "flow": flow, "floor": floor}
    values |= {"now": claim.now, "gate_now": claim.now, **claim.lease, **queue_values(claim.queues)}
    good = _good(None if claim.queues is None else len(claim.queues))
    return dialect_of(connection).take_first(connection, _HELD, _WAITING, _STILL, good, TAKE, values)
