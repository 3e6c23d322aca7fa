"""What a small store reads outside of transactions, and the rows beside tasks: steps 2 to 6."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from msgspec.structs import replace

from aiotaskq.backends import base
from aiotaskq.backends.flow.transaction import push
from aiotaskq.backends.gates import GateReads
from aiotaskq.backends.groups import GroupReads
from aiotaskq.backends.listeners import Listeners
from aiotaskq.backends.schedules import Decide
from aiotaskq.backends.side_rows import Range, SideRow, SideRows
from aiotaskq.core.gate import Bounds, GateState
from aiotaskq.core.groups import GroupState, Member
from aiotaskq.core.parking import passing_order
from aiotaskq.core.schedule import Schedule
from aiotaskq.core.status import PENDING
from tests.support.small_store.rows import Names, SmallTransaction

T = TypeVar("T")


class Runner(Protocol):
    """What runs transactions."""

    listeners: Listeners

    def run(self, body: Callable[[SmallTransaction], T]) -> T: ...
    def read(self, body: Callable[[SmallTransaction], T]) -> T: ...


class _Part:
    def __init__(self, store: Runner) -> None:
        self._store, self._read, self._run = store, store.read, store.run


class SmallGroupReads(_Part, GroupReads):
    """Step 2: what is read of groups."""

    def _all(self) -> list[GroupState]:
        return self._read(lambda tx: list(tx.rows.groups.values()))

    async def find(self, limit: int, *, after: str | None = None, ended: bool | None = None) -> list[GroupState]:
        found = sorted(self._all(), key=lambda group: (group.created_at, group.group_id), reverse=True)
        if after is not None:
            ids = [group.group_id for group in found]
            found = found[ids.index(after) + 1 :] if after in ids else []
        return [group for group in found if ended is None or (group.ended_at is not None) == ended][:limit]

    async def members(self, group_id: str, limit: int, *, start: int = 0) -> list[Member]:
        return list(self._read(lambda tx: tx.rows.members.get(group_id, ())))[start : start + limit]

    async def cancelling(self, limit: int) -> list[str]:
        return [group.group_id for group in self._all() if group.cancel_requested and group.ended_at is None][:limit]

    async def over(self, before: int, limit: int) -> list[str]:
        outer = [group for group in self._all() if group.parent_id is None and not group.needed_by]
        return [each.group_id for each in outer if each.ended_at is not None and each.ended_at < before][:limit]

    async def children(self, limit: int, after: str) -> tuple[list[str], str]:
        rows = self._read(lambda tx: list(tx.rows.tasks.values()))
        ids = sorted(row.task_id for row in rows if row.waits and row.task_id > after)
        return ids[:limit], ids[limit - 1] if len(ids) > limit else ""


class SmallGateReads(_Part, GateReads):
    """Step 3: what is read of gates."""

    async def due(self, now: int, limit: int) -> tuple[list[str], int | None]:
        gates = self._read(lambda tx: list(tx.rows.gates.values()))
        ats = sorted((gate.next_at, gate.key) for gate in gates if gate.next_at is not None)
        return [key for at, key in ats if at <= now][:limit], ats[0][0] if ats else None

    async def known(self) -> Mapping[str, Bounds | None]:
        return dict.fromkeys(self._read(lambda tx: list(tx.rows.gates)))

    async def of_queue(self, queue: str, held: bool) -> set[str]:
        def body(tx: SmallTransaction) -> set[str]:
            found = tx._holding(tx.rows.gates) if held else tx._at(tx.rows.gates)
            return {key for key, row in found if row.queue == queue and row.status is PENDING}

        return self._read(body)

    async def find(self, keys: Sequence[str] | None = None, limit: int = 1_000, *, prefix: str = "") -> list[GateState]:
        def body(tx: SmallTransaction) -> list[GateState]:
            wanted = sorted(key for key in tx.rows.gates if key.startswith(prefix)) if keys is None else keys
            there = [key for key in wanted if key in tx.rows.gates][:limit]
            counts = tx.counts(there)
            return [GateState(gate=tx.rows.gates[key], held=counts[key][0], waiting=counts[key][1]) for key in there]

        return self._read(body)

    async def tasks(self, key: str, limit: int) -> tuple[list[str], list[str]]:
        def body(tx: SmallTransaction) -> tuple[list[str], list[str]]:
            held = [row.task_id for _, row in tx._holding([key])]
            waiting = sorted((row for _, row in tx._at([key])), key=passing_order)
            return held[:limit], [row.task_id for row in waiting[:limit]]

        return self._read(body)


class SmallSideRows(_Part, SideRows):
    """Step 4: the side rows outside of transactions, without an owner."""

    def _table(self, kind: str) -> dict[Names, SideRow]:
        return self._read(lambda tx: dict(tx.rows.side.get(kind, {})))

    async def get(self, kind: str, names: Sequence[str], now: int) -> list[str | None]:
        table = self._table(kind)
        rows = [table.get(("", name)) for name in names]
        return [row.text if row is not None and _is_there(row, now) else None for row in rows]

    async def read(self, wanted: Range) -> list[SideRow]:
        kind, now, limit, prefix, after, before, newest, texts, owner = wanted
        rows = sorted((row for row in self._table(kind).values() if row.owner == owner), key=lambda row: row.name)
        found = [
            row
            for row in (rows[::-1] if newest else rows)
            if row.name.startswith(prefix) and row.name > after and (before is None or row.name < before)
            if _is_there(row, now)
        ][:limit]
        return found if texts else [replace(row, text="") for row in found]

    async def count(self, kind: str, now: int) -> int:
        return sum(_is_there(row, now) for row in self._table(kind).values() if not row.owner)

    async def expire(self, kind: str, now: int, limit: int) -> int:
        rows = self._table(kind).values()
        late = [row.name for row in rows if not row.owner and not _is_there(row, now)][:limit]
        self._run(lambda tx: tx.side.delete(kind, "", late))
        return len(late)


def _is_there(row: SideRow, now: int) -> bool:
    return row.until is None or row.until > now


class SmallSchedules(_Part, base.Schedules):
    """Step 6: schedules."""

    async def _write(self, ids: Sequence[str], decide: Decide[T], whole: bool = True) -> T:
        def body(tx: SmallTransaction) -> T:
            rows = tx.rows.schedules
            decision = decide({each: rows[each] for each in ids if each in rows})
            rows.update({schedule.task_id: schedule for schedule, _ in decision.written})
            for each in decision.deleted:
                del rows[each]
            push(tx, decision.fired)
            return decision.answer

        return self._run(body)

    async def get(self, ids: Sequence[str]) -> list[Schedule | None]:
        return self._read(lambda tx: [tx.rows.schedules.get(schedule_id) for schedule_id in ids])

    async def all(self, enabled_only: bool = False) -> list[Schedule]:
        rows = self._read(lambda tx: list(tx.rows.schedules.values()))
        return sorted((r for r in rows if r.enabled or not enabled_only), key=lambda r: (r.created_at, r.task_id))

    async def _dues(self) -> list[tuple[int, str, Schedule]]:
        return sorted((r.due, r.task_id, r) for r in await self.all(enabled_only=True) if r.due is not None)

    async def due(self, now: int, limit: int) -> list[Schedule]:
        return [row for due, _, row in await self._dues() if due <= now][:limit]

    async def undelivered(self, limit: int) -> list[Schedule]:
        return [row for row in await self.all() if row.outbox][:limit]
