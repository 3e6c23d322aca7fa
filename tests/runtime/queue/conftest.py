"""The documented queue on memory and on SQLite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aiotaskq import (
    DatabaseQueue,
    MemoryQueue,
)


@pytest.fixture(params=["memory", "sqlite"])
async def queue(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    made = MemoryQueue() if request.param == "memory" else DatabaseQueue(f"sqlite:///{tmp_path}/q.db")
    yield made
    await made.close()
