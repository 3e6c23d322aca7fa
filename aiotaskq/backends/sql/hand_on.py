"""The statements by which an exchange hands on the slots of a gate: they claim the first tasks that wait there."""

from __future__ import annotations

import functools
from typing import Any, Final

from sqlalchemy import Connection, String, and_, bindparam, false, func, or_, select
from sqlalchemy.sql.elements import ColumnElement

from aiotaskq.backends.sql.claim import Claim
from aiotaskq.backends.sql.claim_statements import queue_values
from aiotaskq.backends.sql.dialects import dialect_of
from aiotaskq.backends.sql.gate_statements import ALIVE, CLAIM_PASSING, NOW, OPEN, ORDER, STILL_PARKED, WAITS, held_of
from aiotaskq.backends.sql.rows import TASKS
from aiotaskq.core.gate import ReadAhead

c = TASKS.c

_KEY: Final = bindparam("key_", type_=String)
_HELD: Final = held_of(_KEY)
_WAITING: Final = select().select_from(TASKS).where(*WAITS, OPEN).order_by(*ORDER)
# The guard of a locked task, and below what makes it claimable. Each is an expression and not a plain column, so that
# no plan finds rows by an index on it: the statement has the places of its rows.
_STILL: Final = (func.coalesce(c.live_gate, "") == _KEY, *STILL_PARKED, OPEN)


@functools.cache
def _claimable(queues: int | None) -> ColumnElement[bool]:
    names = None if queues is None else [bindparam(f"queue_{number}", type_=String) for number in range(queues)]
    of_claim = [] if names is None else [or_(false(), *(func.coalesce(c.queue, "") == name for name in names))]
    return and_(func.coalesce(c.due_at, 0) <= NOW, ALIVE, c.flow == bindparam("flow", type_=String), *of_claim)


def claim_first_waiting(
    connection: Connection, key: str, ahead: ReadAhead, flow: str, floor: int, claim: Claim
) -> tuple[int, int, list[Any]] | None:
    """Claim the first tasks that wait at a gate, which is locked, if they all are due and have this flow.

    As many as there are free slots are read. Return how many tasks held a slot before, how many tasks were read, and
    the claimed ones as rows of ``READ``. ``floor`` is the earliest ``run_at`` that they get. None, and nothing is
    claimed, where the database has no statement for it.
    """
    values = {"key_": key, "slots": ahead.slots, "limit": min(ahead.batch, claim.limit), "flow": flow, "floor": floor}
    values |= {"now": claim.now, "gate_now": claim.now, **claim.lease, **queue_values(claim.queues)}
    claimable = _claimable(None if claim.queues is None else len(claim.queues))
    return dialect_of(connection).claim_first_waiting(
        connection, _HELD, _WAITING, _STILL, claimable, CLAIM_PASSING, values
    )
