"""The contract of the history: a store of the sums of what workers did; ``core.history`` has the rules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiotaskq.core.history import Period, Roll


class History(ABC):
    """The periods of one store. Each method is atomic, and none of them loses what another one adds meanwhile."""

    @abstractmethod
    async def add(self, periods: Sequence[Period]) -> None:
        """Add each to what is stored under its key. If the answer is lost, it is not known whether that was done."""

    @abstractmethod
    async def read(self, since: int, until: int, *, queue: str | None = None, type: str | None = None) -> list[Period]:
        """Read the periods that began at ``since`` or later and before ``until``, in the order of their keys.

        Both in microseconds UTC; a queue or a type that is given restricts.
        """

    @abstractmethod
    async def roll(self, roll: Roll, limit: int) -> int:
        """Add periods to longer ones in their place, or delete them, the oldest first; return how many.

        About ``limit`` of them: the longer ones may be written in parts, since each part is added.
        """
