"""One browser for all tests of this folder, in one event loop: to start it, and its driver, takes longer than most."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from aiotaskq import TaskQ
from tests.support.machine import within
from tests.web.dashboard.browser import chromium, served
from tests.web.dashboard.conftest import greeting

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == HERE:
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest.fixture(autouse=True)
def _expecting() -> None:
    """What is expected is waited for as long as this machine needs."""
    expect.set_options(timeout=within(20) * 1000)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="session")
async def tq(tmp_path: Path) -> AsyncIterator[TaskQ]:
    async with greeting(tmp_path) as tq:
        yield tq


@pytest_asyncio.fixture(loop_scope="session")
async def home(tq: TaskQ) -> AsyncIterator[str]:
    """The address of the standalone server's dashboard."""
    async with served(tq, show_args=True) as home:
        yield home
