"""A store on SQLite or PostgreSQL for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.backends.sql.notifiers.watched import opened
from tests.support.backends import Store


@pytest.fixture(params=["sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, unavailable: dict[str, str]) -> AsyncIterator[Store]:
    """Where processes hear of each other."""
    async with opened(request.param, tmp_path, unavailable) as made:
        yield made


@pytest.fixture
async def postgresql(tmp_path: Path, unavailable: dict[str, str]) -> AsyncIterator[Store]:
    async with opened("postgresql", tmp_path, unavailable) as made:
        yield made


@pytest.fixture
async def sqlite(tmp_path: Path, unavailable: dict[str, str]) -> AsyncIterator[Store]:
    async with opened("sqlite", tmp_path, unavailable) as made:
        yield made
