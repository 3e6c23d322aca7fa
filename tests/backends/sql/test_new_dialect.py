"""A new SQL database is one module in ``dialects`` and a row in the table of schemes: PostgreSQL under a new name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
from alembic.ddl.postgresql import PostgresqlImpl
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg

from aiotaskq.backends import BACKENDS, connect
from aiotaskq.backends.base import Change
from aiotaskq.backends.sql.backend import SqlBackend
from aiotaskq.backends.sql.dialects import dialect_named
from aiotaskq.backends.sql.dialects.postgresql import PostgresqlDialect
from aiotaskq.backends.url import SQL
from aiotaskq.core.outcome import Completed, settle
from aiotaskq.core.status import Status
from tests.support.rows import LEASE, NOW, new
from tests.support.servers import postgresql


class NewDriver(PGDialect_asyncpg):
    """What a plugin of SQLAlchemy adds for the database."""

    name = "newdb"
    supports_statement_cache = True


class NewOperations(PostgresqlImpl):
    """What a plugin adds for Alembic."""

    __dialect__ = "newdb"


class NewDialect(PostgresqlDialect):
    """A database without the NOTIFY of PostgreSQL, and without its planner."""

    name = "newdb"
    options = frozenset({"sslmode"})
    session_settings = ""


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = postgresql()
    module = ModuleType("aiotaskq.backends.sql.dialects.newdb")
    module.DIALECT = NewDialect()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(SQL, "newdb", "newdb")
    monkeypatch.setitem(BACKENDS, "newdb", BACKENDS["postgresql"])
    registry.register("newdb.asyncpg", __name__, "NewDriver")
    yield server.create("newdb").replace("postgresql://", "newdb://")
    dialect_named.cache_clear()
    server.drop("newdb")


async def test_tasks_are_pushed_claimed_and_settled(url: str) -> None:
    backend = connect(url)
    assert isinstance(backend, SqlBackend) and isinstance(backend.database.dialect, NewDialect)
    await backend.open()
    try:
        tasks = [new(params={"n": n}) for n in range(3)]
        assert await backend.push(tasks) == tasks
        claimed = await backend.claim("o", NOW, 10, lease_until=LEASE)
        assert [task.task_id for task in claimed] == [task.task_id for task in tasks]
        changes = [Change(task, settle(task, Completed(1), NOW)) for task in claimed]
        assert await backend.update(changes) == [True] * 3
        assert (await backend.stats(NOW)).counts[Status.COMPLETED] == 3
    finally:
        await backend.close()
