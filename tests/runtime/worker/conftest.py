"""Fixtures of the worker's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from aiotaskq import TaskQ
from aiotaskq.backends.url import DURABLE_FAKE
from tests.support.machine import within

URLS = ["memory", "sqlite"]


@pytest.fixture(params=URLS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/worker.db"


@pytest.fixture(params=["durable_fake", "sqlite"])
def shared_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a store with a registry of workers."""
    return DURABLE_FAKE if request.param == "durable_fake" else f"sqlite:///{tmp_path}/worker.db"


@pytest.fixture
def tq(url: str) -> TaskQ:
    return TaskQ(url, lease=within(4), poll_interval=0.05)
