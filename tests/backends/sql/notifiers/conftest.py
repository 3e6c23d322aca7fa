"""A store on SQLite or PostgreSQL for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.backends import STORES, Store


@pytest.fixture(params=["sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """Where processes hear of each other."""
    async with STORES[request.param](tmp_path) as made:
        yield made


@pytest.fixture
async def postgresql(tmp_path: Path) -> AsyncIterator[Store]:
    async with STORES["postgresql"](tmp_path) as made:
        yield made


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[Store]:
    async with STORES["sqlite"](tmp_path) as made:
        yield made
