"""The SQL of gates where queues are paused and resumed, and where other programs or lost processes left something."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from sqlalchemy import BigInteger, Connection, String, bindparam, delete, false, func, select, update

from aiotaskq.backends.sql.claim_statements import PAUSED, PENDING
from aiotaskq.backends.sql.dialects import dialect_of
from aiotaskq.backends.sql.gate_statements import LIVE, PARKED_AT, STATUS, locked, parked_at, remove_slots
from aiotaskq.backends.sql.rows import GATES, SLOTS, TASKS, decode_flow, read_run_at, stored_run_at
from aiotaskq.backends.sql.statement_size import chunks
from aiotaskq.backends.sql.statements import run
from aiotaskq.core.gate import Bounds
from aiotaskq.core.parking import holds_back, parked_again, slots
from aiotaskq.core.task import Task

c, g, s = TASKS.c, GATES.c, SLOTS.c

_KEYS: Final[Any] = bindparam("keys", expanding=True)
_KEY: Final = bindparam("key_", type_=String)
_NOW: Final = bindparam("now", type_=BigInteger)
_QUEUE: Final = bindparam("queue", type_=String)
_READY_AT: Final = (c.run_at < PARKED_AT, STATUS == PENDING, c.queue == _QUEUE)
_HELD_OF: Final = select(g.key).where(select(c.task_id).where(c.live_gate == g.key, *_READY_AT).exists())
_HELD_BEYOND_OF: Final = (
    select(s.gate)
    .select_from(SLOTS.join(TASKS, s.task_id == c.task_id))
    .where(STATUS == PENDING, c.queue == _QUEUE)
    .distinct()
)
_READY: Final = select(c.task_id).where(c.run_at < PARKED_AT, STATUS == PENDING)
_BEYOND: Final = select(s.task_id)
_UNSTARTED: Final = select(c.task_id, c.flow, c.gate, c.run_at, c.due_at, c.seq).where(STATUS == PENDING)
_PLACE: Final = ("run_at", "due_at", "gate", "live_gate")
_PARK: Final = update(TASKS).where(c.task_id == bindparam("b_id")).values({name: bindparam(name) for name in _PLACE})
_WAIT: Final = select(c.task_id).where(*parked_at(g.key))
_AWAITED: Final = select(g.key).where(_WAIT.where(c.queue == _QUEUE).exists())
_FORGOTTEN: Final = select(g.key).where(_WAIT.exists(), g.next_at.is_(None))
_ALL: Final = select(g.key)
_NEXT_AT_TASKS: Final = select(func.min(c.live_gate)).where(c.live_gate > _KEY)
_ONE: Final = select(c.flow).where(*parked_at(_KEY)).limit(1)
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
_ORPHANS: Final = select(s.task_id).where(~select(c.task_id).where(c.task_id == s.task_id, LIVE).exists())


def paused(connection: Connection) -> list[str]:
    """Return the paused queues."""
    return [row[0] for row in run(connection, PAUSED, {}).fetchall()]


def paused_with_slots(connection: Connection) -> list[str]:
    """Return the paused queues of which waiting tasks hold slots: a process has died while it paused them."""
    return [queue for queue in paused(connection) if held_by_waiting(connection, queue)]


def held_by_waiting(connection: Connection, queue: str) -> list[str]:
    """Return the gates of which tasks of a queue hold a slot that have not started."""
    found = [run(connection, query, {"queue": queue}).fetchall() for query in (_HELD_OF, _HELD_BEYOND_OF)]
    return sorted({row[0] for rows in found for row in rows})


def park_unstarted(connection: Connection, keys: Collection[str], queue: str | None = None) -> dict[str, Bounds | None]:
    """Park the tasks that have passed these gates and have not started; return the gates at which others may pass.

    With ``queue`` only those of this queue. The gates are locked. A task that another transaction has locked is left:
    it is about to start, or to end.
    """
    ids: set[str] = set()
    of_queue = () if queue is None else (c.queue == queue,)
    for part in chunks(sorted(keys)):
        for query in (_READY.where(c.live_gate.in_(part), *of_queue), _BEYOND.where(s.gate.in_(part))):
            ids.update(connection.execute(query).scalars())
    freed: dict[str, Bounds | None] = {}
    rows: list[dict[str, Any]] = []
    for part in chunks(sorted(ids)):
        query = _UNSTARTED.where(c.task_id.in_(part), *of_queue).order_by(c.task_id).with_for_update(skip_locked=True)
        for row in connection.execute(dialect_of(connection).by_id(query)):
            task = _task(row)
            if task is None or not slots(task):
                continue
            after = parked_again(task)
            assert task.flow is not None
            touched = (*slots(task), holds_back(task), after.gate)
            freed |= {key: bounds for key, bounds in task.flow.gates if key in touched}
            values = (stored_run_at(after), after.due_at, after.gate, after.gate)
            rows.append({"b_id": task.task_id, **dict(zip(_PLACE, values, strict=True))})
    if rows:
        connection.execute(_PARK, rows)
        remove_slots(connection, [row["b_id"] for row in rows])
    return freed


def _task(row: Any) -> Task | None:
    flow = None if row.flow is None else decode_flow(row.flow)
    if flow is None or not flow.gates:
        return None
    run_at = read_run_at(row.run_at)
    return Task(task_id=row.task_id, type="", run_at=run_at, due_at=row.due_at, seq=row.seq, flow=flow, gate=row.gate)


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
