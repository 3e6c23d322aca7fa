"""Fixtures of the tests of crashes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aiotaskq import TaskQ
from aiotaskq.backends import connect
from aiotaskq.backends.url import DURABLE_FAKE
from aiotaskq.testing.durable_fake import DurableFake
from tests.runtime.crashes import let_crash


@pytest.fixture
def crashing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the writes of each store ask the process in which they are done."""
    let_crash(monkeypatch)


@pytest.fixture
def make_url(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crashing: None
) -> Callable[[], str]:
    """URLs of empty stores; each is one until the next call."""
    if request.param == "sqlite":
        empty = tmp_path / "empty.db"

        async def prepare() -> None:
            async with TaskQ(f"sqlite:///{empty}"):
                pass

        asyncio.run(prepare())
        numbers = iter(range(10_000))

        def made() -> str:
            path = tmp_path / f"{next(numbers)}.db"
            path.write_bytes(empty.read_bytes())
            return f"sqlite:///{path}"

        return made
    stores: list[DurableFake] = []

    def fake() -> str:
        stores.append(DurableFake())
        return DURABLE_FAKE

    def to(url: str, **options: Any) -> Any:
        return stores[-1] if url == DURABLE_FAKE and stores else connect(url, **options)

    monkeypatch.setattr("aiotaskq.app.taskq.connect", to)
    return fake
