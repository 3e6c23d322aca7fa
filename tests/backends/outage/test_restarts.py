"""A database server that restarts or becomes a replica: workers continue, and nothing is lost."""

from __future__ import annotations

import asyncio
import time

import pytest

from aiotaskq import TaskQ
from aiotaskq.backends.sql.backend import SqlBackend
from aiotaskq.errors import DatabaseUnavailable
from tests.backends.outage.place import Place, fill_pool, only
from tests.support.machine import within
from tests.support.rows import NOW, new


@pytest.mark.parametrize("how", ["fast", "immediate"])
async def test_a_restart_between_two_verbs_is_not_noticed(place: Place, backend: SqlBackend, how: str) -> None:  # F5
    await fill_pool(backend)
    await asyncio.to_thread(place.server.restart, how)
    (task,) = await backend.push([new()])
    await asyncio.to_thread(place.server.restart, how)
    assert await backend.get([task.task_id]) == [task]
    await asyncio.gather(*(backend.push([new()]) for _ in range(20)))
    assert (await backend.stats(NOW)).ready == 21


async def test_connections_that_the_server_closed_are_not_noticed(place: Place, backend: SqlBackend) -> None:  # F5
    """As its idle timeout does, or a firewall."""
    for _ in range(3):
        await fill_pool(backend)
        await asyncio.to_thread(place.kill_connections)
        await backend.push([new()])
        await asyncio.to_thread(place.kill_connections)
        await asyncio.gather(*(backend.stats(NOW) for _ in range(10)))


async def test_workers_live_through_restarts(place: Place) -> None:  # F5, F20
    tq = TaskQ(place.url, poll_interval=0.2)
    ran: list[int] = []

    @tq.task
    async def note(n: int) -> None:
        ran.append(n)

    async with tq.running(concurrency=4):
        number = 0
        for how in ("fast", "immediate", "away", "fast"):
            if how == "away":
                await asyncio.to_thread(place.server.stop)
                await asyncio.sleep(2)  # several rounds of every loop
                await asyncio.to_thread(place.server.start)
            else:
                await asyncio.to_thread(place.server.restart, how)
            ready = time.monotonic()
            number += 1
            await note.push(n=number)
            while number not in ran:
                assert time.monotonic() < ready + within(10), how
                await asyncio.sleep(0.01)
        assert set(ran) == set(range(1, number + 1))


async def test_nothing_acknowledged_is_lost_in_restarts_under_load(place: Place, backend: SqlBackend) -> None:  # F5
    acknowledged: set[str] = set()
    refused = 0
    over = asyncio.Event()

    async def producer() -> None:
        nonlocal refused
        while not over.is_set():
            task = new()
            while True:  # a push whose outcome is unknown is repeated
                try:
                    await backend.push([task])
                    break
                except DatabaseUnavailable:
                    refused += 1
                    await asyncio.sleep(0.1)  # the real server is away: a caller waits before it tries again
            acknowledged.add(task.task_id)

    async with asyncio.TaskGroup() as group:
        for _ in range(6):
            group.create_task(producer())
        for how in ("fast", "immediate", "fast", "immediate"):
            await asyncio.sleep(0.3)  # producers push to the real server between its restarts
            await asyncio.to_thread(place.server.restart, how)
        await asyncio.sleep(0.3)  # and after the last one
        over.set()
    counts = (await backend.stats(NOW)).counts
    assert refused > 0 and len(acknowledged) > 50
    assert counts["pending"] == len(acknowledged)
    assert None not in await backend.get(list(acknowledged))


async def test_a_server_that_is_away_is_told_at_once(place: Place, backend: SqlBackend) -> None:  # F20
    place.server.stop()
    for _ in range(3):
        async with asyncio.timeout(within(30)):
            with pytest.raises(DatabaseUnavailable):
                await backend.push([new()])
            with pytest.raises(DatabaseUnavailable):
                await backend.ping()
    place.server.start()
    await backend.push([new()])


@only("postgresql")
async def test_a_server_that_became_a_replica_is_left(place: Place, backend: SqlBackend) -> None:  # F6
    await fill_pool(backend)
    before = set(place.connections())
    place.server.execute(f"ALTER DATABASE {place.database} SET default_transaction_read_only = on")
    await asyncio.to_thread(place.kill_connections)
    with pytest.raises(DatabaseUnavailable, match="read-only"):
        await backend.push([new()])
    during = set(place.connections())
    place.server.execute(f"ALTER DATABASE {place.database} RESET default_transaction_read_only")
    # The connections to it are not kept: this one is new, and would be to another server now.
    await backend.push([new()])
    assert before.isdisjoint(place.connections()) and during.isdisjoint(place.connections())
