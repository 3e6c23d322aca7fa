"""The gates of a store: how parked tasks pass them. ``core.gate`` and ``core.parking`` have the rules."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from aiotaskq.backends.flow.gates import mend_gates
from aiotaskq.core.gate import Gate

if TYPE_CHECKING:
    from aiotaskq.backends.flow.transaction import Store, Transaction
    from aiotaskq.core.gate import Bounds, GateChange, GateState

PART = 200  # gates looked at in one transaction


class GateReads(ABC):
    """What a store reads of gates and of the tasks there, outside of transactions and without locks."""

    @abstractmethod
    async def due(self, now: int, limit: int) -> tuple[list[str], int | None]:
        """Return the keys of up to ``limit`` gates whose ``next_at`` has come, the longest due first.

        And the earliest ``next_at`` of all gates, None if no gate has one.
        """

    @abstractmethod
    async def known(self) -> Mapping[str, Bounds | None]:
        """Return the keys of all gates. Also of missing ones at which tasks wait, with bounds that these declare."""

    async def of_queue(self, queue: str, held: bool) -> Collection[str]:
        """Return the gates at which tasks of a queue wait, or of which with ``held`` tasks of it hold a slot that have
        not started; and perhaps others. This one returns all.
        """
        return await self.known()

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


class Gates:
    """The gates of one backend. To admit a gate is to let pass the first tasks there that may pass.

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

    def __init__(self, store: Store, reads: GateReads) -> None:
        self._store, self._reads = store, reads
        self.find, self.tasks = reads.find, reads.tasks

    async def admit(self, now: int, limit: int) -> int | None:
        """Admit up to ``limit`` gates whose ``next_at`` has come, at ``now`` in microseconds UTC.

        Return the earliest ``next_at`` after that, None if no gate has one. Sends the hint ``ready`` if a task passed.
        """
        due, next_at = await self._reads.due(now, limit)
        if not due:
            return next_at
        await self._store.transact(lambda tx: tx.touched.sweep(due, now))
        return (await self._reads.due(now, 0))[1]

    async def pause(self, queue: str, paused: bool) -> None:
        """Do what follows at gates from a pause of a queue, or from its end, which is written."""

        def body(tx: Transaction, part: Sequence[str]) -> None:
            if (queue in tx.paused_queues()) != paused:
                return  # changed again
            if paused:
                tx.touched.park(part, queue)
            else:
                tx.touched.make_due(part)

        keys = sorted(await self._reads.of_queue(queue, paused))
        for start in range(0, len(keys), PART):
            await self._store.transact(functools.partial(body, part=keys[start : start + PART]))

    async def mend(self, now: int) -> int:
        """Make the gates due at which tasks wait without a ``next_at`` and may pass; return how many.

        First a pause is brought to its end whose process died; gates without a use are deleted. For tasks whose push
        was committed by a process that died, and for slots of rows that other programs deleted. A gate is without a use
        if no task is there or holds a slot, its bounds are not fixed, and at ``now``, in microseconds UTC, it is not
        closed and all tokens of its rate are there: a new one would let pass the same.
        """
        for queue in await self._store.look(lambda tx: list(tx.paused_queues())):
            await self.pause(queue, True)
        known = await self._reads.known()
        keys, count = sorted(known), 0
        for start in range(0, len(keys), PART):
            part = {key: known[key] for key in keys[start : start + PART]}
            count += await self._store.transact(functools.partial(mend_gates, known=part, now=now))
        return count

    async def change(self, key: str, change: GateChange, now: int) -> Gate:
        """Write ``core.gate.changed`` of a gate, which is made if there is none, and admit it; return it as it is then.

        It is read and written under one lock: of two changes at the same time both count.
        """
        await self._store.transact(lambda tx: tx.touched.changed(key, change, now))
        found = await self.find([key])
        # One without a use may have been deleted meanwhile: it let pass what a new one does.
        return found[0].gate if found else Gate(key=key)
