"""The SQL of gates where queues are paused and resumed, and where other programs or lost processes left something."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import BigInteger, Connection, String, bindparam, delete, false, func, select

from aiotaskq.backends.sql.claim_statements import PAUSED, PENDING
from aiotaskq.backends.sql.gate_statements import LIVE, PARKED_AT, STATUS, WAITS, locked, remove_slots
from aiotaskq.backends.sql.rows import GATES, SLOTS, TASKS
from aiotaskq.backends.sql.statement_size import chunks
from aiotaskq.backends.sql.statements import run

c, g, s = TASKS.c, GATES.c, SLOTS.c

_KEYS: Final[Any] = bindparam("keys", expanding=True)
_KEY: Final = bindparam("key_", type_=String)
_NOW: Final = bindparam("now", type_=BigInteger)
_QUEUE: Final = bindparam("queue", type_=String)
_READY_AT: Final = (c.run_at < PARKED_AT, STATUS == PENDING, c.queue == _QUEUE)
_HELD_OF: Final = select(g.key).where(select(c.task_id).where(c.live_gate == g.key, *_READY_AT).exists())
_SLEEPERS: Final = (
    select(c.task_id, c.flow, c.live_gate)
    .where(c.live_gate.in_(_KEYS), *_READY_AT)
    .order_by(c.task_id)
    .with_for_update(skip_locked=True)
)
_WAIT: Final = select(c.task_id).where(c.live_gate == g.key, c.run_at == PARKED_AT, STATUS == PENDING)
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
_ORPHANS: Final = select(s.task_id).where(~select(c.task_id).where(c.task_id == s.task_id, LIVE).exists())


def paused(connection: Connection) -> list[str]:
    """Return the paused queues."""
    return [row[0] for row in run(connection, PAUSED, {}).fetchall()]


def paused_with_ready(connection: Connection) -> list[str]:
    """Return the paused queues of which tasks are ready behind gates: a process has died while it paused them."""
    return [queue for queue in paused(connection) if keys_with_ready(connection, queue)]


def keys_with_ready(connection: Connection, queue: str) -> list[str]:
    """Return the gates behind which tasks of a queue are ready."""
    return [row[0] for row in run(connection, _HELD_OF, {"queue": queue}).fetchall()]


def ready_behind(connection: Connection, keys: Sequence[str], queue: str) -> list[tuple[str, str | None, str]]:
    """Lock the tasks of a queue that are ready behind these gates; return their ids, flows and gates."""
    return [(row[0], row[1], row[2]) for row in connection.execute(_SLEEPERS, {"keys": keys, "queue": queue})]


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
