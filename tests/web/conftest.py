"""A task queue, and the operations API of each framework."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from aiotaskq import TaskQ
from tests.support.backends import sqlite
from tests.web.applications import DOORS, SECRET, Ask


@pytest.fixture
async def tq(tmp_path: Path) -> AsyncIterator[TaskQ]:
    async with sqlite(tmp_path) as store:
        url = store.url
    async with TaskQ(url) as tq:

        @tq.task(max_retries=0)
        async def greet(name: str) -> str:
            if name == "nobody":
                raise RuntimeError(f"no {SECRET}\nsecond line")
            return f"Hello, {name}!"

        yield tq


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> Callable[..., AbstractAsyncContextManager[Ask]]:
    return DOORS[request.param]


@pytest.fixture
async def ask(door: Callable[..., AbstractAsyncContextManager[Ask]], tq: TaskQ) -> AsyncIterator[Ask]:
    async with door(tq) as ask:
        yield ask
