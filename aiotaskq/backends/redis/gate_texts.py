"""The texts of gates in Redis, of where tasks wait at them, and of the rows of these tasks.

The text of a gate has a version and the numbers of the tasks that hold a slot and wait. Each transaction that changes
one of these, or what waits there, writes the text; so its comparison at the commit sees all of that.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import msgspec

from aiotaskq.backends.redis.rows import HEAD, Place, members
from aiotaskq.core.gate import Bounds, Flow, Gate
from aiotaskq.core.status import Status
from aiotaskq.core.task import Task

_encode = msgspec.json.Encoder().encode
_STATUSES = {str(status).encode(): status for status in Status}
_PRIORITY_BIAS = 2**63  # so that the order of the texts of priorities is that of the numbers


class _Began(msgspec.Struct):
    began_at: int | None = None


_began = msgspec.json.Decoder(_Began).decode
_place = msgspec.json.Decoder(Place).decode


class StoredGate(NamedTuple):
    """A gate as it was read."""

    gate: Gate | None
    """None where there is none."""
    version: int
    held: int
    waiting: int


_bounds_of = functools.lru_cache(1_000)(msgspec.json.Decoder(Bounds).decode)
_bounds_text = functools.lru_cache(1_000)(lambda bounds: _encode(bounds).decode())


@functools.lru_cache(4_000)
def _flow_of(text: bytes) -> Flow:
    """Return the flow of a task with gates; most tasks at a gate have the same."""
    try:
        return msgspec.json.decode(text, type=Flow)
    except (msgspec.DecodeError, ValueError):
        return Flow()  # it is told where the row is read as a whole


def read_gate(key: str, text: bytes) -> StoredGate:
    """Return the gate with this text, as ``lua/gates_read.lua`` returns it."""
    if text.startswith(b"-"):
        _, held, waiting = text.split(b" ")
        return StoredGate(None, 0, int(held), int(waiting))
    version, held, waiting, tat, closed, next_at, charged, fixed, bounds = text.split(b" ", 8)
    gate = Gate(
        key=key,
        bounds=_bounds_of(bounds),
        fixed=fixed == b"1",
        tat=int(tat),
        charged_until=int(charged),
        closed_until=int(closed),
        next_at=None if next_at == b"-" else int(next_at),
    )
    return StoredGate(gate, int(version), int(held), int(waiting))


def gate_text(gate: Gate, version: int, held: int, waiting: int) -> str:
    """Return the text of a gate."""
    next_at = "-" if gate.next_at is None else gate.next_at
    return (
        f"{version} {held} {waiting} {gate.tat} {gate.closed_until} {next_at} {gate.charged_until} {int(gate.fixed)} "
        f"{_bounds_text(gate.bounds)}"
    )


def sized(name: str) -> str:
    """Return a name behind its length in bytes and a colon."""
    return f"{len(name) if name.isascii() else len(name.encode())}:{name}"


def order_text(task: Task) -> str:
    """Return the member of ``wait:…`` of a task: its place in the order in which tasks pass a gate, and its id."""
    due = max(0, task.due_at or 0)
    return f"{task.priority + _PRIORITY_BIAS:016x}{due:016x}{max(0, task.seq):016x}{task.task_id}"


class StateText:
    """The state of a row with a flow, and its task without what it does not need to pass gates."""

    __slots__ = ("_flow", "_head", "_json_at", "_place_at", "task", "text")

    def __init__(self, task_id: str, text: bytes) -> None:
        """Raises ValueError for a text that has no flow, or cannot be read."""
        head = HEAD(text)
        if head is None or head[11] == b"0":
            raise ValueError("the row has no flow")
        names_at = head.end() + int(head[9])
        self._place_at = names_at + int(head[10])
        self._json_at = self._place_at + int(head[11])
        place = _place(b"{%b}" % text[self._place_at + 1 : self._json_at])
        priority, _, queue = text[head.end() : names_at].partition(b":")
        self.text, self._head, self._flow = text, head, place.flow
        self.task = Task(
            task_id=task_id,
            type="",
            status=_STATUSES[head[1]],
            priority=int(priority),
            fence=int(head[2]),
            queue=queue.decode(),
            run_at=int(head[7]),
            seq=int(head[6]),
            expires_at=None if head[5] == b"-" else int(head[5]),
            due_at=place.due_at,
            gate=place.gate,
            flow=_flow_of(bytes(place.flow)),
            waits=place.waits,
        )

    def at(self, after: Task) -> bytes:
        """Return the text of the row where it is at another place."""
        head, text = self._head, self.text
        place = members(Place(after.waits, after.due_at, after.gate, self._flow)).encode()
        return b"%b%d%b%d %b%b%b" % (
            *(text[: head.start(7)], after.run_at, text[head.end(7) : head.start(11)], len(place)),
            *(text[head.end() : self._place_at], place, text[self._json_at :]),
        )

    def began_at(self) -> int | None:
        """Return when the run began that the row has, in microseconds UTC."""
        return _began(b"{%b}" % self.text[self._json_at + 1 :]).began_at


def read_state(task_id: str, text: bytes) -> StateText | None:
    """Return the state of a row, None if there is none, or none with a flow."""
    try:
        return StateText(task_id, text) if text else None
    except (msgspec.DecodeError, ValueError, KeyError):
        return None
