"""Who waits for what a store may tell: for tasks to become ready, for room, or for one task to end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from aiotaskq.backends.base import ENDED, Hints
from aiotaskq.service import Wakeup


class Waiting:
    """Wakes those who wait, in their own loops; a hint is never the truth, so they look, and time out, themselves."""

    def __init__(self, hints: Hints) -> None:
        self._hints = hints
        self._ends: dict[str, tuple[Wakeup, ...]] = {}  # by task id: a hint must not look at every one that waits

    @contextlib.contextmanager
    def woken_by(self, *kinds: str) -> Iterator[Wakeup]:
        """Give a wakeup for hints of these kinds."""
        wakeup = Wakeup()

        def listener(kind: str, _names: Sequence[str]) -> None:
            if kind in kinds:
                wakeup()

        stop = self._hints.listen(listener)
        try:
            yield wakeup
        finally:
            stop()

    @contextlib.contextmanager
    def woken_at_end(self, task_id: str) -> Iterator[Wakeup]:
        """Give a wakeup for the end of one task."""
        wakeup = Wakeup()
        if not self._ends:
            self._stop = self._hints.listen(self._told)
        self._ends[task_id] = (*self._ends.get(task_id, ()), wakeup)
        try:
            yield wakeup
        finally:
            left = tuple(other for other in self._ends[task_id] if other is not wakeup)
            if left:
                self._ends[task_id] = left
            else:
                del self._ends[task_id]
            if not self._ends:
                self._stop()

    def _told(self, kind: str, names: Sequence[str]) -> None:
        if kind == ENDED:
            for task_id in names or list(self._ends):
                for wakeup in self._ends.get(task_id, ()):
                    wakeup()
