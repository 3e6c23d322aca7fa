"""Keeps forks and SQLite's library apart: a child has its mutexes as they were, but not the threads that unlock them.

aiosqlite does not make this unnecessary. Its threads call the library as any other thread does, SQLite's allocator has
one mutex for the whole process, and neither aiosqlite nor the library does anything at a fork. All that the store does
in the library is therefore inside: opening and closing a connection, each function that runs on its thread, and the
looks at the file between transactions. A plain aiosqlite engine, such as ``aiotaskq.database.engine``, is not: an
application that forks while it uses one has to look after that itself.
"""

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
        self._inside: set[int] = set()  # threads; whom an interrupt has left in here is out with its next visit
        self._start_anew()

    def _start_anew(self) -> None:
        self._lock = threading.Lock()  # used by itself: an interrupt may leave the Condition's own `with` locked
        self._changed = threading.Condition(self._lock)
        self._inside &= {threading.get_ident()}
        self._forks = 0  # under way

    def __enter__(self) -> None:
        depth = getattr(self._here, "depth", 0)
        if not depth:
            with self._lock:
                while self._forks:
                    self._changed.wait()
                self._inside.add(threading.get_ident())
        self._here.depth = depth + 1

    def __exit__(self, *_error: object) -> None:
        self._here.depth -= 1
        if not self._here.depth:
            with self._lock:
                self._inside.discard(threading.get_ident())
                if self._forks:
                    self._changed.notify_all()

    def _before(self) -> None:
        here = {threading.get_ident()}
        with self._lock:
            self._forks += 1
            self._changed.wait_for(lambda: self._inside <= here, PATIENCE)

    def _after(self) -> None:
        with self._lock:
            self._forks = max(0, self._forks - 1)  # this hook may be younger than the fork
            self._changed.notify_all()


outside_of_forks: Final = _OutsideOfForks()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=outside_of_forks._before,
        after_in_parent=outside_of_forks._after,
        after_in_child=outside_of_forks._start_anew,
    )
