"""What is read of the gates in memory."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence

from aiotaskq.backends.gates import GateReads
from aiotaskq.backends.memory.lock import BriefLock
from aiotaskq.backends.memory.transaction import MemoryTransaction
from aiotaskq.core.gate import GateState
from aiotaskq.core.parking import at_gate, passing_order, slots
from aiotaskq.core.task import PENDING


class MemoryGateReads(GateReads):
    """The gates of a backend."""

    def __init__(self, tx: MemoryTransaction, lock: BriefLock) -> None:
        self._tx, self._lock = tx, lock

    async def due(self, now: int, limit: int) -> tuple[list[str], int | None]:
        with self._lock:
            ats = [(at, key) for key, line in self._tx.lines.items() if (at := line.gate.next_at) is not None]
        due = heapq.nsmallest(limit, (each for each in ats if each[0] <= now))
        return [key for _, key in due], min(ats)[0] if ats else None

    async def known(self) -> dict[str, None]:
        with self._lock:
            return dict.fromkeys(self._tx.lines)

    async def of_queue(self, queue: str, held: bool) -> set[str]:
        with self._lock:
            rows = [row for row in self._tx.rows.values() if row.queue == queue and row.status is PENDING and row.flow]
            if held:
                return {key for row in rows for key in slots(row)}
            return {key for row in rows if (key := at_gate(row)) is not None}

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
