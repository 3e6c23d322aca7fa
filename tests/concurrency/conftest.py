"""A background loop for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from aiotaskq.concurrency.loop_thread import LoopThread


@pytest.fixture
def lt() -> Iterator[LoopThread]:
    loop_thread = LoopThread("test-loop")
    yield loop_thread
    loop_thread.close(1.0)
