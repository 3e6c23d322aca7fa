"""How long a task waits for its next try. The pauses of background loops are in ``concurrency.failure_backoff``."""

from __future__ import annotations

import msgspec

from aiotaskq.core.errors import ValidationError
from aiotaskq.core.task import SECOND
from aiotaskq.core.validation import check_seconds


class Backoff(msgspec.Struct, frozen=True):
    """How long to wait before retry ``n`` (0-based): ``base * factor**n`` seconds, at most ``limit``.

    With ``jitter`` the wait is uniform between 0 and that ("full jitter", as in Amazon's "Exponential Backoff And
    Jitter", 2015), so that tasks that failed together are not retried together.
    """

    base: float = 1.0
    factor: float = 2.0
    limit: float = 3600.0
    jitter: bool = True

    def delay(self, attempt: int, chance: float) -> int:
        """Return the wait in microseconds; ``chance`` is in [0, 1)."""
        # The exponent is capped, since 2.0**1100 overflows; by then the limit is smaller anyway.
        ceiling = min(self.limit, self.base * self.factor ** min(attempt, 64))
        return int((ceiling * chance if self.jitter else ceiling) * SECOND)


def make_backoff(value: Backoff | float | None) -> Backoff:
    """Return a Backoff: None is the default, a number is so many seconds each time, without jitter.

    Raises ValidationError for durations that are negative or too long, and for a factor outside of 1 to 1,000.
    """
    if value is None:
        return Backoff()
    if isinstance(value, Backoff):
        check_seconds("backoff.base", value.base)
        check_seconds("backoff.limit", value.limit)
        if not 1 <= value.factor <= 1000:
            raise ValidationError(f"backoff.factor: must be in 1..1000 (got {value.factor})")
        return value
    return Backoff(base=check_seconds("backoff", value), factor=1.0, limit=max(value, 0.0), jitter=False)
