"""The limits on connections of the standalone server, as a state machine."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aiotaskq.web.http_protocol import Connections


class Connecting(RuleBasedStateMachine):
    """Connections open, show a token and close: the limits hold, and a new one always finds room."""

    TOTAL, EACH = 6, 4
    MOST, MOST_EACH = 5, 3  # authenticated

    def __init__(self) -> None:
        super().__init__()
        self.connections: Connections[int] = Connections(self.TOTAL, self.EACH)
        self.open: dict[int, str] = {}
        self.anonymous: list[int] = []  # the longest one first
        self.made = 0

    def of(self, address: str, connections: Iterable[int]) -> list[int]:
        return [each for each in connections if self.open[each] == address]

    @rule(address=st.sampled_from("abc"))
    def enter(self, address: str) -> None:
        self.made += 1
        closed: int | None = None
        if len(self.of(address, self.open)) >= self.EACH:
            closed = self.of(address, self.anonymous)[0]
        elif len(self.open) >= self.TOTAL:
            closed = self.anonymous[0]
        assert self.connections.add(self.made, address) == closed
        if closed is not None:
            self.forget(closed)
        self.open[self.made] = address
        self.anonymous.append(self.made)

    def forget(self, connection: int) -> None:
        del self.open[connection]
        if connection in self.anonymous:
            self.anonymous.remove(connection)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), verb=st.sampled_from(("authenticated", "anonymous", "remove")))
    def change(self, data: st.DataObject, verb: str) -> None:
        connection = data.draw(st.sampled_from(sorted(self.open)))
        getattr(self.connections, verb)(connection)
        if verb == "remove":
            self.forget(connection)
        elif verb == "anonymous" and connection not in self.anonymous:
            self.anonymous.append(connection)
        elif verb == "authenticated" and connection in self.anonymous:
            shown = [each for each in self.open if each not in self.anonymous]
            if len(shown) < self.MOST and len(self.of(self.open[connection], shown)) < self.MOST_EACH:
                self.anonymous.remove(connection)

    @invariant()
    def bounded(self) -> None:
        assert len(self.connections) == len(self.open) <= self.TOTAL
        assert all(len(self.of(address, self.open)) <= self.EACH for address in "abc")

    def teardown(self) -> None:
        for connection in [*self.open, -1]:
            self.connections.remove(connection)
        kept = [value for value in vars(self.connections).values() if not isinstance(value, int)]
        assert kept and not any(kept)  # H3


TestConnecting = Connecting.TestCase
TestConnecting.settings = settings(max_examples=50, stateful_step_count=40)
