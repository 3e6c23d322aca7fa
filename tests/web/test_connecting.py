"""The limits on connections of the standalone server, as a state machine."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aiotaskq.web.connections import Connections


class Connecting(RuleBasedStateMachine):
    """Connections open, send requests and close: the limits hold, and only idle ones are closed for new ones."""

    TOTAL, EACH = 5, 3

    def __init__(self) -> None:
        super().__init__()
        self.connections: Connections[int] = Connections(self.TOTAL, self.EACH)
        self.open: dict[int, str] = {}
        self.waiting: list[int] = []  # without a request, the longest waiting first
        self.made = 0

    @rule(address=st.sampled_from("abc"))
    def enter(self, address: str) -> None:
        self.made += 1
        of_address = [each for each in self.waiting if self.open[each] == address]
        full = len(self.open) >= self.TOTAL
        closed: int | None = None
        if list(self.open.values()).count(address) >= self.EACH:
            closed = of_address[0] if of_address else self.made
        elif full:
            closed = self.waiting[0] if self.waiting else self.made
        assert self.connections.add(self.made, address) == closed
        if closed != self.made:
            if closed is not None:
                self.forget(closed)
            self.open[self.made] = address
            self.waiting.append(self.made)

    def forget(self, connection: int) -> None:
        del self.open[connection]
        if connection in self.waiting:
            self.waiting.remove(connection)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), verb=st.sampled_from(("busy", "idle", "remove")))
    def change(self, data: st.DataObject, verb: str) -> None:
        connection = data.draw(st.sampled_from(sorted(self.open)))
        getattr(self.connections, verb)(connection)
        if verb == "remove":
            self.forget(connection)
        elif verb == "busy" and connection in self.waiting:
            self.waiting.remove(connection)
        elif verb == "idle" and connection not in self.waiting:
            self.waiting.append(connection)

    @invariant()
    def bounded(self) -> None:
        assert len(self.connections) == len(self.open) <= self.TOTAL
        assert all(list(self.open.values()).count(address) <= self.EACH for address in "abc")

    def teardown(self) -> None:
        for connection in [*self.open, -1]:
            self.connections.remove(connection)
        kept = [value for value in vars(self.connections).values() if not isinstance(value, int)]
        assert kept and not any(kept)  # H3


TestConnecting = Connecting.TestCase
TestConnecting.settings = settings(max_examples=50, stateful_step_count=40)
