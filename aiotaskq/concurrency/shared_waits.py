"""What an object of asyncio needs that threads and several event loops share: its coroutines run under a lock, and a
future is resolved in its own loop."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from aiotaskq.concurrency.loop_bound import running_loop_or_none

R = TypeVar("R")


@types.coroutine
def in_steps(coroutine: Coroutine[Any, Any, R], lock: AbstractContextManager[Any]) -> Generator[Any, Any, R]:
    """Await a coroutine, holding the lock during each of its steps and not while it waits."""
    error: BaseException | None = None
    while True:
        with lock:
            try:
                awaited = coroutine.send(None) if error is None else coroutine.throw(error)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
        try:
            yield awaited
        except BaseException as thrown:  # a cancellation, which the coroutine handles in its next step
            error = thrown
        else:
            error = None


def wake(waiter: asyncio.Future[Any], lost: Callable[[], object] = lambda: None) -> bool:
    """Resolve a future, now if its loop is the running one, else soon in its loop; called under the lock.

    Returns False if it was resolved or cancelled before, or its loop is closed. ``lost`` is called, without the lock,
    if it is cancelled before its loop can resolve it.
    """
    if waiter.done():
        return False
    loop = waiter.get_loop()
    if running_loop_or_none() is loop:
        waiter.set_result(None)
        return True

    def resolve() -> None:
        if waiter.done():
            lost()
        else:
            waiter.set_result(None)

    try:
        loop.call_soon_threadsafe(resolve)
    except RuntimeError:  # the loop is closed
        return False
    return True
