"""The SQL of a claim: statements that find and lock what is ready, in claim order; the dialects build on them.

Rows lie in claim order in ``ix_task_queue_ready`` and are read from its start, priority by priority. A claim reads the
rows that it returns and little else, however many rows are finished, are due tomorrow, or are new.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    BigInteger,
    BindParameter,
    CompoundSelect,
    Connection,
    Integer,
    Select,
    String,
    and_,
    bindparam,
    case,
    false,
    func,
    literal,
    literal_column,
    not_,
    null,
    or_,
    select,
    true,
    union_all,
    update,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import NullType

from aiotaskq.backends.sql.rows import CLAIM, OTHERS, TASKS
from aiotaskq.backends.sql.statements import run
from aiotaskq.models import QueueState

SPAN: Final = 64
"""Priorities looked at in one statement."""
BELOW_ALL: Final = -(2**63)

c = TASKS.c
QUEUES: Any = QueueState.__table__
PAUSED: Final = select(QUEUES.c.name).where(QUEUES.c.paused)
# Literals, as in the conditions of the partial indexes: such an index is not used for a bound value.
PENDING: Final[ColumnElement[str]] = literal_column("'pending'")
RUNNING: Final[ColumnElement[str]] = literal_column("'running'")
ONE: Final = literal_column("1", Integer)
"""As a limit: of one that is a parameter, PostgreSQL expects that a tenth of all rows is read."""
# PostgreSQL estimates how many rows have a status from statistics that may be old. After a quiet time it believes that
# none is pending, reads them by any index on the status, and sorts 100,000 of them. So the indexes over ended rows
# leave out the live ones, and only the index in claim order is left.
ENDED: Final[ColumnElement[bool]] = func.coalesce(c.status, literal_column("''")).not_in([PENDING, RUNNING])
ORDER: Final = (c.priority, c.run_at, c.seq, c.task_id)


class not_parked(FunctionElement[bool]):
    """Whether a row, by its ``run_at``, is not parked, where parked rows are not in ``ix_task_queue_ready``.

    Elsewhere it is true of each row: a parked one comes after all that are due.
    """

    type = NullType()  # type: ignore[assignment]  # a boolean is compared with 1 on SQLite, where no index has that
    inherit_cache = True


@compiles(not_parked)
def _any_row(_element: not_parked, compiler: Any, **_options: Any) -> str:
    return str(compiler.process(true()))


def ready_rows(rows: Any) -> tuple[ColumnElement[bool], ...]:
    """Return the condition of the rows in ``ix_task_queue_ready``."""
    return rows.c.status == PENDING, not_parked(rows.c.run_at)


READY: Final = ready_rows(TASKS)


# ---- claims ----------------------------------------------------------------------------------------------------------

CLAIMED: Final = {
    "status": RUNNING,
    "fence": c.fence + literal_column("1"),
    "lease_owner": bindparam("lease_owner", type_=String),
    "lease_until": bindparam("lease_until", type_=BigInteger),
    "started_at": bindparam("started_at", type_=BigInteger),
    "began_at": bindparam("began_at", type_=BigInteger),
}
"""What a claim writes."""
MARK_CLAIMED: Final = update(TASKS).values(CLAIMED)


_NOTHING: Final = [c[name].is_(None) for name in OTHERS]
EMPTY: Final = and_(*_NOTHING, c.crashes == literal_column("0"), not_(c.cancel_requested))
"""The condition of a row that has nothing in the columns that a claim does not read."""
READ: Final = (*(c[name] for name in CLAIM), case((EMPTY, null()), else_=literal_column("1")))
"""What a claim reads; the last column is NULL where all the others are empty."""


def queue_values(queues: Sequence[str] | None) -> dict[str, str]:
    """Return the values for the parameters of a statement over these queues."""
    return {} if queues is None else {f"queue_{number}": name for number, name in enumerate(queues)}


def ready_from(
    level: ColumnElement[bool],
    run_at: ColumnElement[Any],
    seq: ColumnElement[Any],
    queues: int | None,
    *columns: Any,
    given: Callable[[BindParameter[int]], ColumnElement[int]] = lambda parameter: parameter,
) -> Select[Any]:
    """Select what can be claimed of a priority from its head on, locked; ``queues`` is their number, None for all.

    ``given`` returns the parameters ``now`` and ``limit`` as they are to be in the statement.
    """
    names = None if queues is None else [bindparam(f"queue_{number}", type_=String) for number in range(queues)]
    at = given(bindparam("now", type_=BigInteger))
    query = select(*columns).where(
        *READY,
        level,
        c.run_at >= run_at,
        or_(c.run_at > run_at, c.seq >= seq),
        c.run_at <= at,
        c.queue.not_in(PAUSED),
        *([] if names is None else [or_(false(), *(c.queue == name for name in names))]),
        or_(c.expires_at.is_(None), c.expires_at > at),
    )
    # In the order of the index, or a server would lock every candidate before it sorts.
    limit = given(bindparam("limit", type_=BigInteger))
    return query.order_by(*ORDER).limit(limit).with_for_update(skip_locked=True)


def ready_from_head(bare: bool, queues: int | None, *columns: Any, **options: Any) -> Select[Any]:
    """Do the same with the head as parameters; ``bare`` for the rows whose priority is NULL."""
    level = c.priority.is_(None) if bare else c.priority == bindparam("priority", type_=Integer)
    run_at, seq = (bindparam(name, type_=BigInteger) for name in ("head_run_at", "head_seq"))
    return ready_from(level, run_at, seq, queues, *columns, **options)


@functools.cache
def claimable(bare: bool, queues: int | None) -> Select[Any]:
    """Select the rows that ``MARK_CLAIMED`` is to be executed on, with the fence that they will have."""
    *columns, _fence, others = READ
    return ready_from_head(bare, queues, *columns, CLAIMED["fence"], others)


# ---- heads -----------------------------------------------------------------------------------------------------------


class Head(NamedTuple):
    """The first pending row of a priority. NULL, which only other programs write, comes after all numbers."""

    priority: int | None
    run_at: int
    seq: int
    queue: str
    expires_at: int | None
    paused: bool


def from_head(head: Head) -> list[ColumnElement[bool]]:
    """Return the condition of the rows of a priority, from its head on.

    Not from the first entry in the index: while a snapshot is held somewhere, a server keeps an entry of every task
    that was ever claimed, all of them before the head, and would skip them one by one.
    """
    level = c.priority.is_(None) if head.priority is None else c.priority == head.priority
    return [*READY, level, c.run_at >= head.run_at, or_(c.run_at > head.run_at, c.seq >= head.seq)]


def first(rows: Any, *where: ColumnElement[bool]) -> Select[Any]:
    """Select the first pending row in claim order, as a ``Head``."""
    query = _head(rows).where(*ready_rows(rows), *where)
    return query.order_by(rows.c.priority, rows.c.run_at, rows.c.seq, rows.c.task_id).limit(ONE)


def _head(rows: Any) -> Select[Any]:
    paused = rows.c.queue.in_(PAUSED).label("paused")
    return select(rows.c.priority, rows.c.run_at, rows.c.seq, rows.c.queue, rows.c.expires_at, paused)


def heads_by_spans(connection: Connection) -> Iterator[Head]:
    """Yield the head of each priority, many in one statement, without reading the rows between."""
    last, steps = BELOW_ALL, SPAN
    while steps == SPAN:
        rows = run(connection, FIRST_SPAN, {"last": last}).fetchall()
        heads = [Head._make(row[:-1]) for row in sorted(rows, key=lambda row: row[-1])]  # a join may mix them up
        yield from heads
        known = [head.priority for head in heads if head.priority is not None]
        last, steps = max(known, default=last), len(known)


def heads_of_first_rows(connection: Connection) -> Iterator[Head]:
    """Yield the head of each priority, found among the first rows behind the priorities known so far.

    As long as each row is of another priority, as those that wait for their time may be, twice as many are read.
    """
    rows, limit = run(connection, _FIRST, {}).fetchall(), 1
    while rows:
        heads: dict[int | None, Head] = {}
        for row in rows:
            heads.setdefault(row[0], Head._make(row))
        yield from heads.values()
        limit = min(2 * limit, SPAN) if len(heads) == limit else 1
        last = next(reversed(heads))
        rows = run(connection, _NEXT, {"last": BELOW_ALL if last is None else last, "limit": limit}).fetchall()


def _span() -> CompoundSelect[Any]:
    """Select the heads of up to SPAN priorities above ``:last``, each found from the one before, and the NULL one."""
    lowest, before, higher, head, bare = (TASKS.alias(name) for name in ("lowest", "before", "higher", "head", "bare"))
    start = first(lowest, lowest.c.priority > bindparam("last", type_=BigInteger)).with_only_columns(lowest.c.task_id)
    steps: Any = select(start.scalar_subquery().label("task_id"), literal(1).label("step")).cte("steps", recursive=True)
    above = first(higher, higher.c.priority > before.c.priority).with_only_columns(higher.c.task_id)
    # Outer joins, though none lacks its row: SQLite would begin with the table, which it takes for the smaller one.
    onward = select(above.scalar_subquery(), steps.c.step + 1).join_from(
        steps, before, steps.c.task_id == before.c.task_id, isouter=True
    )
    onward = onward.where(steps.c.task_id.is_not(None), steps.c.step < SPAN)
    steps = steps.union_all(onward)
    heads = (
        _head(head).add_columns(steps.c.step).join_from(steps, head, steps.c.task_id == head.c.task_id, isouter=True)
    )
    heads = heads.where(steps.c.task_id.is_not(None))
    without = first(bare, bare.c.priority.is_(None)).add_columns(literal(0)).subquery("without")
    return union_all(heads, select(without))


FIRST_SPAN: Final = _span()
"""The heads of the first priorities above ``last``, and the number of each."""
_FIRST = first(TASKS)
_NEXT = first(TASKS, c.priority > bindparam("last", type_=BigInteger)).limit(bindparam("limit", type_=BigInteger))
