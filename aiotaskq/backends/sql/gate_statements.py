"""The SQL of gates: locks, counts of slots, and the tasks that wait, in the order in which they pass.

A task is *at* a gate if ``live_gate`` names it. ``ix_task_queue_gate`` has first those that have passed it and hold its
slot, and then the parked ones in claim order. The slots of gates that a task has passed before that one are rows of
``aiotaskq_slot``, which count while their task lives.
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
    bindparam,
    case,
    delete,
    func,
    literal,
    literal_column,
    select,
    union_all,
    update,
)
from sqlalchemy.sql.elements import ColumnElement

from aiotaskq.backends.sql.claim_statements import BELOW_ALL, CLAIMED, PAUSED, PENDING, RUNNING, TAKEN, UNPARKED, Head
from aiotaskq.backends.sql.dialects import dialect_of
from aiotaskq.backends.sql.dialects.base import Dialect, Order, PerKey
from aiotaskq.backends.sql.insert import insert_new, replace
from aiotaskq.backends.sql.rows import GATES, SLOTS, TASKS, decode_flow
from aiotaskq.backends.sql.statement_size import chunks
from aiotaskq.backends.sql.statements import run
from aiotaskq.core.gate import PARKED, Bounds, Flow, Gate, Room

c = TASKS.c
g = GATES.c
s = SLOTS.c

# Not as a plain column: no plan shall take the index of another state of tasks.
STATUS: Final[ColumnElement[str]] = func.coalesce(c.status, PENDING)
LIVE: Final = STATUS.in_([PENDING, RUNNING])
PARKED_AT: Final[ColumnElement[int]] = literal_column(str(PARKED))
_KEY: Final = bindparam("key_", type_=String)
_LIMIT: Final = bindparam("limit", type_=BigInteger)
NOW: Final = bindparam("now", type_=BigInteger)
_PRIORITY: Final = bindparam("priority", type_=BigInteger)
WAITS: Final = (c.live_gate == _KEY, c.run_at == PARKED_AT, STATUS == PENDING)
PASSED: Final = (c.run_at < PARKED_AT, LIVE)

COLUMNS: Final = ("key", "cap", "fair_window", "interval_us", "burst", "max_waiting", "fixed")
STATE: Final = ("tat", "closed_until", "next_at")


def gate_row(gate: Gate) -> dict[str, Any]:
    """Return all columns of a gate."""
    bounds = gate.bounds
    values = (gate.key, bounds.cap, bounds.window, bounds.interval, bounds.burst, bounds.max_waiting, gate.fixed)
    return dict(zip(COLUMNS + STATE, (*values, gate.tat, gate.closed_until, gate.next_at), strict=True))


def _gate(row: Sequence[Any]) -> Gate:
    key, cap, window, interval, burst, max_waiting, fixed, tat, closed_until, next_at = row
    bounds = Bounds(cap=cap, window=window, interval=interval, burst=burst, max_waiting=max_waiting)
    return Gate(key=key, bounds=bounds, fixed=bool(fixed), tat=tat, closed_until=closed_until, next_at=next_at)


# ---- gates -----------------------------------------------------------------------------------------------------------

_READ: Final = select(*(g[name] for name in COLUMNS + STATE))


@functools.cache
def _some(dialect: Dialect, lock: bool, wait: bool) -> Select[Any]:
    query = _READ.where(dialect.among(g.key, "keys"))
    # In one order everywhere, whatever the order of texts in the database is.
    return query.order_by(dialect.by_bytes(g.key)).with_for_update(skip_locked=not wait) if lock else query


_FIRST: Final = _READ.order_by(g.key).limit(_LIMIT)
_DUE: Final = select(g.key).where(g.next_at <= NOW).order_by(g.next_at).limit(_LIMIT)
_NEXT: Final = select(func.min(g.next_at))


def locked(connection: Connection, keys: Collection[str], wait: bool = True) -> dict[str, Gate]:
    """Lock those of these gates that are there, in the order of their keys; without ``wait`` those that are free."""
    return {gate.key: gate for gate in _read(connection, sorted(keys), True, wait)}


def locked_with_heads(connection: Connection, keys: Collection[str]) -> tuple[dict[str, Gate], list[Head] | None]:
    """Lock those of these gates that are there; return also what ``Dialect.heads`` does, if that takes no longer."""
    dialect = dialect_of(connection)
    statement = dialect.with_heads(_some(dialect, True, True))
    if statement is None:
        return locked(connection, keys), None
    rows = _among(connection, statement, sorted(keys), {"last": BELOW_ALL})
    return {row[0]: _gate(row[:-1]) for row in rows}, dialect.read_heads(rows[0][-1]) if rows else None


def _read(connection: Connection, keys: Sequence[str], lock: bool, wait: bool) -> list[Gate]:
    statement = _some(dialect_of(connection), lock, wait)
    return [_gate(row) for row in _among(connection, statement, keys, {})]


def _among(connection: Connection, statement: Any, keys: Sequence[str], values: Mapping[str, Any]) -> list[Any]:
    """Return the rows of a statement over these keys."""
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
    """Insert those of these gates that are not there; return whether that is all of them, which then are locked."""
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
def _held(dialect: Dialect) -> CompoundSelect[Any]:
    here = select(c.live_gate, func.count()).where(dialect.among(c.live_gate, "keys"), *PASSED).group_by(c.live_gate)
    beyond = select(s.gate, func.count()).select_from(SLOTS.join(TASKS, s.task_id == c.task_id))
    return union_all(here, dialect.by_id(beyond.where(dialect.among(s.gate, "keys"), LIVE).group_by(s.gate)))


@functools.cache
def _waiting(dialect: Dialect) -> Select[Any]:
    parked = (dialect.among(c.live_gate, "keys"), c.run_at == PARKED_AT, STATUS == PENDING)
    return select(c.live_gate, func.count()).where(*parked).group_by(c.live_gate)


def held(connection: Connection, keys: Collection[str]) -> dict[str, int]:
    """Count the tasks that hold a slot of each of these gates."""
    return _counts(connection, _held(dialect_of(connection)), keys)


def waiting(connection: Connection, keys: Collection[str]) -> dict[str, int]:
    """Count the tasks that wait at each of these gates."""
    return _counts(connection, _waiting(dialect_of(connection)), keys)


def _counts(connection: Connection, statement: Any, keys: Collection[str]) -> dict[str, int]:
    counts = dict.fromkeys(keys, 0)
    for key, count in _among(connection, statement, sorted(keys), {}):
        counts[key] += count
    return counts


def tasks_at(connection: Connection, key: str, limit: int) -> tuple[list[str], list[str]]:
    """Return the ids of some tasks that hold a slot of a gate, and of the first ones that wait there."""
    here = select(c.task_id).where(c.live_gate == key, *PASSED).limit(limit)
    beyond = select(c.task_id).select_from(SLOTS.join(TASKS, s.task_id == c.task_id)).where(s.gate == key, LIVE)
    held = [row[0] for query in (here, beyond.limit(limit)) for row in connection.execute(query)]
    parked = select(c.task_id).where(*_waits(literal(key))).order_by(c.priority, c.due_at, c.seq).limit(limit)
    return held[:limit], [row[0] for row in connection.execute(parked)]


def _waits(key: ColumnElement[str]) -> tuple[ColumnElement[bool], ...]:
    return c.live_gate == key, c.run_at == PARKED_AT, STATUS == PENDING


FEW = 2  # tasks read at each of many gates


def held_of(key: ColumnElement[str]) -> Select[Any]:
    t = TASKS.alias("earliest")
    live = func.coalesce(t.c.status, PENDING).in_([PENDING, RUNNING])
    # From the first on: before it is an entry in the index of every task that had a slot since the last vacuum. A scan
    # in the order of the index marks these as dead, and passes over marked ones; a bitmap scan does not. With a lower
    # bound that is not known to the planner it expects one row, and so no bitmap.
    lowest = select(literal_column(str(BELOW_ALL))).scalar_subquery()
    earliest = select(t.c.run_at).where(t.c.live_gate == key, t.c.run_at < PARKED_AT, t.c.run_at > lowest, live)
    earliest = earliest.order_by(t.c.run_at).limit(1).correlate_except(t)
    first_on = c.run_at >= earliest.scalar_subquery()
    here = select(func.count()).where(c.live_gate == key, *PASSED, first_on).correlate_except(TASKS)
    rows = SLOTS.join(TASKS, s.task_id == c.task_id)
    beyond = select(func.count()).select_from(rows).where(s.gate == key, LIVE).correlate_except(TASKS, SLOTS)
    # With an offset it is counted once, wherever it is named: without one it would be put in place of its name.
    return select((here.scalar_subquery() + beyond.scalar_subquery()).label("held")).offset(literal_column("0"))


def _held_and_paused_of(key: ColumnElement[str]) -> Select[Any]:
    return held_of(key).add_columns(_ANY_PAUSED.scalar_subquery().is_not(None).label("paused"))


def look(connection: Connection, rooms: Mapping[str, Room]) -> tuple[dict[str, int], dict[str, list[Any]]]:
    """Count the tasks that hold a slot of these gates, and read what ``first`` would, as far as it takes no longer.

    Where nothing waits there are no rows, and there may be no count.
    """
    found = dialect_of(connection).each_with_room(connection, held_of, _first, rooms)
    if found is None and len(rooms) == 1:
        return held(connection, rooms), {}
    counts: dict[str, int] = {}
    seen: dict[str, list[Any]] = {key: [] for key in rooms}
    if found is None:
        # At most gates none waits, or one may pass.
        for key, *row in _each(connection, _first, dict.fromkeys(rooms, FEW), ORDER):
            seen[key].append(row)
        counts = held(connection, [key for key, rows in seen.items() if rows])
        enough = {key for key, count in counts.items() if min(rooms[key].most - count, rooms[key].together) < FEW}
        return counts, {key: rows for key, rows in seen.items() if len(rows) < FEW or key in enough}
    for key, count, *row in found:
        counts[key] = count
        if row[1] is not None:
            seen[key].append(row[1:])
    return counts, seen


def held_where_none_waits(connection: Connection, rooms: Mapping[str, Room]) -> dict[str, int]:
    """Count the tasks that hold a slot of those of these gates that are full, or at which none waits.

    While a queue is paused, it is none of them.
    """
    one = {key: Room(room.most, 1, 0) for key, room in rooms.items()}
    found = dialect_of(connection).each_with_room(connection, _held_and_paused_of, _first, one) if rooms else []
    if found is not None:
        counts = {key: count for key, count, paused, *_ in found if not paused}
        return {key: counts[key] for key in counts.keys() - {row[0] for row in found if row[4] is not None}}
    if run(connection, _ANY_PAUSED, {}).fetchall():
        return {}
    counts = held(connection, rooms)
    free = {key: 1 for key, count in counts.items() if count < rooms[key].most}
    waited = {row[0] for row in _each(connection, _first, free, ORDER)}
    return {key: count for key, count in counts.items() if key not in waited}


def beyond(connection: Connection, counts: Mapping[str, int]) -> set[str]:
    """Return those of these gates at which more tasks wait than its count."""
    return {key for (key,) in _each(connection, _one_more, counts)}


def _one_more(key: ColumnElement[str], count: ColumnElement[int]) -> Select[Any]:
    return select(key.label("key_")).where(*_waits(key)).select_from(TASKS).limit(1).offset(count)


def _each(connection: Connection, query: PerKey, limits: Mapping[str, int], order: Order = ()) -> Iterator[Any]:
    """Yield the rows of a query for each key with its limit."""
    dialect = dialect_of(connection)
    for part in chunks(list(limits)):
        yield from dialect.each(connection, query, {key: limits[key] for key in part}, order)


def _unstarted_here(key: ColumnElement[str], limit: ColumnElement[int]) -> Select[Any]:
    return (
        select(key.label("key_"), c.flow)
        .where(c.live_gate == key, c.run_at < PARKED_AT, STATUS == PENDING)
        .limit(limit)
    )


def _unstarted_beyond(key: ColumnElement[str], limit: ColumnElement[int]) -> Select[Any]:
    rows = SLOTS.join(TASKS, s.task_id == c.task_id)
    return select(key.label("key_"), c.flow).select_from(rows).where(s.gate == key, STATUS == PENDING).limit(limit)


def unstarted(connection: Connection, bursts: Mapping[str, int]) -> dict[str, int]:
    """Sum up the tokens of the tasks that hold a slot of these gates, and have not started; from its burst on some."""
    sums = dict.fromkeys(bursts, 0)
    flows: dict[str | None, Flow | None] = {None: None}  # most at a gate have the same
    for query in (_unstarted_here, _unstarted_beyond):
        for key, text in _each(connection, query, bursts):
            if text not in flows:
                flows[text] = decode_flow(text)
            flow = flows[text]
            sums[key] += 1 if flow is None else flow.tokens(key)
    return sums


@functools.cache
def _remove(dialect: Dialect) -> Delete:
    return delete(SLOTS).where(dialect.among(s.task_id, "ids"))


def remove_slots(connection: Connection, ids: Sequence[str]) -> None:
    """Remove the slots of tasks that have ended, or wait at their first gate again."""
    dialect = dialect_of(connection)
    for part in chunks(ids):
        dialect.run_among(connection, _remove(dialect), "ids", part, {})


# ---- what waits ------------------------------------------------------------------------------------------------------

_WHAT: Final = (c.task_id, c.priority, c.due_at, c.flow, c.expires_at, c.queue)
OPEN: Final = c.queue.not_in(PAUSED)
_ANY_PAUSED: Final = PAUSED.limit(1)
ORDER: Final = (c.priority, c.due_at, c.seq)
_OF_PRIORITY: Final = (c.priority == _PRIORITY, c.due_at <= NOW)
ALIVE: Final = func.coalesce(c.expires_at, PARKED_AT) > NOW  # no plan shall take the index of what expires
_DUE_FIRST: Final = select(*_WHAT).where(*WAITS, OPEN, *_OF_PRIORITY, ALIVE).order_by(*ORDER).limit(_LIMIT)
_LEVEL: Final = select(c.priority, c.due_at).where(*WAITS, c.priority > _PRIORITY).order_by(*ORDER).limit(1)
_LATER: Final = (
    select(c.due_at).where(*WAITS, c.priority == _PRIORITY, c.due_at > NOW).order_by(c.due_at, c.seq).limit(1)
)
_BELOW_ALL: Final = -(2**63)


def _first(key: ColumnElement[str], limit: ColumnElement[int]) -> Select[Any]:
    return select(key.label("key_"), *_WHAT).where(*_waits(key), OPEN).order_by(*ORDER).limit(limit)


def first(
    connection: Connection, now: int, limits: Mapping[str, int], seen: Mapping[str, list[Any]]
) -> dict[str, tuple[list[Any], bool]]:
    """Return the first due tasks at each gate, up to its limit, as rows, and whether others were seen.

    Those are not due, or have expired: an expired one would hold a slot, and start nothing. ``seen`` is what ``look``
    has read.
    """
    read: dict[str, list[Any]] = {key: [] for key in limits if key not in seen}
    for key, *row in _each(connection, _first, {key: limits[key] for key in read}, ORDER):
        read[key].append(row)
    found = {}
    for key in limits:
        rows = seen[key][: limits[key]] if key in seen else read[key]
        due = [row for row in rows if (row[2] is None or row[2] <= now) and (row[4] is None or row[4] > now)]
        if len(rows) == limits[key] > len(due):
            # The others are in the way.
            due = _due(connection, key, now, limits[key])
        found[key] = due, len(due) < len(rows)
    return found


def _due(connection: Connection, key: str, now: int, limit: int) -> list[Any]:
    """Return the first due tasks at a gate that have not expired; the others are passed over, priority by priority."""
    found: list[Any] = []
    for priority, earliest in _levels(connection, key):
        if earliest <= now:
            values = {"key_": key, "priority": priority, "now": now, "limit": limit - len(found)}
            found += run(connection, _DUE_FIRST, values).fetchall()
            if len(found) == limit:
                break
    return found


def _levels(connection: Connection, key: str) -> Iterator[tuple[int, int]]:
    """Yield the priorities of the tasks at a gate, in order, each with the earliest due time."""
    rows = run(connection, _LEVEL, {"key_": key, "priority": _BELOW_ALL}).fetchall()
    while rows:
        priority, due_at = rows[0]
        yield priority, due_at or 0
        rows = run(connection, _LEVEL, {"key_": key, "priority": priority}).fetchall()


def later(connection: Connection, key: str, now: int) -> int | None:
    """Return when the first of the tasks at a gate is due that are not due yet."""
    ats = []
    for priority, earliest in _levels(connection, key):
        if earliest > now:
            ats.append(earliest)
        else:
            values = {"key_": key, "priority": priority, "now": now}
            ats += [row[0] for row in run(connection, _LATER, values).fetchall()]
    return min(ats, default=None)


# By the id alone: the index of the gate has all tasks that wait there.
STILL: Final = (func.abs(c.run_at) == PARKED_AT, STATUS == PENDING)


@functools.cache
def _free(dialect: Dialect) -> Select[Any]:
    query = select(c.task_id, c.live_gate).where(dialect.among(c.task_id, "keys"), *STILL)
    return dialect.by_id(query.order_by(c.task_id).with_for_update(skip_locked=True))


_GATE: Final = bindparam("b_gate", type_=String)
_UNPARK: Final = update(TASKS).ordered_values(*UNPARKED)
TAKE: Final = update(TASKS).ordered_values(*UNPARKED, *CLAIMED.items())
_ONWARD: Final = update(TASKS).ordered_values((c.gate, _GATE), (c.live_gate, _GATE))
_PARK: Final = ((c.due_at, c.run_at), (c.run_at, PARKED_AT))
_PARK_HERE: Final = update(TASKS).ordered_values(*_PARK)


def unpark(connection: Connection, at: Mapping[str, str], now: int, floor: int) -> set[str]:
    """Make tasks due that pass their last gate, but not before ``floor``; return the ids of those that were.

    They are given by id, with the gate at which they wait. One that another transaction has locked is left out.
    """
    return _move(connection, _UNPARK, at, {"gate_now": now, "floor": floor})


@functools.cache
def _takeable(dialect: Dialect) -> Select[Any]:
    query = select(*TAKEN, c.live_gate).where(dialect.among(c.task_id, "keys"), *STILL)
    return dialect.by_id(query.order_by(c.task_id).with_for_update(skip_locked=True))


def take(connection: Connection, at: Mapping[str, str], now: int, floor: int, lease: Mapping[str, Any]) -> list[Any]:
    """Claim tasks that pass their last gate, and return them as rows of ``READ``; else as ``unpark``."""
    dialect, values = dialect_of(connection), {"gate_now": now, "floor": floor}
    rows = dialect.take_free(connection, TAKE, at, {**values, **lease})
    if rows is None:
        found = _among(connection, _takeable(dialect), sorted(at), values)
        rows = [row[:-1] for row in found if row[-1] == at[row[0]]]
        dialect.set_on(connection, TAKE, [row[0] for row in rows], {**values, **lease})
    return rows


def onward(connection: Connection, at: Mapping[str, str], to: str) -> set[str]:
    """Let tasks that pass a gate wait at their next one; as ``unpark``."""
    return _move(connection, _ONWARD, at, {"b_gate": to})


def _move(connection: Connection, update: Update, at: Mapping[str, str], values: Mapping[str, Any]) -> set[str]:
    dialect = dialect_of(connection)
    moved = None if dialect.single_writer else dialect.write_free(connection, update, at, values)
    if moved is None:
        moved = set(at)
        if not dialect.single_writer:
            rows = _among(connection, _free(dialect), sorted(at), {})
            moved = {task_id for task_id, gate in rows if gate == at[task_id]}
        dialect.set_on(connection, update, [task_id for task_id in at if task_id in moved], values)
    return moved


def add_slots(connection: Connection, slots: Sequence[tuple[str, str]]) -> None:
    """Add slots, as keys of gates and ids of tasks."""
    if slots:
        insert_new(connection, SLOTS, ("gate", "task_id"), slots)


def park(connection: Connection, here: Sequence[str], back: Mapping[str, str]) -> None:
    """Park ready tasks at the gate that they are at, and others, given by id, at their first gate."""
    dialect = dialect_of(connection)
    dialect.set_on(connection, _PARK_HERE, here, {})
    for part in chunks(list(back)):
        first = case({task_id: back[task_id] for task_id in part}, value=c.task_id)
        statement = (
            update(TASKS).where(c.task_id.in_(part)).ordered_values(*_PARK, (c.gate, first), (c.live_gate, first))
        )
        connection.execute(dialect.by_id(statement))


class SqlCounts:
    """What ``backends.room_at_gates`` reads, without a lock."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def stored(self, keys: Collection[str]) -> dict[str, Gate]:
        return {gate.key: gate for gate in read(self._connection, keys, len(keys))}

    def held(self, keys: Collection[str]) -> dict[str, int]:
        return held(self._connection, keys)

    def unstarted(self, bursts: Mapping[str, int]) -> dict[str, int]:
        return unstarted(self._connection, bursts) if bursts else {}

    def beyond(self, counts: Mapping[str, int]) -> set[str]:
        return beyond(self._connection, counts)
