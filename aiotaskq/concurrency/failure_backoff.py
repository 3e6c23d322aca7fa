"""How long to pause after failures in a row, e.g. of a background loop. When a task is retried: ``core.outcome``."""

from __future__ import annotations

import random


def backoff(failures: int, first: float, longest: float) -> float:
    """Return the seconds to wait after so many failures in a row: ``first``, doubled each time, at most ``longest``.

    Half of that is certain and half left to chance, so that processes that fail together do not try again together.
    """
    return min(longest, first * 2.0 ** min(failures - 1, 64)) * random.uniform(0.5, 1.0)
