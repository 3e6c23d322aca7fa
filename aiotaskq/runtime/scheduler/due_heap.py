"""The schedules that are due next, in memory: one heap, so that firing takes no query. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heapify, heappop, heappush

from aiotaskq.core.schedule import Schedule


class Agenda:
    """Every enabled schedule of a store whose due time is before ``end``, as far as this process knows.

    What other processes do meanwhile is not in here: they are found out when the write that fires does not hold.
    Instants are microseconds UTC.
    """

    def __init__(self) -> None:
        self._soon: dict[str, Schedule] = {}
        self._heap: list[tuple[int, str]] = []  # also of those that were noted anew since, which are passed over
        self._begin = self._end = 0

    def covers(self, now: int) -> bool:
        """Whether all that is due at ``now`` is in here; never of a time before it was filled, when a clock was set."""
        return self._begin <= now < self._end

    def fill(self, schedules: Iterable[Schedule], begin: int, end: int) -> None:
        """Begin anew, at the instant ``begin``, with all schedules that are due before ``end``."""
        self._soon = {schedule.task_id: schedule for schedule in schedules}
        self._heap = [(schedule.due or 0, schedule.task_id) for schedule in self._soon.values()]
        heapify(self._heap)
        self._begin, self._end = begin, end

    def forget(self) -> None:
        """Know nothing, until it is filled again."""
        self.fill((), 0, 0)

    def note(self, schedule: Schedule) -> None:
        """Put in a schedule as it stands now, if it is due before the end."""
        due = schedule.due
        if schedule.enabled and due is not None and due < self._end:
            self._soon[schedule.task_id] = schedule
            heappush(self._heap, (due, schedule.task_id))
        else:
            self._soon.pop(schedule.task_id, None)

    def head(self) -> int | None:
        """Return when the first one is due, None if there is none before the end."""
        while self._heap:
            due, task_id = self._heap[0]
            if task_id in self._soon and self._soon[task_id].due == due:
                return due
            heappop(self._heap)
        return None

    def take(self, now: int, limit: int) -> list[Schedule]:
        """Take out those that are due, the earliest first, at most ``limit``."""
        taken: list[Schedule] = []
        while len(taken) < limit and (due := self.head()) is not None and due <= now:
            taken.append(self._soon.pop(heappop(self._heap)[1]))
        return taken
