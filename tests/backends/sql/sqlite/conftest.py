"""A SQLite store in a file of its own for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aiotaskq.backends.sql.backend import SqlBackend


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db"


@pytest.fixture
def url(path: Path) -> str:
    return f"sqlite:///{path}"


@pytest.fixture
async def backend(url: str) -> AsyncIterator[SqlBackend]:
    made = SqlBackend(url)
    await made.open()
    yield made
    await made.close()
