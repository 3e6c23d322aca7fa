"""A back-off without jitter: each retry waits for the same time."""

from __future__ import annotations

from aiotaskq import Backoff

STEADY = Backoff(base=10, factor=1, limit=10, jitter=False)
