"""Keeps forks and SQLite's library apart: a child has its mutexes as they were, but not who would unlock them."""

from __future__ import annotations

import os
import threading
from typing import Final

PATIENCE: Final = 2.0  # seconds that a fork waits for who is in the library; one that waits for a lock is out by then


class _OutsideOfForks:
    """Whoever is ``with`` it has ended before a fork of this process, or begins after it; reentrant.

    The library holds a mutex for each allocation, so that a child of one fork in a thousand hung at its first
    connection. A child that ``exec``s another program, as those of ``subprocess`` do, is no fork in this sense.
    """

    def __init__(self) -> None:
        self._here = threading.local()
        self._start_anew()

    def _start_anew(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._inside = self._mine()
        self._forks = 0  # under way

    def _mine(self) -> int:
        return 1 if getattr(self._here, "depth", 0) else 0

    def __enter__(self) -> None:
        depth = getattr(self._here, "depth", 0)
        if not depth:
            with self._changed:
                while self._forks:
                    self._changed.wait()
                self._inside += 1
        self._here.depth = depth + 1

    def __exit__(self, *_error: object) -> None:
        self._here.depth -= 1
        if not self._here.depth:
            with self._changed:
                self._inside -= 1
                if self._forks:
                    self._changed.notify_all()

    def _before(self) -> None:
        mine = self._mine()
        with self._changed:
            self._forks += 1
            self._changed.wait_for(lambda: self._inside <= mine, PATIENCE)

    def _after(self) -> None:
        with self._changed:
            self._forks -= 1
            self._changed.notify_all()


outside_of_forks: Final = _OutsideOfForks()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=outside_of_forks._before,
        after_in_parent=outside_of_forks._after,
        after_in_child=outside_of_forks._start_anew,
    )
