"""Limits on the connections of the standalone server: how many are open, and which is closed for a new one. Pure."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Generic, TypeVar

C = TypeVar("C")


class Connections(Generic[C]):
    """The open connections: at most ``total`` in all, and ``per_address`` of one address.

    Where a new connection would be one too many, the one that has been idle longest is closed: half-sent requests
    cannot keep other clients out. Where none is idle, the new connection is refused.
    """

    def __init__(self, total: int, per_address: int) -> None:
        self.total = total
        self.per_address = per_address
        self._address: dict[C, str] = {}
        self._count: Counter[str] = Counter()
        # Connections without a request, the longest idle first: of every address, and by address.
        self._idle: OrderedDict[C, None] = OrderedDict()
        self._idle_by_address: dict[str, OrderedDict[C, None]] = {}

    def __len__(self) -> int:
        return len(self._address)

    def add(self, connection: C, address: str) -> C | None:
        """Add an idle connection; return the one that has to be closed for it, which may be itself, or None."""
        closed: C | None = None
        if self._count[address] >= self.per_address:
            closed = next(iter(self._idle_by_address.get(address, ())), connection)
        elif len(self._address) >= self.total:
            closed = next(iter(self._idle), connection)
        if closed is connection:
            return closed
        if closed is not None:
            self.remove(closed)
        self._address[connection] = address
        self._count[address] += 1
        self.idle(connection)
        return closed

    def remove(self, connection: C) -> None:
        """Remove a connection; does nothing for an unknown one."""
        address = self._address.pop(connection, None)
        if address is None:
            return
        self._remove_idle(connection, address)
        self._count[address] -= 1
        if not self._count[address]:
            del self._count[address]

    def idle(self, connection: C) -> None:
        """Note that a connection has no request, or no longer."""
        if (address := self._address.get(connection)) is not None and connection not in self._idle:
            self._idle[connection] = None
            self._idle_by_address.setdefault(address, OrderedDict())[connection] = None

    def busy(self, connection: C) -> None:
        """Note that a connection has a request, so that it is not closed for a new one."""
        if (address := self._address.get(connection)) is not None:
            self._remove_idle(connection, address)

    def _remove_idle(self, connection: C, address: str) -> None:
        self._idle.pop(connection, None)
        if (idle := self._idle_by_address.get(address)) is not None:
            idle.pop(connection, None)
            if not idle:
                del self._idle_by_address[address]
