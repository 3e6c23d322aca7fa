"""What the updates of open pages need not read anew each time: it is kept for some seconds, for all pages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.task import SECOND

T = TypeVar("T")


class Kept:
    """Answers by their names, of which there are a few."""

    def __init__(self) -> None:
        self._clock = SystemClock()
        self._answers: dict[str, tuple[int, Any]] = {}

    async def get(self, name: str, seconds: float, read: Callable[[], Awaitable[T]]) -> T:
        """Return an answer that is not older than so many seconds, which is read if there is none."""
        at, answer = self._answers.get(name, (0, None))
        if name in self._answers and self._clock.ticks() - at < seconds * SECOND:
            return cast(T, answer)
        before = self._answers
        answer = await read()
        if before is self._answers:  # else something was changed meanwhile
            self._answers[name] = self._clock.ticks(), answer
        return answer

    def forget(self) -> None:
        """Read everything anew: something was changed."""
        self._answers = {}
