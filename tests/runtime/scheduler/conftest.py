"""A virtual clock, and a ``TaskQ`` with schedules."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aiotaskq import TaskQ
from aiotaskq.concurrency.clock import VirtualClock
from tests.runtime.scheduler.passing import START


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(START)


@pytest.fixture(params=["together", "apart"])
async def tq(request: pytest.FixtureRequest, tmp_path: Path, clock: VirtualClock) -> AsyncIterator[TaskQ]:
    """Queue and schedules in one database, and apart: then the push is not in the schedule's transaction."""
    database = f"sqlite:///{tmp_path}/schedules.db"
    made = (
        TaskQ(database, clock=clock)
        if request.param == "together"
        else TaskQ("memory://", schedules=database, clock=clock)
    )
    async with made:
        yield made
