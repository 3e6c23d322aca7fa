"""Moves the times in a SQLite file when the host's clock is set back, once for all processes that use the file."""

from __future__ import annotations

from sqlalchemy import Connection

from aiotaskq.backends.sql.transaction import SqlTransaction
from aiotaskq.core.firing import CLOCKS_DIFFER
from aiotaskq.core.gate import PARKED, set_back
from aiotaskq.core.task import SECOND
from aiotaskq.models import SQLITE_AT_GATE, SQLITE_READY

# Rows written between the step and its discovery have the new time already. They must not be over after the move.
_LEFT = 60 * SECOND
_ALL = 2**31  # more gates than there are
_TABLE = "CREATE TABLE IF NOT EXISTS aiotaskq_clock (id INTEGER PRIMARY KEY CHECK (id = 1), anchor BIGINT NOT NULL)"
_MOVES = (
    "UPDATE task_queue SET run_at = run_at - :back, due_at = due_at - :back "  # noqa: S608 - our own names
    f"WHERE status = 'pending' AND {SQLITE_READY} AND run_at > :now",
    f"UPDATE task_queue SET run_at = MAX(run_at - :back, {PARKED}), due_at = due_at - :back "  # noqa: S608
    f"WHERE status = 'pending' AND {SQLITE_AT_GATE} AND run_at >= {PARKED} AND due_at > :now",
    "UPDATE task_queue SET expires_at = MAX(expires_at - :back, :left) "
    "WHERE status = 'pending' AND expires_at IS NOT NULL AND expires_at > :left",
    "UPDATE task_queue SET lease_until = MAX(lease_until - :back, :left) "
    "WHERE status = 'running' AND lease_until > :left",
    "UPDATE aiotaskq_worker SET lease_until = MAX(lease_until - :back, :left) WHERE lease_until > :left",
)


def clock_set(connection: Connection, anchor: int, back: int, now: int) -> bool:
    """Do what ``Backend.clock_set`` says, in a transaction that has the write lock; return whether rows were moved."""
    connection.exec_driver_sql(_TABLE)
    known = connection.exec_driver_sql("SELECT anchor FROM aiotaskq_clock").scalar()
    if known is not None and abs(known - anchor) <= CLOCKS_DIFFER:
        return False  # another process has done it
    connection.exec_driver_sql("INSERT OR REPLACE INTO aiotaskq_clock VALUES (1, ?)", (anchor,))
    for words in _MOVES if back else ():
        connection.exec_driver_sql(words, {"back": back, "now": now, "left": now + _LEFT})
    if back:
        tx = SqlTransaction(connection)
        gates = [(gate, set_back(gate, back, now)) for gate in tx.find_gates(_ALL)]
        tx.write_gates([after for before, after in gates if after != before])
    return back > 0
