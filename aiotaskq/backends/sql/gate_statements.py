"""The SQL of gates: locks, counts of slots, and the tasks that wait, in the order in which they pass.

A task is *at* a gate if ``live_gate`` names it. ``ix_task_queue_gate`` has first those that have passed it and hold its
slot, and then the parked ones in claim order. The slots of gates that a task has passed before that one are rows of
``aiotaskq_slot``, which count while their task lives.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Connection,
    String,
    bindparam,
    case,
    delete,
    false,
    func,
    literal_column,
    null,
    select,
    union_all,
    update,
)
from sqlalchemy.sql.elements import ColumnElement

from aiotaskq.backends.sql.claim_statements import PAUSED, PENDING, RUNNING
from aiotaskq.backends.sql.dialects import dialect_of
from aiotaskq.backends.sql.insert import insert_new
from aiotaskq.backends.sql.rows import GATES, SLOTS, TASKS
from aiotaskq.backends.sql.statement_size import chunks
from aiotaskq.backends.sql.statements import run
from aiotaskq.core.gate import PARKED, Bounds, Gate

c = TASKS.c
g = GATES.c
s = SLOTS.c

# Not as a plain column: no plan shall take the index of another state of tasks.
_STATUS: Final[ColumnElement[str]] = func.coalesce(c.status, PENDING)
_LIVE: Final = _STATUS.in_([PENDING, RUNNING])
_AT: Final[ColumnElement[int]] = literal_column(str(PARKED))
_KEYS: Final[Any] = bindparam("keys", expanding=True)
_KEY: Final = bindparam("key_", type_=String)
_LIMIT: Final = bindparam("limit", type_=BigInteger)
_NOW: Final = bindparam("now", type_=BigInteger)
_PRIORITY: Final = bindparam("priority", type_=BigInteger)
WAITS: Final = (c.live_gate == _KEY, c.run_at == _AT, _STATUS == PENDING)
PASSED: Final = (c.run_at < _AT, _LIVE)

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
_SOME: Final = _READ.where(g.key.in_(_KEYS)).order_by(g.key)
_LOCKED: Final = _SOME.with_for_update()
_FREE: Final = _SOME.with_for_update(skip_locked=True)
_FIRST: Final = _READ.order_by(g.key).limit(_LIMIT)
_DUE: Final = select(g.key).where(g.next_at <= _NOW).order_by(g.next_at).limit(_LIMIT)
_NEXT: Final = select(func.min(g.next_at))


def locked(connection: Connection, keys: Collection[str], wait: bool = True) -> dict[str, Gate]:
    """Lock those of these gates that are there, in the order of their keys; without ``wait`` those that are free."""
    found = {}
    for part in chunks(sorted(keys)):
        for row in connection.execute(_LOCKED if wait else _FREE, {"keys": part}):
            found[row[0]] = _gate(row)
    return found


def read(connection: Connection, keys: Collection[str] | None, limit: int) -> list[Gate]:
    """Read gates without a lock, in the order of their keys."""
    if keys is None:
        rows = connection.execute(_FIRST, {"limit": limit}).all()
    else:
        rows = [row for part in chunks(sorted(keys)[:limit]) for row in connection.execute(_SOME, {"keys": part})]
    return sorted(map(_gate, rows), key=lambda gate: gate.key)


_WRITE: Final = (
    update(GATES).where(g.key == bindparam("b_key")).values({name: bindparam(name) for name in (*COLUMNS[1:], *STATE)})
)


def add(connection: Connection, gates: Sequence[Gate]) -> None:
    """Insert those of these gates that are not there."""
    insert_new(connection, GATES, COLUMNS + STATE, [tuple(gate_row(gate).values()) for gate in gates])


def write(connection: Connection, gates: Sequence[Gate]) -> None:
    """Write gates that are locked."""
    rows = []
    for gate in gates:
        row = gate_row(gate)
        row["b_key"] = row.pop("key")
        rows.append(row)
    if rows:
        connection.execute(_WRITE, rows)


def due(connection: Connection, now: int, limit: int) -> list[str]:
    """Return the keys of gates whose ``next_at`` has come, the longest due first."""
    return [row[0] for row in run(connection, _DUE, {"now": now, "limit": limit}).fetchall()]


def next_at(connection: Connection) -> int | None:
    """Return the earliest ``next_at``."""
    (row,) = run(connection, _NEXT, {}).fetchall()
    return None if row[0] is None else int(row[0])


# ---- slots -----------------------------------------------------------------------------------------------------------

_HELD: Final = union_all(
    select(c.live_gate, func.count()).where(c.live_gate.in_(_KEYS), *PASSED).group_by(c.live_gate),
    select(s.gate, func.count())
    .select_from(SLOTS.join(TASKS, s.task_id == c.task_id))
    .where(s.gate.in_(_KEYS), _LIVE)
    .group_by(s.gate),
)
_UNSTARTED: Final = union_all(
    select(c.flow).where(c.live_gate == _KEY, c.run_at < _AT, _STATUS == PENDING),
    select(c.flow).select_from(SLOTS.join(TASKS, s.task_id == c.task_id)).where(s.gate == _KEY, _STATUS == PENDING),
).limit(_LIMIT)
_WAITING: Final = (
    select(c.live_gate, func.count())
    .where(c.live_gate.in_(_KEYS), c.run_at == _AT, _STATUS == PENDING)
    .group_by(c.live_gate)
)


def held(connection: Connection, keys: Collection[str]) -> dict[str, int]:
    """Count the tasks that hold a slot of each of these gates."""
    counts = dict.fromkeys(keys, 0)
    for part in chunks(sorted(keys)):
        for key, count in connection.execute(_HELD, {"keys": part}):
            counts[key] += count
    return counts


def waiting(connection: Connection, keys: Collection[str]) -> dict[str, int]:
    """Count the tasks that wait at each of these gates."""
    counts = dict.fromkeys(keys, 0)
    for part in chunks(sorted(keys)):
        counts.update((key, count) for key, count in connection.execute(_WAITING, {"keys": part}))
    return counts


_MANY: Final = select(func.count()).select_from(
    select(c.task_id).where(*WAITS).limit(bindparam("limit", type_=BigInteger)).subquery()
)


def waiting_up_to(connection: Connection, key: str, limit: int) -> int:
    """Count the tasks that wait at a gate, up to a limit."""
    (row,) = run(connection, _MANY, {"key_": key, "limit": limit}).fetchall()
    return int(row[0])


def unstarted(connection: Connection, key: str, limit: int) -> list[str]:
    """Return the flows of up to ``limit`` tasks that hold a slot of a gate, and have not started."""
    return [row[0] for row in run(connection, _UNSTARTED, {"key_": key, "limit": limit}).fetchall()]


_REMOVE: Final = delete(SLOTS).where(s.task_id.in_(bindparam("ids", expanding=True)))


def remove_slots(connection: Connection, ids: Sequence[str]) -> None:
    """Remove the slots of tasks that have ended, or wait at their first gate again."""
    for part in chunks(ids):
        connection.execute(_REMOVE, {"ids": part})


# ---- what waits ------------------------------------------------------------------------------------------------------

_WHAT: Final = (c.task_id, c.priority, c.due_at, c.flow)
_OPEN: Final = c.queue.not_in(PAUSED)
_ORDER: Final = (c.priority, c.due_at, c.seq)
_WAITING_FIRST: Final = select(*_WHAT).where(*WAITS, _OPEN).order_by(*_ORDER).limit(_LIMIT)
_OF_PRIORITY: Final = (c.priority == _PRIORITY, c.due_at <= _NOW)
_DUE_FIRST: Final = select(*_WHAT).where(*WAITS, _OPEN, *_OF_PRIORITY).order_by(*_ORDER).limit(_LIMIT)
_LEVEL: Final = select(c.priority, c.due_at).where(*WAITS, c.priority > _PRIORITY).order_by(*_ORDER).limit(1)
_LATER: Final = (
    select(c.due_at).where(*WAITS, c.priority == _PRIORITY, c.due_at > _NOW).order_by(c.due_at, c.seq).limit(1)
)
_BELOW_ALL: Final = -(2**63)


def first(connection: Connection, key: str, now: int, limit: int) -> tuple[list[Any], bool]:
    """Return the first due tasks at a gate, as rows, and whether others were seen that are not due."""
    rows = list(run(connection, _WAITING_FIRST, {"key_": key, "limit": limit}).fetchall())
    found = [row for row in rows if row[2] is None or row[2] <= now]
    if len(found) == len(rows) or len(rows) < limit:
        return found, len(found) < len(rows)
    # Those that are not due are in the way: they are passed over, priority by priority.
    found = []
    for priority, earliest in _levels(connection, key):
        if earliest <= now:
            values = {"key_": key, "priority": priority, "now": now, "limit": limit - len(found)}
            found += run(connection, _DUE_FIRST, values).fetchall()
            if len(found) == limit:
                break
    return found, True


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


_IDS: Final[Any] = bindparam("ids", expanding=True)
# By the id alone: the index of the gate has all tasks that wait there.
_STILL: Final = (
    func.coalesce(c.live_gate, literal_column("''")) == _KEY,
    func.abs(c.run_at) == _AT,
    _STATUS == PENDING,
)
_FREE_TASKS: Final = (
    select(c.task_id).where(c.task_id.in_(_IDS), *_STILL).order_by(c.task_id).with_for_update(skip_locked=True)
)
_FLOOR: Final = bindparam("floor", type_=BigInteger)
_DUE_AT: Final = func.coalesce(c.due_at, _NOW)
_GATE: Final = bindparam("b_gate", type_=String)
# In this order: MySQL assigns one after the other.
_UNPARK: Final = update(TASKS).ordered_values(
    (c.run_at, case((_DUE_AT > _FLOOR, _DUE_AT), else_=_FLOOR)), (c.due_at, null())
)
_ONWARD: Final = update(TASKS).ordered_values((c.gate, _GATE), (c.live_gate, _GATE))
_PARK: Final = update(TASKS).ordered_values(
    (c.due_at, c.run_at), (c.run_at, _AT), (c.gate, _GATE), (c.live_gate, _GATE)
)


def free(connection: Connection, key: str, ids: Sequence[str]) -> set[str]:
    """Lock those of these tasks that still wait at a gate and that no other transaction has locked."""
    dialect = dialect_of(connection)
    if dialect.single_writer:
        return set(ids)
    statement = dialect.by_id(_FREE_TASKS)
    return {row[0] for part in chunks(ids) for row in connection.execute(statement, {"ids": part, "key_": key})}


def unpark(connection: Connection, key: str, ids: Sequence[str], now: int, floor: int) -> set[str]:
    """Make tasks that pass their last gate due, but not before ``floor``; return those of ``free``."""
    found = free(connection, key, ids)
    moved = [task_id for task_id in ids if task_id in found]
    dialect_of(connection).set_on(connection, _UNPARK, moved, {"now": now, "floor": floor})
    return found


def onward(connection: Connection, key: str, ids: Sequence[str], to: str) -> set[str]:
    """Let tasks that pass a gate wait at their next one; return those of ``free``."""
    found = free(connection, key, ids)
    if moved := [task_id for task_id in ids if task_id in found]:
        dialect_of(connection).set_on(connection, _ONWARD, moved, {"b_gate": to})
        insert_new(connection, SLOTS, ("gate", "task_id"), [(key, task_id) for task_id in moved])
    return found


def park(connection: Connection, ids: Sequence[str], key: str) -> None:
    """Park tasks that were ready at a gate."""
    dialect_of(connection).set_on(connection, _PARK, ids, {"b_gate": key})


# ---- pauses and repairs ----------------------------------------------------------------------------------------------

_QUEUE: Final = bindparam("queue", type_=String)
_READY_AT: Final = (c.run_at < _AT, _STATUS == PENDING, c.queue == _QUEUE)
_HELD_OF: Final = select(g.key).where(select(c.task_id).where(c.live_gate == g.key, *_READY_AT).exists())
_SLEEPERS: Final = (
    select(c.task_id, c.flow)
    .where(c.live_gate.in_(_KEYS), *_READY_AT)
    .order_by(c.task_id)
    .with_for_update(skip_locked=True)
)
_WAIT: Final = select(c.task_id).where(c.live_gate == g.key, c.run_at == _AT, _STATUS == PENDING)
_AWAITED: Final = select(g.key).where(_WAIT.where(c.queue == _QUEUE).exists())
_FORGOTTEN: Final = select(g.key).where(_WAIT.exists(), g.next_at.is_(None))
_ALL: Final = select(g.key)
_NEXT_AT_TASKS: Final = select(func.min(c.live_gate)).where(c.live_gate > _KEY)
_ONE: Final = select(c.flow).where(*WAITS).limit(1)
_IDLE: Final = (
    g.fixed == false(),
    g.tat <= _NOW,
    g.closed_until <= _NOW,
    g.next_at.is_(None),
    ~select(c.task_id).where(c.live_gate == g.key).exists(),
    ~select(s.task_id).where(s.gate == g.key).exists(),
)
_UNUSED: Final = select(g.key).where(*_IDLE)
_DROP: Final = delete(GATES).where(g.key.in_(_KEYS), *_IDLE)
_ORPHANS: Final = select(s.task_id).where(~select(c.task_id).where(c.task_id == s.task_id, _LIVE).exists())


def keys_with_ready(connection: Connection, queue: str) -> list[str]:
    """Return the gates behind which tasks of a queue are ready."""
    return [row[0] for row in run(connection, _HELD_OF, {"queue": queue}).fetchall()]


def ready_behind(connection: Connection, keys: Sequence[str], queue: str) -> list[tuple[str, str | None]]:
    """Lock the tasks of a queue that are ready behind these gates; return their ids and flows."""
    return [(row[0], row[1]) for row in connection.execute(_SLEEPERS, {"keys": keys, "queue": queue})]


def awaited(connection: Connection, queue: str) -> list[str]:
    """Return the gates at which tasks of a queue wait."""
    return [row[0] for row in run(connection, _AWAITED, {"queue": queue}).fetchall()]


def forgotten(connection: Connection) -> dict[str, str | None]:
    """Return the gates at which tasks wait, and that have no ``next_at``; of missing ones with the flow of a task."""
    found: dict[str, str | None] = {row[0]: None for row in run(connection, _FORGOTTEN, {}).fetchall()}
    known = {row[0] for row in run(connection, _ALL, {}).fetchall()}
    key = run(connection, _NEXT_AT_TASKS, {"key_": ""}).fetchall()[0][0]
    while key is not None:
        if key not in known:
            found.update((key, row[0]) for row in run(connection, _ONE, {"key_": key}).fetchall())
        key = run(connection, _NEXT_AT_TASKS, {"key_": key}).fetchall()[0][0]
    return found


def drop_unused(connection: Connection, now: int) -> None:
    """Delete the gates at which nothing waits or holds a slot, and that are as new ones at ``now``; and lost slots."""
    unused = [row[0] for row in run(connection, _UNUSED, {"now": now}).fetchall()]
    for part in chunks(unused):
        connection.execute(_DROP, {"keys": list(locked(connection, part, wait=False)), "now": now})
    remove_slots(connection, [row[0] for row in run(connection, _ORPHANS, {}).fetchall()])
