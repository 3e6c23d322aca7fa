"""Log outputs for tests: the standard library, a sink of loguru, and scripts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aiotaskq.log import logger
from tests.log.kept import Kept
from tests.support.programs import Program, programs_in


@pytest.fixture
def standard() -> Iterator[Kept]:
    kept, target = Kept(), logging.getLogger("aiotaskq")
    target.addHandler(kept)
    yield kept
    target.removeHandler(kept)
    target.setLevel(logging.NOTSET)


@pytest.fixture
def sink() -> Iterator[list[str]]:
    """A sink that the application has added to loguru."""
    lines: list[str] = []
    number = logger.add(lambda line: lines.append(str(line).rstrip("\n")), level=0, format="{level} {name} {message}")
    yield lines
    logger.remove(number)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    with programs_in(tmp_path) as start:
        yield lambda code: start(code, LOGURU_AUTOINIT="True")
