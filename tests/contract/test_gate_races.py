"""Gates under pushes and ends at the same time: never more than the cap, and nothing is left behind."""

from __future__ import annotations

import asyncio

from aiotaskq.backends.base import Backend
from aiotaskq.core.gate import Bounds
from tests.contract.test_gates import MINUTE, claimed, counts, gated, settled
from tests.support.backends import Store
from tests.support.rows import NOW


async def test_concurrent_pushes_and_ends_never_pass_more_than_the_cap(shared_store: Store) -> None:
    backends = [shared_store.backend, *[await shared_store.another() for _ in range(3)]]
    bounds, most = Bounds(cap=2), 0

    async def work(backend: Backend) -> None:
        nonlocal most
        for turn in range(6):
            await backend.push([gated(("g", bounds), params={"n": turn})])
            found = await backend.gates.find(["g"])
            most = max(most, found[0].held)
            for task in await claimed(backend, NOW + MINUTE, 2):
                await settled(backend, task, now=NOW + MINUTE)

    await asyncio.gather(*map(work, backends))
    while tasks := await claimed(backends[0], NOW + MINUTE):
        assert len(tasks) <= 2
        for task in tasks:
            await settled(backends[0], task, now=NOW + MINUTE)
    assert await counts(backends[0]) == (0, 0)
    assert 1 <= most <= 2
    assert (await backends[0].stats(NOW)).counts["completed"] == 24
