"""How often a process may send notifications: at once while they are few, less often under load. Pure, no clock."""

from __future__ import annotations

from typing import Final

SHORT: Final = 0.01
"""Seconds from one notification to the next, on average, while there are few tasks."""
BURST: Final = 5
"""Notifications that may follow each other without a gap, after a pause of as many short gaps."""
LONG: Final = 0.05
"""Seconds from one notification to the next under load: each takes a lock that all of the server's commits share."""
BUSY: Final = 400.0
"""Tasks per second of this process above which it is under load."""


class Gap:
    """Decides when the next notification of one kind may be sent. Each ``now`` is in seconds of one monotonic clock.

    A notification waits for at most ``LONG`` seconds. In ``t`` seconds there are at most ``BURST + t / SHORT`` of them;
    under load, after a burst, one in each ``LONG``.
    """

    __slots__ = ("_due", "_sent", "_tasks")

    def __init__(self) -> None:
        self._tasks = 0
        self._sent = self._due = float("-inf")

    def note(self, count: int) -> None:
        """Note so many tasks to notify about; one notification is about all that were noted before it."""
        self._tasks += count

    def delay(self, now: float) -> float:
        """Return the seconds to wait before a notification is sent; zero or less when it may go at once."""
        return self._due - now

    def sent(self, now: float) -> None:
        """Note that a notification is sent now, about all tasks noted so far."""
        busy = self._tasks > BUSY * max(now - self._sent, SHORT)
        # The pause before this notification is credited, but never more than a burst of it.
        self._due = now + LONG if busy else max(self._due, now - (BURST - 1) * SHORT) + SHORT
        self._sent, self._tasks = now, 0
