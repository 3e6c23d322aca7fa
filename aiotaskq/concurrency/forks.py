"""Keeps a fork from happening while a thread of this process is inside SQLite's library.

SQLite's allocator has one mutex for the whole process. A forked child inherits the mutex as it is, and not the thread
that would unlock it, so that the child waits for ever at its first connection. Neither SQLite nor aiosqlite prevents
that: the threads of aiosqlite call the library as any other thread does.

Decided: the lock is needed. Without it, beside threads that push into a SQLite file, several of a hundred forked
children hang; with it, none does.

All that the store does in the library is inside: opening and closing a connection, each function that runs on its
thread, and the looks at the file between transactions. A plain aiosqlite engine, such as ``aiotaskq.database.engine``,
is not: an application that forks while it uses one has to prevent that itself.
"""

from __future__ import annotations

import os
import threading
from typing import Final

PATIENCE: Final = 2.0  # seconds that a fork waits for threads to leave; a wait for a file's lock is shorter


class OutsideOfForks:
    """A context that no fork of this process interrupts: it ends before the fork, or begins after it. Reentrant.

    A child that ``exec``s another program, as those of ``subprocess`` do, is no fork in this sense.
    """

    def __init__(self) -> None:
        self._here = threading.local()
        self._inside: set[int] = set()
        """The threads inside, by ident; one that an interrupt leaves in here is removed at its next exit."""
        self.reset()

    def reset(self) -> None:
        """Begin anew in a forked child, in which only the calling thread exists."""
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

    def before_fork(self) -> None:
        """Wait until no other thread is inside, for at most PATIENCE, and let none enter."""
        here = {threading.get_ident()}
        with self._lock:
            self._forks += 1
            self._changed.wait_for(lambda: self._inside <= here, PATIENCE)

    def after_fork(self) -> None:
        """Let threads of the parent enter again."""
        with self._lock:
            self._forks = max(0, self._forks - 1)  # this hook may be registered while a fork is under way
            self._changed.notify_all()


outside_of_forks: Final = OutsideOfForks()

if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(
        before=outside_of_forks.before_fork,
        after_in_parent=outside_of_forks.after_fork,
        after_in_child=outside_of_forks.reset,
    )
