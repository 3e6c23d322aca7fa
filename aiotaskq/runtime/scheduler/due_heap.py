"""The schedules that are due next, in a heap in memory, so that firing needs no query."""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heapify, heappop, heappush

from aiotaskq.core.schedule import Schedule


class DueHeap:
    """The enabled schedules of a store that are due before ``end``, as this process read or wrote them.

    Other processes may have changed them since; then the compare-and-swap that fires does not hold. Instants are
    microseconds UTC.
    """

    def __init__(self) -> None:
        self._soon: dict[str, Schedule] = {}
        self._heap: list[tuple[int, str]] = []  # an entry whose schedule has changed is skipped
        self._begin = self._end = 0

    def covers(self, now: int) -> bool:
        """Whether everything due at ``now`` is in here; not if the clock was set back to before the last ``fill``."""
        return self._begin <= now < self._end

    def fill(self, schedules: Iterable[Schedule], begin: int, end: int) -> None:
        """Replace everything by all schedules that are due before ``end``, as they were read at ``begin``."""
        self._soon = {schedule.task_id: schedule for schedule in schedules}
        self._heap = [(schedule.due or 0, schedule.task_id) for schedule in self._soon.values()]
        heapify(self._heap)
        self._begin, self._end = begin, end

    def forget(self) -> None:
        """Remove everything, until it is filled again."""
        self.fill((), 0, 0)

    def note(self, schedule: Schedule) -> None:
        """Add or replace a schedule, if it is enabled and due before the end; otherwise remove it."""
        due = schedule.due
        if schedule.enabled and due is not None and due < self._end:
            self._soon[schedule.task_id] = schedule
            heappush(self._heap, (due, schedule.task_id))
        else:
            self._soon.pop(schedule.task_id, None)

    def head(self) -> int | None:
        """Return the earliest due time; None if there is none before the end."""
        while self._heap:
            due, task_id = self._heap[0]
            if task_id in self._soon and self._soon[task_id].due == due:
                return due
            heappop(self._heap)
        return None

    def take(self, now: int, limit: int) -> list[Schedule]:
        """Remove and return the schedules that are due, the earliest first, at most ``limit``."""
        taken: list[Schedule] = []
        while len(taken) < limit and (due := self.head()) is not None and due <= now:
            taken.append(self._soon.pop(heappop(self._heap)[1]))
        return taken
