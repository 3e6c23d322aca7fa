"""The contract of side rows: texts under names, in kinds, beside the tasks.

Each capability that stores something beside the tasks is one kind, and a codec over these verbs: public values, the
audit log, the history.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import msgspec


class SideRow(msgspec.Struct, frozen=True):
    """A text under a name."""

    name: str
    """At most 255 characters, unique in its kind."""
    text: str
    until: int | None = None
    """When it ceases to exist, in microseconds UTC; None for never."""


class SideRows(ABC):
    """The side rows of one store. Each method is atomic, and knows one kind, a name of at most 20 characters.

    A row does not exist any more at ``now`` if its ``until`` is not later, whether or not ``expire`` has deleted it.
    Names are in the order of their code points. Instants are in microseconds UTC.
    """

    @abstractmethod
    async def put(self, kind: str, rows: Sequence[SideRow]) -> None:
        """Store rows; each replaces the one of its name, and of two with one name the last one stays."""

    @abstractmethod
    async def get(self, kind: str, names: Sequence[str], now: int) -> list[str | None]:
        """Read texts by name; None where there is none."""

    @abstractmethod
    async def range(
        self,
        kind: str,
        now: int,
        limit: int | None = None,
        *,
        prefix: str = "",
        after: str = "",
        before: str | None = None,
        newest: bool = False,
        texts: bool = True,
    ) -> list[SideRow]:
        """Read rows whose names begin with ``prefix``, and lie behind ``after`` and before ``before``, in their order.

        With ``newest`` in the opposite one. Without ``texts`` each text is empty.
        """

    @abstractmethod
    async def count(self, kind: str, now: int) -> int:
        """Count the rows."""

    @abstractmethod
    async def delete(self, kind: str, names: Sequence[str], now: int) -> list[bool]:
        """Delete rows by name; return for each whether it existed."""

    @abstractmethod
    async def swap(self, kind: str, gone: Sequence[str], rows: Sequence[SideRow]) -> bool:
        """Delete the rows with these names, and store others; return False, and write nothing, if one is missing."""

    @abstractmethod
    async def expire(self, kind: str, now: int, limit: int) -> int:
        """Delete up to ``limit`` rows that do not exist at ``now`` any more; return how many."""

    @abstractmethod
    async def trim(self, kind: str, most: int) -> None:
        """Delete all but the last ``most`` rows in the order of their names."""

    @abstractmethod
    async def clear(self, kind: str) -> None:
        """Delete every row."""
