"""The log lines of a piece of code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from loguru import logger


@contextmanager
def logged(level: str = "WARNING", form: str = "{message}") -> Iterator[list[str]]:
    """Give a list that collects the lines of at least that level, in loguru's format ``form``, without line ends."""
    lines: list[str] = []
    sink = logger.add(lambda line: lines.append(str(line).rstrip("\n")), level=level, format=form)
    try:
        yield lines
    finally:
        logger.remove(sink)
