"""How much a bounded queue takes, and what happens to a push that it has no room for."""

from __future__ import annotations

from aiotaskq.errors import QueueFull, ValidationError
from aiotaskq.task import check_int

WHEN_FULL = ("wait", "raise", "drop_oldest")


class Bound:
    """At most ``maxsize`` ready tasks, 0 for any number; ``when_full`` says who gives way."""

    def __init__(self, maxsize: int, when_full: str) -> None:
        """Raises ValidationError."""
        if when_full not in WHEN_FULL:
            raise ValidationError(f"when_full: {when_full!r} is not one of {', '.join(WHEN_FULL)}")
        self.maxsize = check_int("maxsize", maxsize, 0)
        self.when_full = when_full
        self.drops = when_full == "drop_oldest"
        self._raises = when_full == "raise"

    def excess(self, size: int, wanted: int) -> int:
        """Return how many are too many when ``wanted`` come to ``size``. Raises QueueFull where nothing gives way."""
        if wanted > self.maxsize:
            raise QueueFull(f"{wanted} tasks never fit a queue of maxsize {self.maxsize}")
        excess = max(0, size + wanted - self.maxsize)
        if excess and self._raises:
            raise QueueFull(f"the queue holds its maxsize of {self.maxsize} tasks; push later")
        return excess
