"""A transaction of the package on a connection of a test's own."""

from __future__ import annotations

from sqlalchemy import Connection

from aiotaskq.backends.sql.dialects import dialect_of
from aiotaskq.backends.sql.transaction import SqlTransaction


def tx_on(connection: Connection) -> SqlTransaction:
    """Return the transaction in which a connection is."""
    return SqlTransaction(connection, dialect_of(connection), lambda ended, now: [])
