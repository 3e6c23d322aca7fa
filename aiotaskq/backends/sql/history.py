"""The history in SQL: sums are read, added to and written under one lock, since SQL does not add histograms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import BigInteger, Connection, Integer, String, bindparam, delete, insert, select, update

from aiotaskq.backends.history import History
from aiotaskq.backends.sql.database import Database
from aiotaskq.backends.sql.rows import json_text, read_usage
from aiotaskq.backends.sql.statement_size import chunks
from aiotaskq.core.history import WIDTHS, Period, Roll, added_up, widened
from aiotaskq.models import HistoryRow

_H: Any = HistoryRow.__table__
c = _H.c
_READ = select(c.at, c.seconds, c.queue, c.task_type, c.kind, c.n, c.run_us, c.wait_us, c.runs, c.waits, c.usage)
_INSERT = insert(_H)
_WRITE = (
    update(_H)
    .where(c.seconds == bindparam("b_seconds", type_=Integer), c.at == bindparam("b_at", type_=BigInteger))
    .where(*(column == bindparam(f"b_{column.name}", type_=String) for column in (c.queue, c.task_type, c.kind)))
)
_KEY = ("seconds", "at", "queue", "kind")
_SUMS = ("n", "run_us", "wait_us", "runs", "waits")  # and usage


class SqlHistory(History):
    """The table ``aiotaskq_history``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, periods: Sequence[Period]) -> None:
        def body(connection: Connection) -> None:
            self._lock(connection)
            _add(connection, periods)

        if periods:
            await self._database.write(body)

    def _lock(self, connection: Connection) -> None:
        if (lock := self._database.dialect.lock_history) is not None:
            connection.execute(lock)

    async def read(self, since: int, until: int, *, queue: str | None = None, type: str | None = None) -> list[Period]:
        query = _READ.where(c.seconds.in_(WIDTHS), c.at >= since, c.at < until)
        for column, value in ((c.queue, queue), (c.task_type, type)):
            if value is not None:
                query = query.where(column == value)

        def body(connection: Connection) -> list[Period]:  # on the connection's thread, where it has one
            return sorted(map(_period, connection.execute(query)), key=lambda period: period.key)

        return await self._database.read(body)

    async def roll(self, roll: Roll, limit: int) -> int:
        old = (c.seconds == roll.seconds, c.at < roll.before)
        look = select(c.at).where(*old).order_by(c.at).limit(limit)
        if not await self._database.read(lambda connection: connection.execute(look.limit(1)).all()):
            return 0  # nearly always: no lock for that

        def body(connection: Connection) -> int:
            self._lock(connection)
            begins = connection.execute(look).scalars().all()
            if not begins:
                return 0
            taken = (c.seconds == roll.seconds, c.at <= begins[-1])
            periods = [_period(row) for row in connection.execute(_READ.where(*taken))]
            connection.execute(delete(_H).where(*taken))
            if roll.into is not None:
                _add(connection, [widened(period, roll.into) for period in periods])
            return len(periods)

        return await self._database.write(body)


def _add(connection: Connection, periods: Iterable[Period]) -> None:
    """Add periods to the rows that are there; needs the lock."""
    new = added_up(periods)
    there: dict[Any, Period] = {}
    for seconds in {period.seconds for period in new}:
        for part in chunks(sorted({period.at for period in new if period.seconds == seconds})):
            rows = connection.execute(_READ.where(c.seconds == seconds, c.at.in_(part)))
            there.update((found.key, found) for found in map(_period, rows))
    known = [period for period in new if period.key in there]
    if known:
        connection.execute(_WRITE, [_changed(added_up([there[period.key], period])[0]) for period in known])
    if len(known) < len(new):
        connection.execute(_INSERT, [_row(period) for period in new if period.key not in there])


def _period(row: Any) -> Period:
    at, seconds, queue, type_, kind, n, run_us, wait_us, runs, waits, usage = row
    used = {} if usage is None else read_usage(usage) or {}
    return Period(at, seconds, queue, type_, kind, n, run_us, wait_us, runs or "", waits or "", used)


def _row(period: Period) -> dict[str, Any]:
    return {"task_type": period.type, **{name: getattr(period, name) for name in _KEY}, **_sums(period)}


def _sums(period: Period) -> dict[str, Any]:
    usage = json_text(period.usage) if period.usage else None
    return {**{name: getattr(period, name) for name in _SUMS}, "usage": usage}


def _changed(period: Period) -> dict[str, Any]:
    key = {f"b_{name}": getattr(period, name) for name in _KEY}
    return {**key, "b_task_type": period.type, **_sums(period)}
