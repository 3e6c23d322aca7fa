"""How often a process may notify the others: at once while notifications are few, seldom under load. Pure, no clock."""

from __future__ import annotations

from typing import Final

SHORT: Final = 0.01
"""Seconds from one notification to the next, on average, while there are few wishes."""
BURST: Final = 5
"""Notifications that may follow each other without a gap, after a pause of as many short gaps."""
LONG: Final = 0.05
"""Seconds from one notification to the next under load: each takes a lock that all of the server's commits share."""
BUSY: Final = 400.0
"""Tasks per second, told of by this process, above which it is under load."""


class Gap:
    """Decides when the next notification of one kind may be sent. Each ``now`` is in seconds of one monotonic clock.

    A wish waits for at most ``LONG`` seconds. In ``t`` seconds there are at most ``BURST + t / SHORT`` notifications;
    under load, after a burst, one in each ``LONG``.
    """

    __slots__ = ("_due", "_sent", "_wishes")

    def __init__(self) -> None:
        self._wishes = 0
        self._sent = self._due = float("-inf")

    def wish(self, count: int) -> None:
        """Note that there is something to tell of so many tasks; one notification tells of all wishes before it."""
        self._wishes += count

    def delay(self, now: float) -> float:
        """Return the seconds to wait before a notification is sent; zero or less when it may go at once."""
        return self._due - now

    def sent(self, now: float) -> None:
        """Note that a notification goes out now, for all wishes so far."""
        busy = self._wishes > BUSY * max(now - self._sent, SHORT)
        # The pause before this notification is credited, but never more than a burst of it.
        self._due = now + LONG if busy else max(self._due, now - (BURST - 1) * SHORT) + SHORT
        self._sent, self._wishes = now, 0
