"""An empty SQLite database for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.backends.sql.migrations.legacy import sqlite_engine


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db"


@pytest.fixture
def engine(path: Path) -> Iterator[sa.Engine]:
    made = sqlite_engine(path)
    yield made
    made.dispose()
