"""Fixtures of the worker's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from aiotaskq import TaskQ
from tests.support.machine import within

URLS = ["memory", "sqlite"]


@pytest.fixture(params=URLS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/worker.db"


@pytest.fixture
def tq(url: str) -> TaskQ:
    return TaskQ(url, lease=within(4), poll_interval=0.05)
