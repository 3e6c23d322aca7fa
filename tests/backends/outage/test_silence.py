"""A database server that falls silent: callers get an answer in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Any

import pytest
from sqlalchemy import Connection, text

from aiotaskq.backends.sql import connecting, server_connections
from aiotaskq.backends.sql import connecting as watch
from aiotaskq.backends.sql.backend import SqlBackend
from aiotaskq.errors import DatabaseUnavailable
from tests.backends.outage.place import Place, fill_pool
from tests.support.machine import within
from tests.support.proxy import Proxy
from tests.support.rows import LEASE, NOW, new


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less patience than in real life."""
    monkeypatch.setattr(watch, "STATEMENT_TIMEOUT", 4.0)
    monkeypatch.setattr(connecting, "CONNECT_TIMEOUT", 3.0)


async def test_a_silent_server_holds_nobody_up(far: SqlBackend, proxy: Proxy, hasty: None) -> None:  # F8
    task = new()
    await fill_pool(far)
    proxy.black_hole()
    verbs: list[Awaitable[Any]] = [far.push([task]), far.get([task.task_id]), far.claim("o", NOW, 1, lease_until=LEASE)]
    async with asyncio.timeout(within(40)):
        answers = await asyncio.gather(*verbs, return_exceptions=True)
    assert [type(answer) for answer in answers] == [DatabaseUnavailable] * 3
    assert "no answer within 4 s, so the connection was cut" in str(answers[0])
    proxy.heal()
    async with asyncio.timeout(within(40)):
        assert await far.push([task]) == [task]


async def test_a_silent_answer_to_a_commit(far: SqlBackend, proxy: Proxy, hasty: None) -> None:  # F8, A20
    await far.stats(NOW)
    proxy.drop_replies()
    task = new()
    async with asyncio.timeout(within(40)):
        with pytest.raises(DatabaseUnavailable):
            await far.push([task])
    proxy.heal()
    assert await far.push([task]) == [task]


async def test_a_server_that_lets_nobody_in(place: Place, proxy: Proxy, hasty: None) -> None:  # F8
    backend = SqlBackend(place.through(proxy))
    proxy.black_hole()
    async with asyncio.timeout(within(40)):
        with pytest.raises(DatabaseUnavailable, match="no connection within"):
            await backend.open()
    proxy.heal()
    await backend.push([new()])
    await backend.close()


async def test_closing_does_not_wait_for_a_silent_server(  # F8
    place: Place, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_connections, "CONNECT_TIMEOUT", 0.5)
    backend = SqlBackend(place.through(proxy))
    await backend.open()
    await fill_pool(backend)
    proxy.black_hole()
    async with asyncio.timeout(within(40)):
        await backend.close()


@pytest.mark.parametrize("seconds", [4.1, 5.0])  # hardly longer than a statement may take, and much longer
async def test_a_loop_that_stands_still_cuts_nothing(
    place: Place, backend: SqlBackend, hasty: None, seconds: float
) -> None:
    """The timer is due, but the answer has been there all the while."""
    which = "pg_backend_pid()" if place.is_postgresql else "connection_id()"
    pause = "pg_sleep(0.3)" if place.is_postgresql else "sleep(0.3)"

    async def ask() -> Any:
        query = text(f"SELECT {which}, {pause}")
        return await backend.database.read(lambda connection: connection.execute(query).one()[0])

    first = await ask()
    second = asyncio.create_task(ask())
    await asyncio.sleep(0.15)  # it is asked
    time.sleep(seconds)
    assert [await second, await ask()] == [first, first]  # on the same connection still


async def test_a_slow_statement_may_be_allowed(place: Place, backend: SqlBackend, hasty: None) -> None:
    sleep = text("SELECT pg_sleep(6)" if place.is_postgresql else "SELECT sleep(6)")

    def patient(connection: Connection) -> bool:
        connection.execution_options(**{watch.PATIENCE: 30.0})
        connection.execute(sleep)
        return True

    assert await backend.database.write(patient)
    with pytest.raises(DatabaseUnavailable, match="no answer within 4 s"):
        await backend.database.write(lambda connection: connection.execute(sleep))
