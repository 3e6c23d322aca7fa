"""The sweep of gates: when it runs, and what it mends."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from aiotaskq.backends import connect
from aiotaskq.backends.base import Backend
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core.gate import Bounds, Flow
from aiotaskq.core.parking import parked
from aiotaskq.core.task import SECOND, Task
from aiotaskq.runtime.queue.queue import Queue
from aiotaskq.runtime.queue.reaper import MEND_AFTER
from tests.support.rows import LEASE, NOW, ids, new

POLL = 5.0  # seconds


async def pushed(backend: Backend, bounds: Bounds, count: int = 2) -> list[Task]:
    flow = Flow(gates=(("g", bounds),))
    return await backend.push([parked(new(flow=flow, seq=NOW + n), NOW) for n in range(count)])


async def test_a_slot_that_another_program_has_freed_is_found_by_a_later_sweep(tmp_path: Path) -> None:
    clock, backend = VirtualClock(NOW), connect(f"sqlite:///{tmp_path}/s.db")
    first, second = await pushed(backend, Bounds(cap=1))
    with sqlite3.connect(tmp_path / "s.db") as connection:
        connection.execute("DELETE FROM task_queue WHERE task_id = ?", (first.task_id,))
    connection.close()
    sweep = Queue(backend, clock, poll_interval=POLL).limit_sweep
    await sweep.sweep()
    assert await backend.claim("o", clock.now(), 9, lease_until=LEASE) == []
    await clock.advance(1.2 * MEND_AFTER * POLL)
    await sweep.sweep()
    assert ids(await backend.claim("o", clock.now(), 9, lease_until=LEASE)) == [second.task_id]
    await sweep.stop(0)
    await backend.close()


@pytest.mark.parametrize(("interval", "pause"), [(2 * SECOND, 2.0), (2 * POLL * SECOND, POLL)])
async def test_a_sweep_returns_the_time_to_the_next_one(tmp_path: Path, interval: float, pause: float) -> None:
    clock, backend = VirtualClock(NOW), connect(f"sqlite:///{tmp_path}/s.db")
    sweep = Queue(backend, clock, poll_interval=POLL).limit_sweep
    assert await sweep.sweep_if_due() == POLL and sweep.idle
    first, second = await pushed(backend, Bounds(interval=int(interval)))
    assert not sweep.idle  # a hint has come
    assert await sweep.sweep_if_due() == pause and sweep.next_at == NOW + int(interval)
    assert ids(await backend.claim("o", NOW, 9, lease_until=LEASE)) == [first.task_id]
    await clock.advance(interval / SECOND)
    await sweep.sweep_if_due()
    assert ids(await backend.claim("o", clock.now(), 9, lease_until=LEASE)) == [second.task_id]
    await sweep.stop(0)
    await backend.close()
