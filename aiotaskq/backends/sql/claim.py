"""What is ready: claiming it, counting it, and when to look next; plain functions over a SQLAlchemy connection.

The one hot query of a queue. It reads what it hands out and little else, however many rows are finished, wait for
tomorrow or are new: rows lie in claim order in ``ix_task_queue_ready``, and are read from its start, priority by
priority.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    BigInteger,
    CompoundSelect,
    Connection,
    Integer,
    Select,
    String,
    bindparam,
    false,
    func,
    literal,
    literal_column,
    or_,
    select,
    union_all,
    update,
)
from sqlalchemy.sql.elements import ColumnElement

from aiotaskq.backends.base import QueueStats, stats_of
from aiotaskq.backends.sql.prepared import run
from aiotaskq.backends.sql.rows import TASKS, to_task
from aiotaskq.backends.sql.tasks import ENDED, PAUSED, PENDING, RUNNING, set_on
from aiotaskq.core.task import SECOND, Status, Task, claim_order

SPAN: Final = 64  # priorities looked at in one statement
_BELOW_ALL: Final = -(2**63)

c = TASKS.c
_ORDER: Final = (c.priority, c.run_at, c.seq, c.task_id)


def open_queues(queues: Sequence[str] | None) -> list[ColumnElement[bool]]:
    """Return the condition of a queue that is not paused, and is one of these."""
    conditions: list[ColumnElement[bool]] = [c.queue.not_in(PAUSED)]
    if queues is not None:
        conditions.append(c.queue.in_(list(queues)))
    return conditions


def alive(now: int) -> ColumnElement[bool]:
    """Return the condition of a task that has not expired."""
    return or_(c.expires_at.is_(None), c.expires_at > now)


def claim(
    connection: Connection,
    owner: str,
    now: int,
    limit: int,
    queues: Sequence[str] | None,
    lease_until: int | None,
    heads: Iterable[Head] | None = None,
) -> list[Task]:
    tasks: list[Task] = []
    lease = {"lease_owner": owner, "lease_until": lease_until, "started_at": now // SECOND}
    at_once = connection.dialect.name == "postgresql"
    words = _claiming if at_once else _claimable
    for head in due_heads(connection, now) if heads is None else heads:
        given = {"now": now, "limit": limit - len(tasks), **_names(queues), **lease}
        given |= {"priority": head.priority, "head_run_at": head.run_at, "head_seq": head.seq}
        rows = run(connection, words(head.priority is None, None if queues is None else len(queues)), given)
        tasks += map(to_task, rows.all())
        if len(tasks) == limit:
            break
    if not at_once:
        set_on(connection, [task.task_id for task in tasks], _ASSIGNMENTS, **lease)
    return sorted(tasks, key=_claim_order)


def _claim_order(task: Task) -> tuple[Any, ...]:
    return (*claim_order(task), task.task_id)


_ASSIGNMENTS: Final = (
    "status = 'running', fence = fence + 1, lease_owner = :lease_owner, lease_until = :lease_until, "
    "started_at = :started_at"
)
_CLAIMED: Final = {
    "status": RUNNING,
    "fence": c.fence + literal_column("1"),
    "lease_owner": bindparam("lease_owner", type_=String),
    "lease_until": bindparam("lease_until", type_=BigInteger),
    "started_at": bindparam("started_at", type_=BigInteger),
}


def _names(queues: Sequence[str] | None) -> dict[str, str]:
    return {} if queues is None else {f"queue_{number}": name for number, name in enumerate(queues)}


def _ready_from(
    level: ColumnElement[bool], run_at: ColumnElement[Any], seq: ColumnElement[Any], queues: int | None, *columns: Any
) -> Select[Any]:
    """What can be claimed of a priority from its head on, locked."""
    names = None if queues is None else [bindparam(f"queue_{number}", type_=String) for number in range(queues)]
    at = bindparam("now", type_=BigInteger)
    query = select(*columns).where(
        c.status == PENDING,
        level,
        c.run_at >= run_at,
        or_(c.run_at > run_at, c.seq >= seq),
        c.run_at <= at,
        c.queue.not_in(PAUSED),
        *([] if names is None else [or_(false(), *(c.queue == name for name in names))]),
        or_(c.expires_at.is_(None), c.expires_at > at),
    )
    # In the order of the index, or a server would lock every candidate before it sorts (F13).
    return query.order_by(*_ORDER).limit(bindparam("limit", type_=BigInteger)).with_for_update(skip_locked=True)


def _ready_from_head(bare: bool, queues: int | None, *columns: Any) -> Select[Any]:
    level = c.priority.is_(None) if bare else c.priority == bindparam("priority", type_=Integer)
    run_at, seq = (bindparam(name, type_=BigInteger) for name in ("head_run_at", "head_seq"))
    return _ready_from(level, run_at, seq, queues, *columns)


@functools.cache
def _claimable(bare: bool, queues: int | None) -> Select[Any]:
    """The rows, as they will be when they are claimed."""
    return _ready_from_head(bare, queues, *(_CLAIMED.get(column.name, column) for column in TASKS.columns))


_PLACE: ColumnElement[Any] = literal_column("task_queue.ctid")


def _claim_of(ready: Select[Any]) -> Any:
    """By their place in the table: no plan can take another way to the rows, whatever it believes of them."""
    picked = ready.cte("picked")
    places = func.array(select(picked.c.place).scalar_subquery())
    return update(TASKS).where(_PLACE.op("=")(func.any(places))).values(_CLAIMED).returning(*TASKS.columns)


@functools.cache
def _claiming(bare: bool, queues: int | None) -> Any:
    """The same, claimed."""
    return _claim_of(_ready_from_head(bare, queues, _PLACE.label("place")))


@functools.cache
def _claiming_first(queues: int | None) -> Any:
    """What is ready in the first priority, claimed, each row with whether there is another priority at all."""
    lowest, higher, bare = (TASKS.alias(name) for name in ("lowest", "higher", "bare"))
    head = _first(lowest).with_only_columns(lowest.c.priority, lowest.c.run_at, lowest.c.seq).cte("head")
    priority, run_at, seq = (select(column).scalar_subquery() for column in head.c)
    ready = _ready_from(c.priority == priority, run_at, seq, queues, _PLACE.label("place"))
    # As the first in an order, which is found by the index: whether there is one would be looked for in the table.
    above = _first(higher, higher.c.priority > priority).with_only_columns(higher.c.task_id).scalar_subquery()
    without = _first(bare, bare.c.priority.is_(None)).with_only_columns(bare.c.task_id).scalar_subquery()
    return _claim_of(ready).returning(func.coalesce(above, without).is_not(None))


def claim_first(
    connection: Connection, owner: str, now: int, limit: int, queues: Sequence[str] | None, lease_until: int | None
) -> tuple[list[Task], bool]:
    """Claim what is ready in the first priority, in one statement; and say whether there may be more in others.

    PostgreSQL only. All priorities in one statement would have to be joined, and a plan that takes the wrong join
    reads every pending row.
    """
    given = {"now": now, "limit": limit, "lease_owner": owner, "lease_until": lease_until, "started_at": now // SECOND}
    words = _claiming_first(None if queues is None else len(queues))
    rows = run(connection, words, {**given, **_names(queues)}).all()
    more = not rows or (len(rows) < limit and bool(rows[0][-1]))
    return sorted([to_task(row[:-1]) for row in rows], key=_claim_order), more


class Head(NamedTuple):
    """The pending row that comes first in its priority. None, which only others write, comes after all numbers."""

    priority: int | None
    run_at: int
    seq: int
    queue: str
    expires_at: int | None
    paused: bool


def from_head(head: Head) -> list[ColumnElement[bool]]:
    """The rows of a priority, from its head on.

    Not from the first entry in the index: while a snapshot is held somewhere, a server keeps an entry of every task
    that was ever claimed, all of them before the head, and skips them one by one (F10).
    """
    level = c.priority.is_(None) if head.priority is None else c.priority == head.priority
    return [
        c.status == PENDING,
        level,
        c.run_at >= head.run_at,
        or_(c.run_at > head.run_at, c.seq >= head.seq),
    ]


def due_heads(connection: Connection, now: int) -> Iterator[Head]:
    """Yield a head for each priority that has something due, in order; whoever stops early saves the rest."""
    without = None
    for head in _heads(connection):
        if head.priority is None:
            without = head
        elif head.run_at <= now:
            yield head
    if without is not None and without.run_at <= now:
        yield without


def _heads(connection: Connection) -> Iterator[Head]:
    """Yield the head of each priority, without reading the rows between, as the 100,000 that wait for tomorrow."""
    if connection.dialect.name == "mysql":
        # It knows no way to the first row "above" what is not a constant; so a statement for each.
        found = run(connection, _FIRST, {}).first()
        while found is not None:
            yield Head._make(found)
            last = _BELOW_ALL if found[0] is None else found[0]
            found = run(connection, _NEXT, {"last": last}).first()
        return
    last, steps = _BELOW_ALL, SPAN
    while steps == SPAN:
        rows = run(connection, _SPAN, {"last": last}).all()
        heads = [Head._make(row[:-1]) for row in sorted(rows, key=lambda row: row[-1])]  # a join may mix them up
        yield from heads
        known = [head.priority for head in heads if head.priority is not None]
        last, steps = max(known, default=last), len(known)


def _head(rows: Any) -> Select[Any]:
    return select(rows.c.priority, rows.c.run_at, rows.c.seq, rows.c.queue, rows.c.expires_at, rows.c.queue.in_(PAUSED))


def _first(rows: Any, *where: ColumnElement[bool]) -> Select[Any]:
    query = _head(rows).where(rows.c.status == PENDING, *where)
    return query.order_by(rows.c.priority, rows.c.run_at, rows.c.seq, rows.c.task_id).limit(1)


def _span() -> CompoundSelect[Any]:
    """The heads of up to SPAN priorities above ``:last``, each found from the one before; and the one without any."""
    lowest, before, higher, head, bare = (TASKS.alias(name) for name in ("lowest", "before", "higher", "head", "bare"))
    start = _first(lowest, lowest.c.priority > bindparam("last", type_=BigInteger)).with_only_columns(lowest.c.task_id)
    steps: Any = select(start.scalar_subquery().label("task_id"), literal(1).label("step")).cte("steps", recursive=True)
    above = _first(higher, higher.c.priority > before.c.priority).with_only_columns(higher.c.task_id)
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
    without = _first(bare, bare.c.priority.is_(None)).add_columns(literal(0)).subquery("without")
    return union_all(heads, select(without))


_SPAN = _span()
_FIRST = _first(TASKS)
_NEXT = _first(TASKS, c.priority > bindparam("last", type_=BigInteger))


def next_run_at(connection: Connection, now: int, queues: Sequence[str] | None) -> int | None:
    earliest: int | None = None
    for head in _heads(connection):
        at: int | None = head.run_at
        if head.paused or (queues is not None and head.queue not in queues) or (head.expires_at or now + 1) <= now:
            query = select(c.run_at).where(*from_head(head), *open_queues(queues), alive(now))
            at = connection.execute(query.order_by(*_ORDER).limit(1)).scalar()
        if at is not None and (earliest is None or at < earliest):
            earliest = at
            if at <= now:
                break
    return earliest


def ready(
    connection: Connection, now: int, queues: Sequence[str] | None, alive_at: int | None = None
) -> tuple[int, int | None]:
    """Count what is due, and not expired at ``alive_at``, by default then; and return the ``run_at`` of the oldest."""
    count, oldest = 0, None
    unexpired = alive(now if alive_at is None else alive_at)
    for head in due_heads(connection, now):
        query = select(func.count(), func.min(c.run_at)).where(
            *from_head(head), c.run_at <= now, *open_queues(queues), unexpired
        )
        more, at = connection.execute(query).one()
        count += more
        oldest = at if oldest is None or (at is not None and at < oldest) else oldest
    return count, oldest


def count_ready(connection: Connection, now: int, queues: Sequence[str] | None) -> int:
    return ready(connection, now, queues)[0]


def stats(connection: Connection, now: int) -> QueueStats:
    rows: list[tuple[str, str, int]] = []
    for those in (c.status == PENDING, c.status == RUNNING, ENDED):
        query = select(c.queue, c.status, func.count()).where(those).group_by(c.status, c.queue)
        rows += [(queue, status or str(Status.PENDING), count) for queue, status, count in connection.execute(query)]
    return stats_of(rows, *ready(connection, now, None))
