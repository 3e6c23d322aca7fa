"""The schedules that are due next, in a heap in memory, so that firing needs no query."""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heapify, heappop, heappush

from aiotaskq.core.schedule import Schedule
from aiotaskq.core.task import SECOND

HOLD = 3 * SECOND
"""Microseconds for which a schedule is left out that cannot be fired now."""


class DueHeap:
    """The enabled schedules of a store that are due before ``end``, as this process read or wrote them.

    Other processes may have changed them since; then the compare-and-swap that fires does not hold. Instants are
    microseconds UTC.
    """

    def __init__(self) -> None:
        self._soon: dict[str, Schedule] = {}
        self._heap: list[tuple[int, str]] = []  # an entry whose schedule has changed is skipped
        self._held: dict[str, int] = {}  # by task_id until when a schedule is left out, though it is due
        self._begin = self._end = 0

    def covers(self, now: int) -> bool:
        """Whether everything due at ``now`` is in here; not if the clock was set back to before the last ``fill``."""
        return self._begin <= now < self._end

    def fill(self, schedules: Iterable[Schedule], begin: int, end: int) -> None:
        """Replace everything by all schedules that are due before ``end``, as they were read at ``begin``."""
        if self._held:  # what lies further ahead was set before the clock was set back
            self._held = {task_id: until for task_id, until in self._held.items() if begin < until <= begin + HOLD}
        self._soon = {schedule.task_id: schedule for schedule in schedules}
        self._heap = [(self._time(schedule), schedule.task_id) for schedule in self._soon.values()]
        heapify(self._heap)
        self._begin, self._end = begin, end

    def forget(self) -> None:
        """Remove everything, until it is filled again."""
        self._soon, self._heap, self._begin, self._end = {}, [], 0, 0

    def note(self, schedule: Schedule) -> None:
        """Add or replace a schedule, if it is enabled and due before the end; otherwise remove it."""
        due = schedule.due
        if schedule.enabled and due is not None and due < self._end:
            self._soon[schedule.task_id] = schedule
            heappush(self._heap, (self._time(schedule), schedule.task_id))
        else:
            self._soon.pop(schedule.task_id, None)

    def hold(self, schedule: Schedule, now: int) -> None:
        """Leave a schedule out for ``HOLD``, though it is due: it cannot be fired now, and the others go on."""
        self._held[schedule.task_id] = now + HOLD
        self.note(schedule)

    def _time(self, schedule: Schedule) -> int:
        return max(schedule.due or 0, self._held.get(schedule.task_id, 0))

    def head(self) -> int | None:
        """Return when the first of them is to be taken, at the latest the end; None if there is none before the end."""
        while self._heap:
            at, task_id = self._heap[0]
            if task_id in self._soon and self._time(self._soon[task_id]) == at:
                return min(at, self._end)
            heappop(self._heap)
        return None

    def take(self, now: int, limit: int) -> list[Schedule]:
        """Remove and return the schedules that are due, the earliest first, at most ``limit``."""
        taken: list[Schedule] = []
        while len(taken) < limit and self.head() is not None and self._heap[0][0] <= now:
            taken.append(self._soon.pop(heappop(self._heap)[1]))
            self._held.pop(taken[-1].task_id, None)
        return taken
