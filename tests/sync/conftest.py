"""The blocking queue and ``TaskQ``, and scripts that use them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import aiotaskq
import aiotaskq.sync
from tests.support.programs import Program, programs_in


@pytest.fixture
def queue() -> aiotaskq.sync.MemoryQueue:
    return aiotaskq.sync.MemoryQueue()


@pytest.fixture(params=["memory", "sqlite"])
def tq(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[aiotaskq.sync.TaskQ]:
    url = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/tq.db"}[request.param]
    made = aiotaskq.sync.TaskQ(url, schedules=f"sqlite:///{tmp_path}/tq.db", poll_interval=0.2)
    yield made
    made.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    with programs_in(tmp_path) as started:
        yield started
