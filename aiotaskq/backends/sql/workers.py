"""The registry of workers in SQL, and the tasks that no worker holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Connection, Select, String, bindparam, delete, select, update

from aiotaskq.backends.sql.claim_statements import RUNNING
from aiotaskq.backends.sql.database import Database
from aiotaskq.backends.sql.dialects.base import Tx
from aiotaskq.backends.sql.rows import TASKS, json_text, to_task
from aiotaskq.backends.sql.statement_size import chunks
from aiotaskq.backends.workers import Workers
from aiotaskq.core.outcome import ALONE
from aiotaskq.core.status import Status
from aiotaskq.core.task import Task
from aiotaskq.core.worker_info import WorkerInfo
from aiotaskq.models import WorkerRow

_W: Any = WorkerRow.__table__
_ID = bindparam("b_owner", type_=String)
_NAMES = WorkerInfo.__struct_fields__
_LISTS = ("queues", "types", "limits")
_READ = select(*(_W.c[name] for name in _NAMES))
_HEARTBEAT = update(_W).where(_W.c.owner == _ID)
_REMOVE = delete(_W).where(_W.c.owner == _ID, _W.c.lease_until == bindparam("b_until", type_=BigInteger))
c = TASKS.c


class SqlWorkers(Workers):
    """The table ``aiotaskq_worker``."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._dialect = database.dialect
        self._autocommit = database.dialect.autocommit  # each write is one statement

    async def register(self, worker: WorkerInfo) -> None:
        row = _row(worker)
        await self._database.write(lambda c: Tx(c, self._dialect).replace(_W, tuple(row), [tuple(row.values())]))

    async def heartbeat(self, worker: WorkerInfo) -> bool:
        values = {**_row(worker), "b_owner": worker.owner}
        del values["quiet"], values["wanted_concurrency"]
        return await self._database.write(lambda c: bool(c.execute(_HEARTBEAT, values).rowcount), self._autocommit)

    async def steer(self, owner: str, *, quiet: bool | None = None, concurrency: int | None = None) -> bool:
        asked: dict[str, Any] = {}
        if quiet is not None:
            asked["quiet"] = quiet
        if concurrency is not None:
            asked["wanted_concurrency"] = concurrency
        statement = update(_W).where(_W.c.owner == owner).values(**asked)

        def body(connection: Connection) -> bool:
            # Read first: MySQL may count a row that is written as it was as none.
            there = connection.execute(select(_W.c.owner).where(_W.c.owner == owner)).first() is not None
            if there and asked:
                connection.execute(statement)
            return there

        return await self._database.write(body)

    async def remove(self, worker: WorkerInfo) -> bool:
        values = {"b_owner": worker.owner, "b_until": worker.lease_until}
        return await self._database.write(lambda c: bool(c.execute(_REMOVE, values).rowcount), self._autocommit)

    async def all(self) -> list[WorkerInfo]:
        query = _READ.order_by(_W.c.started_at, _W.c.owner)
        return [_info(row) for row in await self._database.read(lambda c: c.execute(query).all())]

    async def held(self, owner: str) -> list[tuple[str, int, bool]]:
        mine = (c.status == RUNNING, c.lease_owner.in_([owner, f"{owner}{ALONE}"]))
        query = select(c.task_id, c.fence, c.cancel_requested).where(*mine)
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return [(task_id, fence, bool(cancel)) for task_id, fence, cancel in rows]

    async def held_by(self, owners: Sequence[str]) -> dict[str, list[str]]:
        names = [name for owner in owners for name in (owner, f"{owner}{ALONE}")]
        found: dict[str, list[str]] = {owner: [] for owner in owners}

        def body(connection: Connection) -> None:  # in few statements: each open page of workers reads this
            for part in chunks(names):
                query = select(c.lease_owner, c.task_id).where(c.status == RUNNING, c.lease_owner.in_(part))
                for owner, task_id in connection.execute(query):
                    found[owner.removesuffix(ALONE)].append(task_id)

        await self._database.read(body)
        return found


def _row(worker: WorkerInfo) -> dict[str, Any]:
    row = msgspec.structs.asdict(worker)
    for name in _LISTS:
        row[name] = None if row[name] is None else json_text(row[name])
    return row


def _info(row: Sequence[Any]) -> WorkerInfo:
    values = dict(zip(_NAMES, row, strict=True))
    lists: dict[str, Any] = {
        name: None if (text := values.pop(name)) is None else tuple(msgspec.json.decode(text)) for name in _LISTS
    }
    return WorkerInfo(quiet=bool(values.pop("quiet")), **lists, **values)


_NEXT_OWNER = (
    select(c.lease_owner)
    .where(c.status == RUNNING, c.lease_owner > bindparam("last", type_=String))
    .order_by(c.lease_owner)
    .limit(1)
)


def _owners(connection: Connection) -> list[str]:
    """Return the owners of running tasks, with a statement for each, and without reading the rows between."""
    owners, last = [], ""
    while (found := connection.execute(_NEXT_OWNER, {"last": last}).scalar()) is not None:
        owners.append(found)
        last = found
    return owners


def overdue(tx: Tx, now: int, limit: int) -> list[Task]:
    connection = tx.connection
    # The owners before the workers: an owner of a task was registered before, and is there unless it was removed.
    owners = _owners(connection)
    workers = {row[0] for row in connection.execute(select(_W.c.owner))} if owners else set()
    gone = [owner for owner in owners if owner.removesuffix(ALONE) not in workers]
    # Owner by owner, in the order of the index: for a list of them PostgreSQL reads the rows of all others as well.
    orphans = [_of(owner).where(c.lease_until.is_(None)) for owner in gone]
    found = _read(connection, orphans, limit)
    queries = [_of(owner).where(c.lease_until <= now).order_by(c.lease_until) for owner in gone]
    queries += tx.dialect.expired(now)
    late = _read(connection, queries, limit) if len(found) < limit else []
    late.sort(key=lambda task: (task.expires_at if task.status is Status.PENDING else task.lease_until) or 0)
    return (found + late)[:limit]


def _of(owner: str) -> Select[Any]:
    return select(TASKS).where(c.status == RUNNING, c.lease_owner == owner)


def _read(connection: Connection, queries: Sequence[Select[Any]], limit: int) -> list[Task]:
    return [to_task(row) for query in queries for row in connection.execute(query.limit(limit))]
