"""The contract for gates: how parked tasks pass them. ``core.gate`` and ``core.parking`` have the rules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiotaskq.core.gate import Gate, GateChange, GateState


class Gates(ABC):
    """The gates of one backend; ``admitting`` a gate means to let pass the first tasks there that may pass.

    The tasks at a gate pass in claim order, by their due times: one that is not due, has expired, or is in a paused
    queue is left out.
    The verbs on tasks do their part in the transaction that writes the tasks:

    - A push of parked tasks takes the bounds that they declare, and admits their gates at the latest ``pushed_at``. It
      raises QueueFull, and writes nothing, if more tasks than ``max_waiting`` would then be waiting at one of their
      gates. Follow-ups and callbacks are never refused: what they follow has happened.
    - An update admits the gates of ``core.parking.gates_to_admit``, at the time of ``settled_at``. Where that is None
      it makes them due instead, and so does a delete.
    - To pause a queue parks its tasks that are ready at their first gates, and makes the gates due of which they had
      a slot; so does an update that gives a task back to a paused queue, or what follows it at once. To resume a queue
      makes the gates due at which its tasks wait.

    A push or an update in the caller's transaction locks no gate, since that transaction may be long: its tasks wait
    until its commit has made their gates due. Where a gate has a ``next_at``, the hint ``gates`` is sent.
    """

    @abstractmethod
    async def admit(self, now: int, limit: int) -> int | None:
        """Admit up to ``limit`` gates whose ``next_at`` has come, at ``now`` in microseconds UTC.

        Return the earliest ``next_at`` after that, None if no gate has one. Sends the hint ``ready`` if a task passed.
        """

    @abstractmethod
    async def mend(self, now: int) -> int:
        """Make the gates due at which tasks wait without a ``next_at``; return how many. Delete those without a use.

        First a pause is brought to its end whose process died. For tasks whose push was committed by a process that
        died, and for slots of rows that other programs deleted. A gate is without a use if no task is there or holds a
        slot, its bounds are not fixed, and at ``now``, in microseconds UTC, it is not closed and all tokens of its rate
        are there: a new one would let pass the same.
        """

    @abstractmethod
    async def find(self, keys: Sequence[str] | None = None, limit: int = 1_000, *, prefix: str = "") -> list[GateState]:
        """Read these gates, or the first ones whose keys begin with ``prefix``, in the order of their keys.

        One that does not exist is left out.
        """

    @abstractmethod
    async def tasks(self, key: str, limit: int) -> tuple[list[str], list[str]]:
        """Read the ids of up to ``limit`` tasks that hold a slot of a gate, and of as many that wait there.

        Those that wait come in the order of their priorities, then of their due times; each list is empty for a gate
        that does not exist.
        """

    @abstractmethod
    async def change(self, key: str, change: GateChange, now: int) -> Gate:
        """Write ``core.gate.changed`` of a gate, which is made if there is none, and admit it.

        It is read and written under one lock: of two changes at the same time both count.
        """
