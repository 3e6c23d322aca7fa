"""How long a task waits for its next try. The pauses of background loops are in ``concurrency.failure_backoff``."""

from __future__ import annotations

from datetime import timedelta

import msgspec
from msgspec.structs import force_setattr

from aiotaskq.core.errors import ValidationError
from aiotaskq.core.task import SECOND
from aiotaskq.core.validation import check_seconds


class Backoff(msgspec.Struct, frozen=True):
    """How long to wait before retry ``n`` (0-based): ``base * factor**n`` seconds, at most ``limit``.

    With ``jitter`` the wait is uniform between 0 and that ("full jitter", as in Amazon's "Exponential Backoff And
    Jitter", 2015), so that tasks that failed together are not retried together.
    """

    base: float | timedelta = 1.0
    """Seconds, or a timedelta."""
    factor: float = 2.0
    limit: float | timedelta = 3600.0
    """Seconds, or a timedelta."""
    jitter: bool = True

    def __post_init__(self) -> None:
        for name in ("base", "limit"):
            if isinstance(value := getattr(self, name), timedelta):
                force_setattr(self, name, value.total_seconds())

    def delay(self, attempt: int, chance: float) -> int:
        """Return the wait in microseconds; ``chance`` is in [0, 1)."""
        # The exponent is capped, since 2.0**1100 overflows; by then the limit is smaller anyway.
        base, limit = float(self.base), float(self.limit)  # type: ignore[arg-type]  # timedeltas were converted
        ceiling = min(limit, base * self.factor ** min(attempt, 64))
        return int((ceiling * chance if self.jitter else ceiling) * SECOND)


def make_backoff(value: Backoff | float | timedelta | None) -> Backoff:
    """Return a Backoff: None is the default, a number or timedelta is the wait each time, without jitter.

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
    seconds = check_seconds("backoff", value)
    return Backoff(base=seconds, factor=1.0, limit=seconds, jitter=False)
