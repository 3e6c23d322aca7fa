"""The audit log in SQL: a row for each entry."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Connection, delete, insert, select

from aiotaskq.backends.audit import AuditLog
from aiotaskq.backends.sql.database import Database
from aiotaskq.core.audit import AuditEntry
from aiotaskq.models import AuditRow

_A: Any = AuditRow.__table__
c = _A.c
_INSERT = insert(_A)
_NEWEST = (c.at.desc(), c.id.desc())
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(tuple[str, ...]).decode


class SqlAuditLog(AuditLog):
    """The table ``aiotaskq_audit``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, entry: AuditEntry, before: int, most: int) -> None:
        row = {**msgspec.structs.asdict(entry), "targets": _encode(entry.targets).decode()}

        def body(connection: Connection) -> None:
            connection.execute(_INSERT, [row])
            connection.execute(delete(_A).where(c.at < before))
            last = connection.execute(select(c.at).order_by(*_NEWEST).offset(most).limit(1)).scalar()
            if last is not None:  # as a rule no other one is of the same microsecond
                connection.execute(delete(_A).where(c.at <= last))

        await self._database.write(body)

    async def read(self, limit: int) -> list[AuditEntry]:
        query = select(_A).order_by(*_NEWEST).limit(limit)
        rows = await self._database.read(lambda connection: connection.execute(query).mappings().all())
        return [_entry(**row) for row in rows]


def _entry(targets: str, **row: Any) -> AuditEntry:
    return AuditEntry(**row, targets=_decode(targets))
