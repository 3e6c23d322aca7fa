"""Sections of code that no signal handler interrupts."""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable
from typing import TypeVar

from aiotaskq.concurrency.answer import Answer

T = TypeVar("T")

NO_THREAD = ("can't create new thread", "can't start new thread")


def uninterrupted(section: Callable[[], T]) -> T:
    """Run a short section in another thread if this is the main one; return its value or raise its error.

    Python runs signal handlers in the main thread, between any two instructions. A handler that raises would leave the
    section half done; one that enters the section itself would wait for a lock that its own thread holds. Where the
    waiting is interrupted, the section goes on to its end.
    """
    if threading.get_ident() != threading.main_thread().ident:
        return section()
    answer: Answer[T] = Answer()
    try:
        # Not threading.Thread, whose start() waits with Python's own locks, and breaks if that is interrupted.
        _thread.start_new_thread(_settle, (answer, section))
    except RuntimeError as error:
        if not str(error).startswith(NO_THREAD):
            raise
        return section()  # the interpreter ends, or there are too many threads
    try:
        return answer.result()
    finally:
        del answer  # an error's traceback holds this frame, and the answer the error: no cycle for gc to find


def _settle(answer: Answer[T], section: Callable[[], T]) -> None:
    try:
        answer.set_result(section())
    except BaseException as error:
        answer.set_exception(error)
