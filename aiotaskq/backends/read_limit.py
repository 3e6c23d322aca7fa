"""How long a statement that reads may take, for a caller that shows what it reads: a longer one is cancelled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from aiotaskq.errors import DatabaseUnavailable

_seconds: ContextVar[float | None] = ContextVar("aiotaskq_read_limit", default=None)
read_limit = _seconds.get
"""Returns the limit of the running call in seconds, None where there is none."""


class ReadTooLong(DatabaseUnavailable):
    """A statement that reads took longer than its limit, and was cancelled by the store."""


@contextmanager
def limited_reads(seconds: float | None) -> Iterator[None]:
    """Limit each statement of a SQL store that reads, within this block, to so many seconds; None is no limit.

    Such a call raises ReadTooLong. What only writes, and other stores, are not limited.
    """
    before = _seconds.set(seconds)
    try:
        yield
    finally:
        _seconds.reset(before)


def too_long(shown: str, seconds: float) -> ReadTooLong:
    """Return the error of a read of the store with this URL, without its password."""
    return ReadTooLong(f"{shown}: a statement took longer than {seconds:g} s, and was cancelled; read less at a time")
