"""Claimed tasks that wait for a free slot of a worker; a task suspected of killing its process runs alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from aiotaskq.core.outcome import MAX_CRASHES
from aiotaskq.core.task import Task
from aiotaskq.runtime.worker.prefetch import Pace


class Inbox:
    """Claimed tasks in the order in which they were put. ``ready`` is called when ``next`` may have a task to give.

    A task whose process has died under it as often as it may is on its last chance: beside it others would be blamed
    for what it does, or it for what others do. It waits until nothing runs and all that ran is written, and until that
    is so of itself nothing else is let through; but neither for longer than ``patience`` ticks, for both may go on for
    hours. Meanwhile nothing else is kept: where it waits, its worker may die of the suspect.

    The row of a suspect that runs alone has a mark (``mark``), for then the death of its process is blamed on it. While
    it has that, nothing else is handed out; when the patience is over, ``overstayed`` is called, and is expected to
    take the mark back and to call ``unmark``.
    """

    def __init__(
        self,
        ticks: Callable[[], int],
        patience: int,
        ready: Callable[[], object] = lambda: None,
        overstayed: Callable[[Task], object] = lambda task: None,
    ) -> None:
        self._ticks = ticks
        self._patience = patience
        self._ready = ready
        self._overstayed = overstayed
        self._marked = False
        self._tasks: deque[Task] = deque()
        self._suspects: deque[tuple[int, Task]] = deque()  # with the tick until which they wait
        self._alone: tuple[int, Task] | None = None  # a suspect that runs, and the tick until which others wait for it
        self._moved = 0  # ticks when a task went in or out
        self.pace = Pace()
        self.running = 0
        """How many were handed out and have not ended."""
        self.unwritten = 0
        """How many of those that have ended are not yet written."""

    def __len__(self) -> int:
        return len(self._tasks) + len(self._suspects)

    @property
    def narrow(self) -> bool:
        """Whether nothing more should be claimed now: a suspect waits for its turn, or runs alone."""
        return bool(self._suspects) or (self._alone is not None and self._is_alone())

    def _is_alone(self) -> bool:
        return self._alone is not None and (self._marked or self._ticks() < self._alone[0])

    def _is_suspect(self, task: Task) -> bool:
        """Whether it is the one that runs alone. Its task has another owner while it is marked."""
        return self._alone is not None and (self._alone[1].task_id, self._alone[1].fence) == (task.task_id, task.fence)

    def alone(self, task: Task) -> bool:
        """Whether a task that was just handed out is a suspect with nothing beside it."""
        return self.running == 1 and not self.unwritten and self._is_suspect(task)

    def mark(self) -> None:
        """Say that the row of the suspect is marked, or is about to be."""
        self._marked = True

    def unmark(self) -> None:
        """Say that it is not any more."""
        self._marked = False
        self._ready()

    def put(self, task: Task) -> bool:
        """Add a task; return False if it has to go back, since a suspect waits or runs.

        One suspect never runs beside another: each would be what keeps the other from running alone.
        """
        if (self._alone is not None or self._suspects) and self.narrow:
            return False
        if task.crashes == MAX_CRASHES - 1:
            if self._alone is not None:
                return False
            self._suspects.append((self._ticks() + self._patience, task))
        else:
            if not self._tasks:
                self._moved = self._ticks()
            self._tasks.append(task)
        self._ready()
        return True

    def next(self) -> Task | None:
        """Return the task that may run next, or None. Each one has to be followed by ``done``."""
        if self._marked:
            return None
        if self._tasks and (self._alone is None or not self._is_alone()):
            self.running += 1
            return self._tasks.popleft()
        if self._suspects and (not (self.running or self.unwritten) or self._ticks() >= self._suspects[0][0]):
            task = self._suspects.popleft()[1]
            self._alone = self._ticks() + self._patience, task
            self.running += 1
            return task
        return None

    def done(self, task: Task, ticks: int, took: int) -> None:
        """Say that a task that was handed out has ended, when that was, and how many ticks it took."""
        self.running -= 1
        self._moved = ticks
        self.pace.took(took)
        self._ready()

    def written(self, task: Task) -> None:
        """Say that one of the ``unwritten`` is written, or never will be."""
        self.unwritten -= 1
        if self._alone is not None:
            self.forget(task)

    def forget(self, task: Task) -> None:
        """Say that nothing is left to be done for a task that was handed out, or could be."""
        if self._is_suspect(task):
            self._alone, self._marked = None, False

    def waits_for(self) -> int:
        """For how many ticks tasks have waited while no slot became free."""
        return self._ticks() - self._moved if self._tasks and not self.narrow else 0

    def hurry(self) -> None:
        """Look whether a suspect, or the others for one that runs, have waited for long enough."""
        if self._marked and self._alone is not None and self._ticks() >= self._alone[0]:
            self._overstayed(self._alone[1])
        if len(self):
            self._ready()

    def take(self, which: Callable[[Task], bool] = lambda _task: True) -> list[Task]:
        """Take out those that ``which`` names."""
        taken = [task for task in self._tasks if which(task)] + [task for _, task in self._suspects if which(task)]
        self._tasks = deque(task for task in self._tasks if not which(task))
        self._suspects = deque(suspect for suspect in self._suspects if not which(suspect[1]))
        return taken

    def take_last(self, keep: int) -> list[Task]:
        """Take out all but so many of those that wait for nothing but a slot."""
        return [self._tasks.pop() for _ in range(len(self._tasks) - keep)][::-1]
