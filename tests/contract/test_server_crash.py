"""kill -9 of the database server: acknowledged writes are there after its recovery."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from aiotaskq.app.taskq import TaskQ
from aiotaskq.core.task import TaskFilter
from aiotaskq.errors import DatabaseUnavailable
from tests.support.servers import Server, mariadb, postgresql, postgresql_jit, valkey

SERVERS: dict[str, Callable[[], Server]] = {
    "postgresql": postgresql,
    "postgresql_jit": postgresql_jit,
    "mysql": mariadb,
    "redis": valkey,
}


@pytest.mark.promise("survives kill -9 of the server")
@pytest.mark.parametrize("store", SERVERS)
async def test_acknowledged_writes_survive_a_crash_of_the_server(  # G-11, F5
    store: str, tmp_path: Path
) -> None:
    server = SERVERS[store]()  # one with every write on disk, unlike the quick one of the other tests
    told: list[str] = []
    enough = asyncio.Event()
    async with TaskQ(server.create("crash")) as tq:

        async def produce(number: int) -> None:
            for n in range(100_000):
                try:
                    handle = await tq.push("mail", {"n": n}, task_id=f"{number}-{n}")
                except DatabaseUnavailable:
                    return
                told.append(handle.task_id)
                if len(told) >= 300:
                    enough.set()

        producers = [asyncio.create_task(produce(number)) for number in range(8)]
        await enough.wait()
        await asyncio.to_thread(server.kill)
        await asyncio.gather(*producers)
        await asyncio.to_thread(server.start)
        rows = await tq.queue.backend.find(TaskFilter(), 100_000)
        assert set(told) <= {row.task_id for row in rows}
        assert len(rows) - len(told) <= len(producers)
    server.drop("crash")
