"""Gates under pushes and ends at the same time: never more than the cap, and nothing is left behind."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from sqlalchemy import Engine, event

from aiotaskq.backends import connect
from aiotaskq.backends.base import Backend
from aiotaskq.core.gate import Bounds, GateChange
from tests.support.backends import Store
from tests.support.gated import MINUTE, claimed, counts, gated, settled
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


@pytest.mark.stores("postgresql", "mysql")  # there each statement has a snapshot of its own
async def test_what_holds_and_what_waits_is_counted_at_one_moment(sql_store: Store) -> None:
    backend, pushed = sql_store.backend, False
    await backend.gates.change("g", GateChange(bounds={"cap": 1}), NOW)

    async def push() -> None:
        other = connect(sql_store.url)
        await other.open()
        await other.push([gated() for _ in range(3)])
        await other.close()

    def counted(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        nonlocal pushed
        if not pushed and "count(" in statement:
            pushed = True
            pusher = threading.Thread(target=asyncio.run, args=[push()])
            pusher.start()
            pusher.join()

    event.listen(Engine, "after_cursor_execute", counted)
    try:
        assert await counts(backend) == (0, 0)
    finally:
        event.remove(Engine, "after_cursor_execute", counted)
    assert pushed
    assert await counts(backend) == (1, 2)
