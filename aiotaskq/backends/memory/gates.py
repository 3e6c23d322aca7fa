"""The gates of the memory backend."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence
from typing import Any

from aiotaskq.backends.gates import Gates
from aiotaskq.backends.listeners import READY, Listeners
from aiotaskq.backends.memory.transaction import MemoryTransaction
from aiotaskq.core.gate import Gate, GateChange, GateState, is_idle
from aiotaskq.core.parking import at_gate, passing_order, slots
from aiotaskq.core.task import PENDING


class MemoryGates(Gates):
    """Every gate of a backend."""

    def __init__(self, tx: MemoryTransaction, lock: Any, listeners: Listeners) -> None:
        self._tx, self._lock, self._listeners = tx, lock, listeners

    async def admit(self, now: int, limit: int) -> int | None:
        lines = self._tx.lines
        with self._lock:
            due = [key for key, line in lines.items() if (at := line.gate.next_at) is not None and at <= now]
            if due:
                self._tx.sweep(sorted(due)[:limit], now)
            ats = [line.gate.next_at for line in lines.values()]
        if due:
            self._listeners.notify(READY)
        return min((at for at in ats if at is not None), default=None)

    async def mend(self, now: int) -> int:
        lines = self._tx.lines
        with self._lock:
            for key, line in list(lines.items()):
                if not line.held and not line.waiting and is_idle(line.gate, now):
                    del lines[key]
        return 0  # no row leaves without its gates

    async def find(self, keys: Sequence[str] | None = None, limit: int = 1_000, *, prefix: str = "") -> list[GateState]:
        lines = self._tx.lines
        with self._lock:
            all_keys = sorted(key for key in lines if key.startswith(prefix)) if keys is None else keys
            found = [lines[key] for key in [key for key in all_keys if key in lines][:limit]]
            return [GateState(gate=each.gate, held=len(each.held), waiting=len(each.waiting)) for each in found]

    async def tasks(self, key: str, limit: int) -> tuple[list[str], list[str]]:
        with self._lock:
            line = self._tx.lines.get(key)
            if line is None:
                return [], []
            waiting = heapq.nsmallest(limit, line.waiting.values(), passing_order)
            return list(itertools.islice(line.held, limit)), [task.task_id for task in waiting]

    async def change(self, key: str, change: GateChange, now: int) -> Gate:
        with self._lock:
            self._tx.touched.changed(key, change, now)
            self._tx.end()
            gate = self._tx.lines[key].gate
        self._listeners.notify(READY)
        return gate

    def pause(self, queue: str, paused: bool) -> None:
        """Park what is ready of a paused queue; make the gates due at which tasks of a resumed one wait."""
        with self._lock:
            rows = [task for task in self._tx.rows.values() if task.queue == queue and task.flow and not task.final]
            if paused:
                keys = {key for task in rows if task.status is PENDING for key in slots(task)}
                self._tx.touched.park(keys, queue)
            else:
                self._tx.touched.make_due(key for task in rows if (key := at_gate(task)) is not None)
            self._tx.end()
