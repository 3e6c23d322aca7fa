"""Cancelled calls to Redis leave nothing half done."""

from __future__ import annotations

import asyncio
import random

from aiotaskq.backends.base import Change
from aiotaskq.core.status import Status
from aiotaskq.core.task import Task, TaskFilter
from tests.backends.redis.faults.proxied import opened
from tests.support.rows import LEASE, NOW, completed, new
from tests.support.servers import Valkey


async def test_cancelled_callers_leave_nothing_half_done(server: Valkey) -> None:  # D1, F3, F4
    async with opened(server.url("a")) as backend:
        chance = random.Random(5)
        tasks = [new(params={"n": n}) for n in range(300)]

        async def life(task: Task) -> None:
            await backend.push([task])
            for claimed in await backend.claim("o", NOW, 1, lease_until=LEASE):
                await backend.update([Change(claimed, completed(claimed))])

        before = _connections(server)
        running = [asyncio.ensure_future(life(task)) for task in tasks]
        for each in running:
            if chance.random() < 0.7:
                asyncio.get_running_loop().call_later(chance.random() * 0.3, each.cancel)
        answers = await asyncio.gather(*running, return_exceptions=True)
        assert {type(answer) for answer in answers} <= {type(None), asyncio.CancelledError}
        assert sum(isinstance(answer, asyncio.CancelledError) for answer in answers) > 20
        for number in range(20):  # every connection still gives each its own answer
            values = await asyncio.gather(*(backend.values.get([f"k{n}"], number) for n in range(5)))
            assert values == [[None]] * 5
        listed = server.ask("CLIENT LIST").splitlines()
        assert len(listed) <= 4
        # Each connection was in order again after its caller had left: none had to be made anew.
        assert _connections(server) - before <= 3 + 2
        stats = await backend.stats(NOW)
        rows = await backend.find(TaskFilter(), 1_000)
        assert sum(stats.counts.values()) == len(rows)
        for status in Status:
            assert stats.counts[status] == sum(row.status is status for row in rows)


def _connections(server: Valkey) -> int:
    """How many there have ever been, with the one that asks."""
    return int(server.ask("INFO stats")["total_connections_received"])
