"""The contract of side rows: texts under names, in kinds, beside the tasks.

Each capability that stores something beside the tasks is one kind, or a few, and a codec over these verbs: public
values, the audit log, the history, the log of a task, the registry of workers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, NamedTuple, Protocol, TypeVar

import msgspec

T = TypeVar("T")

NOTE: Final = "note"
STEP: Final = "step"
TAG: Final = "tag"
"""The kind of the tags of tasks: each name is ``name=value``. A store has an index of their owners by name."""
AFTER: Final = "after"
"""The kind of what a task waits for that was pushed after others: see ``flow.after``."""
WORKER: Final = "worker"
"""The kind of the workers. A store whose memory is full takes these rows: workers make room there."""
OF_TASKS: Final = (NOTE, STEP, TAG)
"""The kinds whose owners are tasks, by their ids: they are deleted with the row of their task."""


class SideRow(msgspec.Struct, frozen=True, gc=False):
    """A text under a name."""

    name: str
    """At most 400 characters, unique among those of its kind and owner."""
    text: str
    until: int | None = None
    """When it ceases to exist, in microseconds UTC; None for never."""
    owner: str = ""
    """What it belongs to, such as the id of a task; at most 255 characters. Empty for nothing."""


class OwnedRows(ABC):
    """The side rows in one transaction of ``backends.flow``. Names are in the order of their code points.

    Whether a row has expired is not looked at.
    """

    @abstractmethod
    def last(self, kind: str, owners: Sequence[str]) -> Mapping[str, str]:
        """Return the last name of each of these owners that have rows, by owner."""

    @abstractmethod
    def of(self, kind: str, owners: Sequence[str], *, texts: bool = True) -> Sequence[SideRow]:
        """Read the rows of these owners, of each in the order of the names; without ``texts`` each text is empty."""

    @abstractmethod
    def owners(self, kind: str, limit: int, *, prefix: str = "", after: str = "") -> Sequence[str]:
        """Return the first owners that have rows, whose names begin with ``prefix`` and lie behind ``after``."""

    @abstractmethod
    def lock(self, kind: str, names: Sequence[str], owner: str = "") -> Mapping[str, str]:
        """Read texts of an owner by name, and lock these names until the transaction ends, also the missing ones.

        In their order. A name that is missing may get a row that has expired from the first.
        """

    @abstractmethod
    def add(self, kind: str, rows: Sequence[SideRow]) -> None:
        """Store rows; one whose owner and name are there stays as it is."""

    @abstractmethod
    def put(self, kind: str, rows: Sequence[SideRow]) -> None:
        """Store rows; each replaces the one of its owner and name, and of two with both the same the last one stays."""

    @abstractmethod
    def delete_of(self, kind: str, owners: Sequence[str]) -> None:
        """Delete the rows of these owners."""

    @abstractmethod
    def delete(self, kind: str, owner: str, names: Sequence[str]) -> None:
        """Delete rows of an owner by name."""


class Range(NamedTuple):
    """Rows whose names begin with ``prefix``, and lie behind ``after`` and before ``before``.

    In the order of their names, with ``newest`` in the opposite one. Without ``texts`` each text is empty.
    """

    kind: str
    now: int
    limit: int | None = None
    prefix: str = ""
    after: str = ""
    before: str | None = None
    newest: bool = False
    texts: bool = True
    owner: str = ""


class WithSide(Protocol):
    """What of a transaction side rows need."""

    @property
    def side(self) -> OwnedRows: ...


class Transactions(Protocol):
    """What of a store they need: see ``flow.transaction.Store``."""

    async def transact(self, body: Callable[[WithSide], T], *, repeatable: bool = False) -> T: ...


class SideRows(ABC):
    """The side rows of one store. Each method is atomic, and knows one kind, a name of at most 20 characters.

    But for ``read`` these are the rows without an owner.

    A row does not exist any more at ``now`` if its ``until`` is not later, whether or not ``expire`` has deleted it.
    Names are in the order of their code points. Instants are in microseconds UTC.
    """

    store: Transactions
    """What runs the transactions that write them."""

    @abstractmethod
    async def get(self, kind: str, names: Sequence[str], now: int) -> list[str | None]:
        """Read texts by name; None where there is none."""

    @abstractmethod
    async def read(self, wanted: Range) -> list[SideRow]:
        """Read rows."""

    @abstractmethod
    async def count(self, kind: str, now: int) -> int:
        """Count the rows."""

    @abstractmethod
    async def expire(self, kind: str, now: int, limit: int) -> int:
        """Delete up to ``limit`` rows that do not exist at ``now`` any more; return how many."""

    async def put(self, kind: str, rows: Sequence[SideRow]) -> None:
        """Do as ``OwnedRows.put``."""
        if rows:
            await self.store.transact(lambda tx: tx.side.put(kind, rows), repeatable=True)

    async def delete(self, kind: str, names: Sequence[str], now: int) -> list[bool]:
        """Delete rows by name; return for each whether it existed. One that has expired is left to ``expire``."""
        found = await self.get(kind, names, now)
        live = [name for name, text in zip(names, found, strict=True) if text is not None]

        def body(tx: WithSide) -> Collection[str]:
            there = list(tx.side.lock(kind, live))
            tx.side.delete(kind, "", there)
            return there

        deleted = await self.store.transact(body) if live else ()
        return [name in deleted for name in names]

    async def swap(self, kind: str, gone: Sequence[str], rows: Sequence[SideRow]) -> bool:
        """Delete the rows with these names, and store others; return False, and write nothing, if one is missing."""
        return await self.rewrite(kind, gone, lambda found: rows if len(found) == len(gone) else None)

    async def rewrite(
        self,
        kind: str,
        names: Sequence[str],
        rows: Callable[[Mapping[str, str]], Sequence[SideRow] | None],
        *,
        repeatable: bool = False,
    ) -> bool:
        """Delete the rows with these names, and store those that ``rows`` returns for their texts, by name.

        Return False, and write nothing, if that is None. ``repeatable``: as of ``flow.transaction.Store.transact``.
        """

        def body(tx: WithSide) -> None:
            found = tx.side.lock(kind, names)
            if (written := rows(found)) is None:
                raise _Unwritten  # to take back what locks a name that is missing
            tx.side.delete(kind, "", [*found.keys() - {row.name for row in written}])
            tx.side.put(kind, written)

        try:
            await self.store.transact(body, repeatable=repeatable)
        except _Unwritten:
            return False
        return True

    async def clear(self, kind: str) -> None:
        """Delete every row."""
        await self.store.transact(lambda tx: tx.side.delete_of(kind, [""]), repeatable=True)


class _Unwritten(Exception):
    """A transaction that is to write nothing."""
