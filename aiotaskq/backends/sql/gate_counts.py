"""What the check of ``max_waiting`` reads of the gates of a database before a push in the transaction of a caller."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sqlalchemy import Connection

from aiotaskq.backends.sql import gate_repairs, gate_statements
from aiotaskq.core.gate import Gate, Starts


class SqlCounts:
    """What ``backends.max_waiting`` reads, without a lock."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def stored(self, keys: Collection[str]) -> dict[str, Gate]:
        return {gate.key: gate for gate in gate_statements.read(self._connection, keys, len(keys))}

    def held(self, keys: Collection[str]) -> dict[str, int]:
        return gate_statements.held(self._connection, keys)

    def starts(self, gates: Collection[Gate], now: int) -> dict[str, Starts]:
        return gate_statements.starts(self._connection, gates, now) if gates else {}

    def paused_queues(self) -> list[str]:
        return gate_repairs.paused(self._connection)

    def with_due(self, keys: Collection[str], now: int) -> set[str]:
        return gate_statements.with_due(self._connection, keys, now)

    def with_more_waiting(self, counts: Mapping[str, int]) -> set[str]:
        return gate_statements.with_more_waiting(self._connection, counts)
