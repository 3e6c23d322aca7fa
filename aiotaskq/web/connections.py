"""Limits on the connections of the standalone server: how many are open, and which is closed for a new one. Pure."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Generic, TypeVar

C = TypeVar("C")


class Connections(Generic[C]):
    """The open connections: at most ``total`` in all, and ``per_address`` of one address.

    Where a new connection would be one too many, the one that has been anonymous longest is closed. A connection is
    anonymous unless a request that has shown the token is being answered on it. What its client does makes no
    difference, so that clients without the token cannot keep others out. A quarter of each limit is never given to
    authenticated connections, so that a new connection always finds room.
    """

    def __init__(self, total: int, per_address: int) -> None:
        self.total = total
        self.per_address = per_address
        self._address: dict[C, str] = {}
        self._count: Counter[str] = Counter()
        # Anonymous connections, the longest one first: of every address, and by address.
        self._anonymous: OrderedDict[C, None] = OrderedDict()
        self._anonymous_by_address: dict[str, OrderedDict[C, None]] = {}

    def __len__(self) -> int:
        return len(self._address)

    def add(self, connection: C, address: str) -> C | None:
        """Add an anonymous connection; return the one that has to be closed for it, or None."""
        closed: C | None = None
        if self._count[address] >= self.per_address:
            closed = next(iter(self._anonymous_by_address[address]))
        elif len(self._address) >= self.total:
            closed = next(iter(self._anonymous))
        if closed is not None:
            self.remove(closed)
        self._address[connection] = address
        self._count[address] += 1
        self.anonymous(connection)
        return closed

    def remove(self, connection: C) -> None:
        """Remove a connection; does nothing for an unknown one."""
        address = self._address.pop(connection, None)
        if address is None:
            return
        self._remove_anonymous(connection, address)
        self._count[address] -= 1
        if not self._count[address]:
            del self._count[address]

    def anonymous(self, connection: C) -> None:
        """Note that no request that has shown the token is being answered on a connection, or no longer."""
        if (address := self._address.get(connection)) is not None and connection not in self._anonymous:
            self._anonymous[connection] = None
            self._anonymous_by_address.setdefault(address, OrderedDict())[connection] = None

    def authenticated(self, connection: C) -> None:
        """Note that a connection's request has shown the token: it is not closed for a new one, if there is room."""
        address = self._address.get(connection)
        if address is None or connection not in self._anonymous:
            return
        here = self._count[address] - len(self._anonymous_by_address[address])
        everywhere = len(self._address) - len(self._anonymous)
        if here < _most_authenticated(self.per_address) and everywhere < _most_authenticated(self.total):
            self._remove_anonymous(connection, address)

    def _remove_anonymous(self, connection: C, address: str) -> None:
        self._anonymous.pop(connection, None)
        if (anonymous := self._anonymous_by_address.get(address)) is not None:
            anonymous.pop(connection, None)
            if not anonymous:
                del self._anonymous_by_address[address]


def _most_authenticated(limit: int) -> int:
    return limit - max(1, limit // 4)
