"""Skips tests whose server cannot be started here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.servers import Unavailable


@contextmanager
def skipped_without(name: str, unavailable: dict[str, str]) -> Iterator[None]:
    """Skip the test if the server is unavailable, and record the reason: in CI the run fails for it."""
    try:
        yield
    except Unavailable as error:
        unavailable[name] = str(error)
        pytest.skip(f"{name}: {error}")
