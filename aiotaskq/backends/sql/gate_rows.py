"""The part of a transaction in SQL that reads and writes gates: locks, counts of slots, and the tasks that wait.

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
    Delete,
    Select,
    String,
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

from aiotaskq.backends.flow.transaction import Waiting
from aiotaskq.backends.sql.claim_statements import BELOW_ALL, PAUSED, PENDING, RUNNING
from aiotaskq.backends.sql.dialects.base import Dialect, Order, PerKey, Tx
from aiotaskq.backends.sql.rows import GATES, SLOTS, TASKS, decode_flow, read_run_at
from aiotaskq.backends.sql.statement_size import chunks
from aiotaskq.backends.sql.statements import run
from aiotaskq.core.gate import PARKED, Bounds, Flow, Gate, Starts
from aiotaskq.core.parking import slots
from aiotaskq.core.task import Task

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


def gate_row(gate: Gate) -> tuple[Any, ...]:
    """Return all columns of a gate."""
    bounds = gate.bounds
    values = (gate.key, bounds.cap, bounds.window, bounds.interval, bounds.burst, bounds.max_waiting, gate.fixed)
    return (*values, gate.tat, gate.charged_until, gate.closed_until, gate.next_at)


def _gate(row: Sequence[Any]) -> Gate:
    key, cap, window, interval, burst, max_waiting, fixed, *state = row
    bounds = Bounds(cap=cap, window=window, interval=interval, burst=burst, max_waiting=max_waiting)
    return Gate(key=key, bounds=bounds, fixed=bool(fixed), **dict(zip(STATE, state, strict=True)))


_READ: Final = select(*(g[name] for name in COLUMNS + STATE))


@functools.cache
def _gates_by_key(dialect: Dialect, lock: bool, wait: bool) -> Select[Any]:
    query = _READ.where(dialect.among(g.key, "keys"))
    # Every transaction locks in this order, whatever the collation of the database: else two may wait for each other.
    return query.order_by(dialect.by_bytes(g.key)).with_for_update(skip_locked=not wait) if lock else query


_FIRST: Final = _READ.order_by(g.key).limit(_LIMIT)


@functools.cache
def _counting(dialect: Dialect, all_waiting: bool) -> CompoundSelect[Any]:
    """Return the query that counts what holds a slot of each gate, and what waits there: all, or 1 if any does."""

    def here(kind: str, *where: ColumnElement[bool]) -> Select[Any]:
        counted = select(c.live_gate, func.count(), literal_column(kind))
        return counted.where(dialect.among(c.live_gate, "keys"), *where).group_by(c.live_gate)

    one: ColumnElement[int] = literal_column("1")
    beyond = select(s.gate, func.count(), one).select_from(SLOTS.join(TASKS, s.task_id == c.task_id))
    held = here("1", *_PASSED), dialect.by_id(beyond.where(dialect.among(s.gate, "keys"), LIVE).group_by(s.gate))
    if all_waiting:
        return union_all(*held, here("0", c.run_at >= PARKED_AT, STATUS == PENDING))
    waits = _one_beyond(g.key, literal_column("0")).with_only_columns(one).correlate(GATES)
    awaited = dialect.by_gate(waits).scalar_subquery().is_not(None)
    gates = select(g.key, one, literal_column("0")).where(dialect.among(g.key, "keys"), awaited)
    return union_all(*held, dialect.by_id(gates, GATES))


def _held_of(key: ColumnElement[str], _limit: ColumnElement[int]) -> Select[Any]:
    """Return the query that counts the slots held of one gate at which a task waits; no row for other gates.

    It is for ``Dialect.keeps_entries``.
    """
    t = TASKS.alias("earliest")
    live = func.coalesce(t.c.status, PENDING).in_([PENDING, RUNNING])
    # From the earliest live task on: before it the index has an entry of each task that has had a slot since the last
    # vacuum. Only an index scan marks and skips dead entries; a bound unknown to the planner keeps it from a bitmap.
    lowest = select(literal_column(str(BELOW_ALL))).scalar_subquery()
    earliest = select(t.c.run_at).where(t.c.live_gate == key, t.c.run_at < PARKED_AT, t.c.run_at > lowest, live)
    earliest = earliest.order_by(t.c.run_at).limit(1).correlate_except(t)
    first_on = c.run_at >= earliest.scalar_subquery()
    rows = SLOTS.join(TASKS, s.task_id == c.task_id)
    beyond = select(func.count()).select_from(rows).where(s.gate == key, LIVE).correlate_except(TASKS, SLOTS)
    columns: Sequence[Any] = (key.label("key_"), func.count() + beyond.scalar_subquery())
    waits = select(t.c.task_id).where(*parked_at(key, t)).order_by(t.c.run_at).limit(1).correlate_except(t)
    return select(*columns).where(c.live_gate == key, *_PASSED, first_on).having(waits.scalar_subquery().is_not(None))


@functools.cache
def _remove(dialect: Dialect) -> Delete:
    return delete(SLOTS).where(dialect.among(s.task_id, "ids"))


@functools.cache
def _lost_slots(dialect: Dialect) -> Select[Any]:
    there = select(c.task_id).where(c.task_id == s.task_id, LIVE)
    return select(s.gate, s.task_id).where(dialect.among(s.gate, "keys"), ~there.exists())


def _waits(key: ColumnElement[str]) -> tuple[ColumnElement[bool], ...]:
    """Return the condition of the tasks that wait at a gate, but for those that were not due."""
    return c.live_gate == key, c.run_at == PARKED_AT, STATUS == PENDING


def _later(key: ColumnElement[str]) -> tuple[ColumnElement[bool], ...]:
    """Return the condition of the tasks at a gate that were not due: see ``rows.stored_run_at``."""
    return c.live_gate == key, c.run_at > PARKED_AT, STATUS == PENDING


def _is_alive(now: ColumnElement[int]) -> ColumnElement[bool]:
    """Return the condition that a task has not expired."""
    return func.coalesce(c.expires_at, PARKED_AT) > now  # an expression: no plan takes the index on expires_at


def parked_at(key: ColumnElement[str], rows: Any = TASKS) -> tuple[ColumnElement[bool], ...]:
    """Return the condition of all tasks that wait at a gate."""
    return rows.c.live_gate == key, rows.c.run_at >= PARKED_AT, func.coalesce(rows.c.status, PENDING) == PENDING


def _one_beyond(key: ColumnElement[str], count: ColumnElement[int]) -> Select[Any]:
    return select(key.label("key_")).where(*parked_at(key)).select_from(TASKS).limit(1).offset(count)


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


_READY: Final = select(c.task_id).where(c.run_at < PARKED_AT, STATUS == PENDING)
_BEYOND: Final = select(s.task_id)
_UNSTARTED: Final = select(c.task_id, c.flow, c.gate, c.run_at, c.due_at, c.seq, c.queue).where(STATUS == PENDING)

_WAITING_COLUMNS: Final = (c.task_id, c.priority, c.due_at, c.flow, c.expires_at, c.queue)
_OPEN: Final = c.queue.not_in(PAUSED)
_ORDER: Final = (c.priority, c.due_at, c.seq)
_ORDERED: Final = select(*_ORDER, c.task_id).order_by(*_ORDER)
_IS_DUE: Final = func.coalesce(c.due_at, literal_column("0")) <= _NOW
_DUE_FIRST: Final = (
    select(*_WAITING_COLUMNS).where(*_waits(_KEY), _OPEN, _IS_DUE, _is_alive(_NOW)).order_by(*_ORDER).limit(_LIMIT)
)
_NEXT_DUE: Final = select(c.run_at - PARKED_AT).where(*_later(_KEY)).order_by(c.run_at).limit(1)
_RELEASE: Final = update(TASKS).values(run_at=PARKED_AT)


def _first(key: ColumnElement[str], limit: ColumnElement[int]) -> Select[Any]:
    return select(key.label("key_"), *_WAITING_COLUMNS).where(*_waits(key), _OPEN).order_by(*_ORDER).limit(limit)


def _one_due_by_now(key: ColumnElement[str], now: ColumnElement[int]) -> Select[Any]:
    query = select(key.label("key_")).where(*_later(key), c.run_at <= PARKED_AT + now, _OPEN, _is_alive(now))
    return query.select_from(TASKS).limit(1)


@functools.cache
def _due_by_now(dialect: Dialect) -> Select[Any]:
    query = select(c.task_id).where(dialect.among(c.live_gate, "keys"), *_later(c.live_gate)[1:])
    return query.where(c.run_at <= PARKED_AT + _NOW).order_by(c.task_id).with_for_update(skip_locked=True)


@functools.cache
def _free(dialect: Dialect) -> Select[Any]:
    # The guard of a task that is found by its id. With ``abs`` no plan takes the index of the gate instead.
    still_parked = (func.abs(c.run_at) == PARKED_AT, STATUS == PENDING)
    query = select(c.task_id, c.live_gate).where(dialect.among(c.task_id, "keys"), *still_parked)
    return dialect.by_id(query.order_by(c.task_id).with_for_update(skip_locked=True))


@functools.lru_cache(maxsize=64)
def _flow(text: str | None) -> Flow:
    """Return the flow of a task with gates; most tasks at a gate have the same."""
    return Flow() if text is None else decode_flow(text)


class GateRows(Tx):
    """Gates, their slots, and what waits there, in the transaction of a connection."""

    def each(self, query: PerKey, limits: Mapping[str, int], order: Order = ()) -> Iterator[Any]:
        """Yield the rows of a query for each key with its limit."""
        for part in chunks(list(limits)):
            yield from self.dialect.each(self.connection, query, {key: limits[key] for key in part}, order)

    # ---- gates ----

    def _read(self, keys: Collection[str], lock: bool, wait: bool = True) -> dict[str, Gate]:
        statement = _gates_by_key(self.dialect, lock, wait)
        return {row[0]: _gate(row) for row in self.rows_for(statement, sorted(keys), {})}

    def gates(self, known: Mapping[str, Bounds | None], wait: bool = True) -> dict[str, Gate]:
        found = self._read(known, True, wait) if known else {}
        new = [key for key in sorted(known) if key not in found] if wait else []
        if new:
            gates = [Gate(key=key, bounds=known[key] or Bounds()) for key in new]
            # Those that were inserted are locked, too.
            found |= {gate.key: gate for gate in gates} if self._add(gates) else self._read(new, True)
        return found

    def stored_gates(self, keys: Collection[str]) -> dict[str, Gate]:
        return self._read(keys, False)

    def find_gates(self, limit: int, prefix: str = "") -> list[Gate]:
        """Read gates without a lock, in the order of their keys."""
        query = _FIRST if not prefix else _FIRST.where(*self.dialect.begins_with(g.key, prefix))
        return [_gate(row) for row in self.connection.execute(query, {"limit": limit})]

    def _add(self, gates: Sequence[Gate]) -> bool:
        return self.insert_new(GATES, COLUMNS + STATE, list(map(gate_row, gates))) == len(gates)

    def add_gates(self, gates: Sequence[Gate]) -> None:
        if gates:
            self._add(gates)

    def write_gates(self, gates: Sequence[Gate]) -> None:
        if gates:
            self.replace(GATES, COLUMNS + STATE, list(map(gate_row, gates)))

    # ---- slots ----

    def held(self, keys: Collection[str]) -> dict[str, int]:
        if self.dialect.keeps_entries:
            return dict(self.each(_held_of, dict.fromkeys(keys, 0)))
        held, waits = self._counts(keys, False)
        return {key: held[key] for key in keys if waits[key]}

    def counts(self, keys: Collection[str]) -> dict[str, tuple[int, int]]:
        # In one statement, so in one snapshot: else a task that passes meanwhile would be in neither count, or in both.
        held, waiting = self._counts(keys, True)
        return {key: (held[key], waiting[key]) for key in keys}

    def recount(self, keys: Collection[str]) -> set[str]:
        lost = self.rows_for(_lost_slots(self.dialect), list(keys), {})
        self.remove_slots([task_id for _, task_id in lost])
        return {key for key, _ in lost}

    def drop_gates(self, keys: Collection[str]) -> None:
        for part in chunks(list(keys)):
            self.connection.execute(delete(GATES).where(g.key.in_(part)))

    def _counts(self, keys: Collection[str], all_waiting: bool) -> tuple[dict[str, int], dict[str, int]]:
        waiting, held = dict.fromkeys(keys, 0), dict.fromkeys(keys, 0)
        for key, count, holds in self.rows_for(_counting(self.dialect, all_waiting), sorted(keys), {}):
            (held if holds else waiting)[key] += count
        return held, waiting

    def tasks_at(self, key: str, limit: int) -> tuple[list[str], list[str]]:
        """Return the ids of some tasks that hold a slot of a gate, and of the first ones that wait there."""
        here = select(c.task_id).where(c.live_gate == key, *_PASSED).limit(limit)
        beyond = select(c.task_id).select_from(SLOTS.join(TASKS, s.task_id == c.task_id)).where(s.gate == key, LIVE)
        held = [row[0] for query in (here, beyond.limit(limit)) for row in self.connection.execute(query)]
        waiting = [
            tuple(row)
            for places in (_waits, _later)
            for row in self.connection.execute(_ORDERED.where(*places(literal(key))).limit(limit))
        ]
        return held[:limit], [row[-1] for row in sorted(waiting)[:limit]]

    def starts(self, gates: Collection[Gate], now: int) -> dict[str, Starts]:
        """Return the starts, but for those that are charged before ``now``."""
        since = {gate.key: gate.charged_until if gate.charged_until <= now else 0 for gate in gates}
        unstarted = dict.fromkeys(since, 0)
        started: dict[str, list[tuple[int, int]]] = {key: [] for key in since}
        for query in (_starts_here, _starts_beyond) if since else ():
            for key, at, text in self.each(query, since):
                tokens = _flow(text).tokens(key)
                if at is None:
                    unstarted[key] += tokens
                else:
                    started[key].append((at, tokens))
        return {key: Starts(unstarted[key], started[key]) for key in since}

    def note_slots(self, changes: Sequence[tuple[Task, Task]]) -> None:
        """Remove the slots of gates that written tasks have passed, where they hold none any more."""
        several = [(before, after) for before, after in changes if before.flow and len(before.flow.gates) > 1]
        self.remove_slots([after.task_id for _, after in several if not slots(after)])

    def remove_slots(self, ids: Sequence[str]) -> None:
        """Remove the slots of tasks that have ended, or wait at their first gate again."""
        for part in chunks(ids):
            self.dialect.run_among(self.connection, _remove(self.dialect), "ids", part, {})

    def unstarted(self, keys: Collection[str], queue: str | None) -> list[Task]:
        of_queue = () if queue is None else (c.queue == queue,)
        places = ((_READY.where(*of_queue), c.live_gate), (_BEYOND, s.gate))
        ids = {row[0] for query, column in places for row in self.rows_in(query, column, sorted(keys))}
        query = _UNSTARTED.where(*of_queue).order_by(c.task_id).with_for_update(skip_locked=True)
        found = []
        for task_id, text, gate, run_at, *rest in self.rows_in(self.dialect.by_id(query), c.task_id, sorted(ids)):
            place = dict(zip(("due_at", "seq", "queue"), rest, strict=True))
            task = Task(task_id=task_id, type="", flow=_flow(text), gate=gate, run_at=read_run_at(run_at), **place)
            found.append(task)
        return found

    # ---- what waits ----

    def waiting(self, limits: Mapping[str, int], now: int) -> dict[str, Waiting]:
        seen: dict[str, list[Any]] = {key: [] for key in limits}
        for key, *row in self.each(_first, limits, _ORDER):
            seen[key].append(row)
        found: dict[str, Waiting] = {}
        for key, rows in seen.items():
            due = [row for row in rows if (row[2] is None or row[2] <= now) and (row[4] is None or row[4] > now)]
            # Pushed by a clock ahead of this one.
            next_due = min((row[2] for row in rows if row[2] is not None and row[2] > now), default=None)
            if len(rows) == limits[key] > len(due):
                due = list(run(self.connection, _DUE_FIRST, {"key_": key, "now": now, "limit": limits[key]}).fetchall())
            found[key] = [self._task(row, key) for row in due[: limits[key]]], next_due
        return found

    def _task(self, row: Sequence[Any], key: str) -> Task:
        task_id, priority, due_at, text, _, queue = row
        place = {"run_at": PARKED, "due_at": due_at, "gate": key, "queue": queue}
        return Task(task_id=task_id, type="", priority=priority, flow=_flow(text), **place)

    def with_due(self, keys: Collection[str], now: int) -> set[str]:
        waits = {key for key, (tasks, _) in self.waiting(dict.fromkeys(keys, 1), now).items() if tasks}
        rest = dict.fromkeys([key for key in keys if key not in waits], now)
        return waits | {key for (key,) in self.each(_one_due_by_now, rest)}

    def with_more_waiting(self, most: Mapping[str, int]) -> set[str]:
        return {key for (key,) in self.each(_one_beyond, most)}

    def release(self, keys: Collection[str], now: int) -> None:
        # A task that another transaction has locked is left out.
        found = self.rows_for(_due_by_now(self.dialect), sorted(keys), {"now": now})
        if found:
            self.dialect.set_on(self.connection, _RELEASE, [row[0] for row in found], {})

    def next_due(self, key: str) -> int | None:
        return next((row[0] for row in run(self.connection, _NEXT_DUE, {"key_": key}).fetchall()), None)

    def paused_queues(self) -> list[str]:
        return [row[0] for row in run(self.connection, PAUSED, {}).fetchall()]

    def let_pass(self, changes: Sequence[tuple[Task, Task]]) -> Collection[str]:
        # No other transaction has locked what this one has inserted.
        locks, new = not self.dialect.single_writer, self.new
        at = {before.task_id: before.gate for before, _ in changes if locks and before.task_id not in new}
        rows = self.rows_for(_free(self.dialect), sorted(at), {}) if at else ()
        locked = at.keys() - {task_id for task_id, gate in rows if gate == at[task_id]}
        passed = [(before, after) for before, after in changes if after.task_id not in locked]
        ready = [(after.run_at, None, after.task_id) for _, after in passed if not after.parked]
        moved = [(before.gate, after) for before, after in passed if after.parked]
        if ready:
            self.dialect.set_each(self.connection, ("run_at", "due_at"), ready)
        if moved:
            places = [(PARKED, after.due_at, after.gate, after.gate, after.task_id) for _, after in moved]
            self.dialect.set_each(self.connection, ("run_at", "due_at", "gate", "live_gate"), places)
            self.insert_new(SLOTS, ("gate", "task_id"), [(gate, after.task_id) for gate, after in moved])
        return locked
