"""Runs a short section where no signal handler interrupts it: in a helper thread, if the caller is the main thread."""

from __future__ import annotations

import _thread
import asyncio
import threading
from _thread import get_ident
from collections.abc import Callable
from typing import TypeVar

from aiotaskq.concurrency.cross_thread_future import CrossThreadFuture
from aiotaskq.concurrency.loop_bound import after_fork

T = TypeVar("T")

NO_THREAD = ("can't create new thread", "can't start new thread")

_main = threading.main_thread().ident


@after_fork
def _forked() -> None:
    global _main
    _main = threading.main_thread().ident


def may_be_interrupted() -> bool:
    """Whether this is the main thread, in which Python runs signal handlers."""
    return get_ident() == _main


def uninterrupted(section: Callable[[], T]) -> T:
    """Run a short section in another thread if this is the main thread; return its value or raise its error.

    Python runs signal handlers in the main thread, between any two instructions. A handler that raises would leave the
    section half done, and one that enters the section again would wait for a lock that its own thread holds. If the
    waiting is interrupted, the section still runs to its end.
    """
    if not may_be_interrupted():
        return section()
    answer: CrossThreadFuture[T] = CrossThreadFuture()
    try:
        # Not threading.Thread: its start() waits with locks of Python code, which an interrupt may leave locked.
        _thread.start_new_thread(_settle, (answer, section))
    except RuntimeError as error:
        if not str(error).startswith(NO_THREAD):
            raise
        return section()  # the interpreter is ending, or there are too many threads
    try:
        return answer.result()
    finally:
        del answer  # it holds the error, whose traceback holds this frame: a reference cycle


def _settle(answer: CrossThreadFuture[T], section: Callable[[], T]) -> None:
    try:
        answer.set_result(section())
    except BaseException as error:
        answer.set_exception(error)


class ShieldedTask(asyncio.Task[T]):
    """An asyncio task that is given to no code that might cancel it; only the end of the loop does.

    A transaction in it needs no task and no ``asyncio.shield`` of its own, which saves iterations of the loop.
    """


def in_shielded_task() -> bool:
    """Whether the running coroutine is in a ShieldedTask."""
    return isinstance(asyncio.current_task(), ShieldedTask)
