"""Claims wake the pushes that wait for room, and say what could not be given back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from aiotaskq.backends import connect
from aiotaskq.backends.base import Claim
from aiotaskq.concurrency.clock import SystemClock, VirtualClock
from aiotaskq.core.status import Status
from aiotaskq.errors import DatabaseUnavailable
from aiotaskq.runtime.queue.queue import Queue
from tests.support.logs import logged
from tests.support.machine import within
from tests.support.rows import LEASE, NOW, new


async def test_a_claim_wakes_a_push_that_waits_for_room() -> None:
    clock = VirtualClock(NOW)  # which stands still: no poll comes
    queue = Queue(connect("memory://"), clock, maxsize=1)
    await queue.add([new()])
    waiting = asyncio.create_task(queue.add([new()]))
    await clock.settle()
    assert not waiting.done()
    assert await queue.pop_task(0) is not None
    await clock.settle()
    assert waiting.done()


async def test_a_task_that_cannot_be_given_back_is_logged(tmp_path: Path) -> None:
    backend = connect(f"sqlite:///{tmp_path}/q.db")
    await backend.open()
    claims = Queue(backend, SystemClock()).claims
    claiming, answer = asyncio.Event(), asyncio.Event()

    async def claim(*_: Any, **__: Any) -> Any:
        claiming.set()
        await answer.wait()
        return [new(status=Status.RUNNING, lease_owner="o", lease_until=LEASE)]

    async def update(*_: Any) -> Any:
        raise DatabaseUnavailable("away")

    backend.claim, backend.update = claim, update  # type: ignore[method-assign]
    caller = asyncio.create_task(claims.exchange([], Claim("o", NOW, 1, lease_until=LEASE)))
    await claiming.wait()
    caller.cancel()
    with logged() as lines:
        await asyncio.sleep(0)
        answer.set()
        await claims.undone(within(10))
    assert lines == ["queue: DatabaseUnavailable: away"]
    await backend.close()
