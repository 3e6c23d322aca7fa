"""The lock around the data of the memory backend, which threads take often and for a short time."""

from __future__ import annotations

import time
from _thread import RLock
from collections import deque
from collections.abc import Callable
from typing import Any


class BriefLock(RLock):  # type: ignore[misc]  # its stub says that it is final, which it is not
    """A reentrant lock without hand-over: if it is taken, yield to the other threads and retry.

    A plain lock is handed to a thread that waits for it when it is released, though the releasing thread goes on
    running and soon needs the lock again: then it waits in turn, and each use of the lock becomes a change of threads
    (a lock convoy). With this lock the rate of three threads that push and pop is that of one. Only for sections that
    never wait.

    What is appended to the ``intake``, which takes no lock, is passed to ``enter`` as soon as the lock is held.
    """

    __slots__ = ("_entering", "enter", "intake")

    def __init__(self) -> None:
        self.intake: deque[Any] = deque()
        self._entering = False
        self.enter: Callable[[Any], object] = lambda item: None

    def _take_in(self) -> None:
        if self._entering:
            return  # `enter` has taken the lock again: what came meanwhile is entered afterwards
        self._entering = True
        try:
            for _ in range(len(self.intake)):
                self.enter(self.intake.popleft())
        finally:
            self._entering = False

    def __enter__(self) -> bool:  # type: ignore[override]
        while not self.acquire(False):  # positional: a keyword argument is much slower
            time.sleep(0)  # yields to the thread that holds the lock
        if self.intake:
            self._take_in()
        return True
