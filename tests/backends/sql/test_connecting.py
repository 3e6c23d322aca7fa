"""A connection to PostgreSQL that cannot be made ready is not left open."""

from __future__ import annotations

import asyncio
import gc

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from aiotaskq.backends.sql.dialects.postgresql import PostgresqlDialect
from aiotaskq.backends.sql.engines import parse_url, sync_engine
from tests.support.servers import postgresql
from tests.support.waiting import eventually

OTHERS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


class Wrong(PostgresqlDialect):
    session_settings = "SET no_such_setting = 1"


class Slow(PostgresqlDialect):
    session_settings = "SET client_connection_check_interval = 100; SELECT pg_sleep(3600)"


@pytest.mark.parametrize(("kind", "error"), [(Wrong, DBAPIError), (Slow, asyncio.CancelledError)])
async def test_a_connection_whose_settings_fail_or_are_cut_off_is_closed(
    kind: type[PostgresqlDialect], error: type[BaseException]
) -> None:
    url = await asyncio.to_thread(postgresql(durable=False).create, f"connecting_{kind.__name__.lower()}")
    engine = kind().async_engine(parse_url(url), own=True)
    watching = sync_engine(url, isolation_level="AUTOCOMMIT")
    with watching.connect() as watch:

        def others() -> int:
            return int(watch.execute(sa.text(OTHERS)).scalar_one())

        connecting = asyncio.create_task(engine.connect().start())
        if kind is Slow:
            await eventually(lambda: others() == 1)
            connecting.cancel()
        with pytest.raises(error):
            await connecting
        await eventually(lambda: others() == 0)
        gc.collect()  # a connection that is closed by this is reported, and fails the test
    watching.dispose()
    await engine.dispose()
