"""The SQL of gates: locks, counts of slots, and the tasks that wait, in the order in which they pass.

A task is *at* a gate if ``live_gate`` names it: of several gates at the last one that it has reached. Of each gate,
``ix_task_queue_gate`` has first the tasks that have passed it and hold its slot, and then the parked ones in claim
order. The slots of gates before that one are rows of ``aiotaskq_slot``, which count while their task is live. So the
slots of a gate are counted in two places: ``here``, by the tasks at it, and ``beyond``, by rows of ``aiotaskq_slot``.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    CompoundSelect,
    Connection,
    Delete,
    Select,
    String,
    Update,
    and_,
    bindparam,
    case,
    delete,
    func,
    literal,
    literal_column,
    null,
    or_,
    select,
    union_all,
    update,
)
from sqlalchemy.sql.elements import ColumnElement

from aiotaskq.backends.sql.claim_statements import BELOW_ALL, PAUSED, PENDING, RUNNING, UNPARKED
from aiotaskq.backends.sql.dialects import dialect_of
from aiotaskq.backends.sql.dialects.base import Dialect, Order, PerKey
from aiotaskq.backends.sql.insert import insert_new, replace
from aiotaskq.backends.sql.rows import GATES, SLOTS, TASKS, decode_flow
from aiotaskq.backends.sql.statement_size import chunks
from aiotaskq.backends.sql.statements import run
from aiotaskq.core.gate import PARKED, Bounds, Flow, Gate, ReadAhead, Starts

c = TASKS.c
g = GATES.c
s = SLOTS.c

# An expression and not the plain column, so that no plan takes an index over the tasks of one status.
STATUS: Final[ColumnElement[str]] = func.coalesce(c.status, PENDING)
LIVE: Final = STATUS.in_([PENDING, RUNNING])
PARKED_AT: Final[ColumnElement[int]] = literal_column(str(PARKED))
_KEY: Final = bindparam("key_", type_=String)
_LIMIT: Final = bindparam("limit", type_=BigInteger)
_NOW: Final = bindparam("now", type_=BigInteger)
_PASSED: Final = (c.run_at < PARKED_AT, LIVE)

COLUMNS: Final = ("key", "cap", "fair_window", "interval_us", "burst", "max_waiting", "fixed")
STATE: Final = ("tat", "charged_until", "closed_until", "next_at")


def gate_row(gate: Gate) -> dict[str, Any]:
    """Return all columns of a gate."""
    bounds = gate.bounds
    values = (gate.key, bounds.cap, bounds.window, bounds.interval, bounds.burst, bounds.max_waiting, gate.fixed)
    state = (gate.tat, gate.charged_until, gate.closed_until, gate.next_at)
    return dict(zip(COLUMNS + STATE, (*values, *state), strict=True))


def _gate(row: Sequence[Any]) -> Gate:
    key, cap, window, interval, burst, max_waiting, fixed, *state = row
    bounds = Bounds(cap=cap, window=window, interval=interval, burst=burst, max_waiting=max_waiting)
    return Gate(key=key, bounds=bounds, fixed=bool(fixed), **dict(zip(STATE, state, strict=True)))


# ---- gates -----------------------------------------------------------------------------------------------------------

_READ: Final = select(*(g[name] for name in COLUMNS + STATE))


@functools.cache
def _gates_by_key(dialect: Dialect, lock: bool, wait: bool) -> Select[Any]:
    query = _READ.where(dialect.among(g.key, "keys"))
    # Every transaction locks in this order, whatever the collation of the database: else two may wait for each other.
    return query.order_by(dialect.by_bytes(g.key)).with_for_update(skip_locked=not wait) if lock else query


_FIRST: Final = _READ.order_by(g.key).limit(_LIMIT)
_DUE: Final = select(g.key).where(g.next_at <= _NOW).order_by(g.next_at).limit(_LIMIT)
_NEXT: Final = select(func.min(g.next_at))


def locked(connection: Connection, keys: Collection[str], wait: bool = True) -> dict[str, Gate]:
    """Lock those of these gates that exist, in the order of their keys; without ``wait`` those that are not locked."""
    return {gate.key: gate for gate in _read(connection, sorted(keys), True, wait)}


def _read(connection: Connection, keys: Sequence[str], lock: bool, wait: bool) -> list[Gate]:
    statement = _gates_by_key(dialect_of(connection), lock, wait)
    return [_gate(row) for row in _rows_for(connection, statement, keys, {})]


def _rows_for(connection: Connection, statement: Any, keys: Sequence[str], values: Mapping[str, Any]) -> list[Any]:
    """Return the rows of a statement with the condition ``Dialect.among`` on ``keys``, for these keys or ids."""
    dialect = dialect_of(connection)
    return [
        row
        for part in chunks(keys)
        for row in dialect.run_among(connection, statement, "keys", part, values).fetchall()
    ]


def read(connection: Connection, keys: Collection[str] | None, limit: int, prefix: str = "") -> list[Gate]:
    """Read gates without a lock, in the order of their keys."""
    if keys is None and prefix:
        query = _READ.where(*dialect_of(connection).begins_with(g.key, prefix)).order_by(g.key)
        gates = [_gate(row) for row in connection.execute(query.limit(limit))]
    elif keys is None:
        gates = [_gate(row) for row in connection.execute(_FIRST, {"limit": limit})]
    else:
        gates = _read(connection, sorted(keys)[:limit], False, True)
    return sorted(gates, key=lambda gate: gate.key)


def add(connection: Connection, gates: Sequence[Gate]) -> bool:
    """Insert those of these gates that do not exist; return whether that is all of them. Then they are locked, too."""
    rows = [tuple(gate_row(gate).values()) for gate in gates]
    return insert_new(connection, GATES, COLUMNS + STATE, rows) == len(rows)


def write(connection: Connection, gates: Sequence[Gate]) -> None:
    """Write gates that are locked."""
    if gates:
        replace(connection, GATES, [gate_row(gate) for gate in gates])


def due(connection: Connection, now: int, limit: int) -> list[str]:
    """Return the keys of gates whose ``next_at`` has come, the longest due first."""
    return [row[0] for row in run(connection, _DUE, {"now": now, "limit": limit}).fetchall()]


def next_at(connection: Connection) -> int | None:
    """Return the earliest ``next_at``."""
    (row,) = run(connection, _NEXT, {}).fetchall()
    return None if row[0] is None else int(row[0])


# ---- slots -----------------------------------------------------------------------------------------------------------


@functools.cache
def _counting(dialect: Dialect, waiting: bool) -> CompoundSelect[Any]:
    def here(kind: str, *where: ColumnElement[bool]) -> Select[Any]:
        counted = select(c.live_gate, func.count(), literal_column(kind))
        return counted.where(dialect.among(c.live_gate, "keys"), *where).group_by(c.live_gate)

    beyond = select(s.gate, func.count(), literal_column("1")).select_from(SLOTS.join(TASKS, s.task_id == c.task_id))
    held = here("1", *_PASSED), dialect.by_id(beyond.where(dialect.among(s.gate, "keys"), LIVE).group_by(s.gate))
    return union_all(*held, *([here("0", c.run_at >= PARKED_AT, STATUS == PENDING)] if waiting else []))


def held(connection: Connection, keys: Collection[str]) -> dict[str, int]:
    """Count the tasks that hold a slot of each of these gates."""
    return _counts(connection, keys, False)[0]


def held_and_waiting(connection: Connection, keys: Collection[str]) -> tuple[dict[str, int], dict[str, int]]:
    """Count the tasks that hold a slot of each of these gates, and those that wait there."""
    # In one statement, so in one snapshot: else a task that passes meanwhile would be in neither count, or in both.
    return _counts(connection, keys, True)


def _counts(connection: Connection, keys: Collection[str], both: bool) -> tuple[dict[str, int], dict[str, int]]:
    waiting, held = dict.fromkeys(keys, 0), dict.fromkeys(keys, 0)
    for key, count, holds in _rows_for(connection, _counting(dialect_of(connection), both), sorted(keys), {}):
        (held if holds else waiting)[key] += count
    return held, waiting


def tasks_at(connection: Connection, key: str, limit: int) -> tuple[list[str], list[str]]:
    """Return the ids of some tasks that hold a slot of a gate, and of the first ones that wait there."""
    here = select(c.task_id).where(c.live_gate == key, *_PASSED).limit(limit)
    beyond = select(c.task_id).select_from(SLOTS.join(TASKS, s.task_id == c.task_id)).where(s.gate == key, LIVE)
    held = [row[0] for query in (here, beyond.limit(limit)) for row in connection.execute(query)]
    waiting = [
        tuple(row)
        for places in (_waits, _later)
        for row in connection.execute(_ORDERED.where(*places(literal(key))).limit(limit))
    ]
    return held[:limit], [row[-1] for row in sorted(waiting)[:limit]]


def _waits(key: ColumnElement[str]) -> tuple[ColumnElement[bool], ...]:
    """Return the condition of the tasks that wait at a gate, but for those that were not due."""
    return c.live_gate == key, c.run_at == PARKED_AT, STATUS == PENDING


def _later(key: ColumnElement[str]) -> tuple[ColumnElement[bool], ...]:
    """Return the condition of the tasks at a gate that were not due: see ``rows.stored_run_at``."""
    return c.live_gate == key, c.run_at > PARKED_AT, STATUS == PENDING


def _is_alive(now: ColumnElement[int]) -> ColumnElement[bool]:
    """Return the condition that a task has not expired."""
    return func.coalesce(c.expires_at, PARKED_AT) > now  # an expression: no plan takes the index on expires_at


def parked_at(key: ColumnElement[str]) -> tuple[ColumnElement[bool], ...]:
    """Return the condition of all tasks that wait at a gate."""
    return c.live_gate == key, c.run_at >= PARKED_AT, STATUS == PENDING


PEEKED = 2
"""Tasks read at each of many gates with a count, where that takes two statements: at most gates no more are needed."""


def held_of(key: ColumnElement[str]) -> Select[Any]:
    """Return the query that counts the tasks which hold a slot of one gate."""
    t = TASKS.alias("earliest")
    live = func.coalesce(t.c.status, PENDING).in_([PENDING, RUNNING])
    # From the earliest live task on: before it the index has an entry of each task that has had a slot since the last
    # vacuum. Only an index scan marks and skips dead entries; a bound unknown to the planner keeps it from a bitmap.
    lowest = select(literal_column(str(BELOW_ALL))).scalar_subquery()
    earliest = select(t.c.run_at).where(t.c.live_gate == key, t.c.run_at < PARKED_AT, t.c.run_at > lowest, live)
    earliest = earliest.order_by(t.c.run_at).limit(1).correlate_except(t)
    first_on = c.run_at >= earliest.scalar_subquery()
    here = select(func.count()).where(c.live_gate == key, *_PASSED, first_on).correlate_except(TASKS)
    rows = SLOTS.join(TASKS, s.task_id == c.task_id)
    beyond = select(func.count()).select_from(rows).where(s.gate == key, LIVE).correlate_except(TASKS, SLOTS)
    # With an offset the planner does not flatten this subquery: flattened, it would count again wherever it is named.
    return select((here.scalar_subquery() + beyond.scalar_subquery()).label("held")).offset(literal_column("0"))


def _held_and_paused_of(key: ColumnElement[str]) -> Select[Any]:
    return held_of(key).add_columns(_ANY_PAUSED.scalar_subquery().is_not(None).label("paused"))


def count_and_peek(
    connection: Connection, aheads: Mapping[str, ReadAhead]
) -> tuple[dict[str, int], dict[str, list[Any]]]:
    """Count the tasks that hold a slot of these gates, and read the first ones that wait there.

    Return the counts, and the rows of those gates whose rows are all that ``first_due`` needs. A gate at which no task
    waits has no rows there, and may have no count.
    """
    found = dialect_of(connection).each_with_count(connection, held_of, _first, aheads)
    if found is None and len(aheads) == 1:
        return held(connection, aheads), {}
    counts: dict[str, int] = {}
    seen: dict[str, list[Any]] = {key: [] for key in aheads}
    if found is None:
        for key, *row in _each(connection, _first, dict.fromkeys(aheads, PEEKED), _ORDER):
            seen[key].append(row)
        counts = held(connection, [key for key, rows in seen.items() if rows])
        enough = {key for key, count in counts.items() if min(aheads[key].slots - count, aheads[key].batch) < PEEKED}
        return counts, {key: rows for key, rows in seen.items() if len(rows) < PEEKED or key in enough}
    for key, count, _, *row in found:  # behind the count the columns of _first, which begin with the key again
        counts[key] = count
        if row[0] is not None:
            seen[key].append(row)
    return counts, seen


def held_where_none_waits(connection: Connection, aheads: Mapping[str, ReadAhead]) -> dict[str, int]:
    """Count the tasks that hold a slot, for those of these gates that are full, or at which no task waits.

    While any queue is paused, nothing is returned: a task of that queue may wait at a gate with room.
    """
    one = {key: ReadAhead(ahead.slots, 1, 0) for key, ahead in aheads.items()}
    found = dialect_of(connection).each_with_count(connection, _held_and_paused_of, _first, one) if aheads else []
    if found is not None:
        waited = {key for key, _, _, _, task_id, *_ in found if task_id is not None}
        return {key: count for key, count, paused, *_ in found if not paused and key not in waited}
    if run(connection, _ANY_PAUSED, {}).fetchall():
        return {}
    counts = held(connection, aheads)
    free = {key: 1 for key, count in counts.items() if count < aheads[key].slots}
    waited = {row[0] for row in _each(connection, _first, free, _ORDER)}
    return {key: count for key, count in counts.items() if key not in waited}


def with_more_waiting(connection: Connection, counts: Mapping[str, int]) -> set[str]:
    """Return those of these gates at which more tasks wait than its count."""
    return {key for (key,) in _each(connection, _one_beyond, counts)}


def _one_beyond(key: ColumnElement[str], count: ColumnElement[int]) -> Select[Any]:
    return select(key.label("key_")).where(*parked_at(key)).select_from(TASKS).limit(1).offset(count)


def _each(connection: Connection, query: PerKey, limits: Mapping[str, int], order: Order = ()) -> Iterator[Any]:
    """Yield the rows of a query for each key with its limit."""
    dialect = dialect_of(connection)
    for part in chunks(list(limits)):
        yield from dialect.each(connection, query, {key: limits[key] for key in part}, order)


def _starts_here(key: ColumnElement[str], since: ColumnElement[int]) -> Select[Any]:
    query = select(key.label("key_"), _START, c.flow)
    # The offset keeps PostgreSQL from joining all rows with all gates: it looks up those of each gate.
    return query.where(c.live_gate == key, c.run_at < PARKED_AT, _counts_as_start(since)).offset(0)


def _starts_beyond(key: ColumnElement[str], since: ColumnElement[int]) -> Select[Any]:
    query = select(key.label("key_"), _START, c.flow).select_from(SLOTS.join(TASKS, s.task_id == c.task_id))
    return query.where(s.gate == key, _counts_as_start(since)).offset(0)


_START: Final = case((STATUS == RUNNING, c.began_at), else_=null())


def _counts_as_start(since: ColumnElement[int]) -> ColumnElement[bool]:
    return or_(STATUS == PENDING, and_(STATUS == RUNNING, c.began_at > since))


def starts(connection: Connection, gates: Collection[Gate], now: int) -> dict[str, Starts]:
    """Return the starts of the tasks that hold a slot of these gates, but for those charged before ``now``."""
    since = {gate.key: gate.charged_until if gate.charged_until <= now else 0 for gate in gates}
    unstarted = dict.fromkeys(since, 0)
    started: dict[str, list[tuple[int, int]]] = {key: [] for key in since}
    flows: dict[str | None, Flow] = {None: Flow()}  # most tasks at a gate have the same flow
    for query in (_starts_here, _starts_beyond):
        for key, at, text in _each(connection, query, since):
            if text not in flows:
                flows[text] = decode_flow(text)
            tokens = flows[text].tokens(key)
            if at is None:
                unstarted[key] += tokens
            else:
                started[key].append((at, tokens))
    return {key: Starts(unstarted[key], started[key]) for key in since}


@functools.cache
def _remove(dialect: Dialect) -> Delete:
    return delete(SLOTS).where(dialect.among(s.task_id, "ids"))


def remove_slots(connection: Connection, ids: Sequence[str]) -> None:
    """Remove the slots of tasks that have ended, or wait at their first gate again."""
    dialect = dialect_of(connection)
    for part in chunks(ids):
        dialect.run_among(connection, _remove(dialect), "ids", part, {})


# ---- what waits ------------------------------------------------------------------------------------------------------

_WAITING_COLUMNS: Final = (c.task_id, c.priority, c.due_at, c.flow, c.expires_at, c.queue)
_OPEN: Final = c.queue.not_in(PAUSED)
_ANY_PAUSED: Final = PAUSED.limit(1)
_ORDER: Final = (c.priority, c.due_at, c.seq)
_ORDERED: Final = select(*_ORDER, c.task_id).order_by(*_ORDER)
_IS_DUE: Final = func.coalesce(c.due_at, literal_column("0")) <= _NOW
_DUE_FIRST: Final = (
    select(*_WAITING_COLUMNS).where(*_waits(_KEY), _OPEN, _IS_DUE, _is_alive(_NOW)).order_by(*_ORDER).limit(_LIMIT)
)
_NEXT_DUE: Final = select(c.run_at - PARKED_AT).where(*_later(_KEY)).order_by(c.run_at).limit(1)
_PROMOTE: Final = update(TASKS).values(run_at=PARKED_AT)


def _first(key: ColumnElement[str], limit: ColumnElement[int]) -> Select[Any]:
    return select(key.label("key_"), *_WAITING_COLUMNS).where(*_waits(key), _OPEN).order_by(*_ORDER).limit(limit)


def first_due(
    connection: Connection, now: int, limits: Mapping[str, int], seen: Mapping[str, list[Any]]
) -> dict[str, tuple[list[Any], int | None]]:
    """Return the first due tasks at each gate, up to its limit, as rows; and when the next of those read is due.

    What has expired is left out: it would hold a slot and start nothing. ``seen`` are the rows that ``count_and_peek``
    has read.
    """
    read: dict[str, list[Any]] = {key: [] for key in limits if key not in seen}
    for key, *row in _each(connection, _first, {key: limits[key] for key in read}, _ORDER):
        read[key].append(row)
    found = {}
    for key in limits:
        rows = seen[key][: limits[key]] if key in seen else read[key]
        due = [row for row in rows if (row[2] is None or row[2] <= now) and (row[4] is None or row[4] > now)]
        # Pushed by a clock ahead of this one.
        next_due = min((row[2] for row in rows if row[2] is not None and row[2] > now), default=None)
        if len(rows) == limits[key] > len(due):
            due = list(run(connection, _DUE_FIRST, {"key_": key, "now": now, "limit": limits[key]}).fetchall())
        found[key] = due, next_due
    return found


def with_due(connection: Connection, keys: Collection[str], now: int) -> set[str]:
    """Return those of these gates at which a task waits that is due at ``now``, has not expired and is not paused."""
    waits = {key for key, (rows, _) in first_due(connection, now, dict.fromkeys(keys, 1), {}).items() if rows}
    rest = dict.fromkeys([key for key in keys if key not in waits], now)
    return waits | {key for (key,) in _each(connection, _one_due_by_now, rest)}


def _one_due_by_now(key: ColumnElement[str], now: ColumnElement[int]) -> Select[Any]:
    query = select(key.label("key_")).where(*_later(key), c.run_at <= PARKED_AT + now, _OPEN, _is_alive(now))
    return query.select_from(TASKS).limit(1)


@functools.cache
def _due_by_now(dialect: Dialect) -> Select[Any]:
    query = select(c.task_id).where(dialect.among(c.live_gate, "keys"), *_later(c.live_gate)[1:])
    return query.where(c.run_at <= PARKED_AT + _NOW).order_by(c.task_id).with_for_update(skip_locked=True)


def promote(connection: Connection, keys: Collection[str], now: int) -> None:
    """Put the tasks at these gates that are due by now among those that may pass; the gates are locked.

    A task that another transaction has locked is left out.
    """
    found = _rows_for(connection, _due_by_now(dialect_of(connection)), sorted(keys), {"now": now})
    if found:
        dialect_of(connection).set_on(connection, _PROMOTE, [row[0] for row in found], {})


def next_due(connection: Connection, key: str) -> int | None:
    """Return when the next of the tasks at a gate is due that were not due, in microseconds UTC."""
    return next((row[0] for row in run(connection, _NEXT_DUE, {"key_": key}).fetchall()), None)


@functools.cache
def _free(dialect: Dialect) -> Select[Any]:
    # The guard of a task that is found by its id. With ``abs`` no plan takes the index of the gate instead.
    still_parked = (func.abs(c.run_at) == PARKED_AT, STATUS == PENDING)
    query = select(c.task_id, c.live_gate).where(dialect.among(c.task_id, "keys"), *still_parked)
    return dialect.by_id(query.order_by(c.task_id).with_for_update(skip_locked=True))


_GATE: Final = bindparam("b_gate", type_=String)
_UNPARK: Final = update(TASKS).ordered_values(*UNPARKED)
_MOVE_TO_NEXT: Final = update(TASKS).ordered_values((c.due_at, UNPARKED[0][1]), (c.gate, _GATE), (c.live_gate, _GATE))


def unpark(connection: Connection, at: Mapping[str, str], now: int, floor: int) -> set[str]:
    """Un-park tasks that pass their last gate, none with a ``run_at`` before ``floor``; return the ids of these tasks.

    ``at`` has the gates at which they wait, by id. A task that another transaction has locked is left out.
    """
    return _move(connection, _UNPARK, at, {"gate_now": now, "floor": floor})


def move_to_next(connection: Connection, at: Mapping[str, str], to: str, now: int, floor: int) -> set[str]:
    """Let tasks that pass a gate wait at the gate ``to``, as if due at ``floor`` or later; else as ``unpark``."""
    return _move(connection, _MOVE_TO_NEXT, at, {"b_gate": to, "gate_now": now, "floor": floor})


def _move(connection: Connection, update: Update, at: Mapping[str, str], values: Mapping[str, Any]) -> set[str]:
    dialect = dialect_of(connection)
    moved = set(at)
    if not dialect.single_writer:
        rows = _rows_for(connection, _free(dialect), sorted(at), {})
        moved = {task_id for task_id, gate in rows if gate == at[task_id]}
    dialect.set_on(connection, update, [task_id for task_id in at if task_id in moved], values)
    return moved


def add_slots(connection: Connection, slots: Sequence[tuple[str, str]]) -> None:
    """Add slots, as keys of gates and ids of tasks."""
    if slots:
        insert_new(connection, SLOTS, ("gate", "task_id"), slots)
