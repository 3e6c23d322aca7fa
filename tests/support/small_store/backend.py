"""A small store: dicts under a lock, by the contract in ``aiotaskq/backends`` alone.

It is what ``docs/architecture.md`` describes as a sixth store, step by step, and shows that the page suffices. All rows
are in the process, by the name in the URL (``small://NAME``): backends of one name share them, as processes share a
database. Each transaction works on the rows themselves, and puts copies of the tables back if it fails. Nothing is
indexed: reads look at every row.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, TypeVar

import msgspec

from aiotaskq.backends import base
from aiotaskq.backends.base import Backend
from aiotaskq.backends.change import Change, Claim, Room
from aiotaskq.backends.flow.groups import staying
from aiotaskq.backends.flow.transaction import Store, Transaction, push
from aiotaskq.backends.listeners import CANCEL, ENDED, GATES, READY
from aiotaskq.backends.side_rows import WORKER
from aiotaskq.core.coded import anew, decoded, is_coded, lazy
from aiotaskq.core.errors import ClosedError
from aiotaskq.core.gate import PARKED
from aiotaskq.core.outcome import owner_of
from aiotaskq.core.status import FINAL, PENDING, RUNNING, Status
from aiotaskq.core.task import SECOND, Task, TaskFilter
from tests.support.small_store.parts import (
    SmallGateReads,
    SmallGroupReads,
    SmallSchedules,
    SmallSideRows,
)
from tests.support.small_store.rows import STORES, Rows, SmallTransaction, copied

T = TypeVar("T")


class SmallStore(Backend, Store):
    """The backend. The steps are those of the page; those of the verbs on tasks are 1."""

    durable: ClassVar[bool] = True
    shared = True
    wakes_later = False

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url, self._rows = url, STORES.setdefault(url, Rows())
        self._is_closed = self._watches = False
        self.listeners.forward = self._forward
        self.keep(self, SmallSideRows(self), SmallGateReads(self), SmallGroupReads(self))
        self.schedules = SmallSchedules(self)

    def run(self, body: Callable[[SmallTransaction], T]) -> T:
        """Do as ``Store.transact``."""
        with self._rows.lock:
            saved, tx = self._rows.copy(), self._begin()
            try:
                answer = body(tx)
                tx.end()
            except BaseException:
                vars(self._rows).update(saved)
                raise
        hints = {kind: names for each in tx.written for kind, names in self.hints_of_update(*each).items()}
        if followed := tx.touched.followed:
            hints[ENDED] = [*hints.get(ENDED, ()), *followed.all_ended]
            self.groups.note(followed)
        hints |= {READY: []} if tx.touched.wakes else {}
        hints |= {GATES: []} if tx.has_next_at else {}
        for kind, names in hints.items():
            self.listeners.notify(kind, names)
        return answer

    def read(self, body: Callable[[SmallTransaction], T]) -> T:
        """Return what a body reads."""
        with self._rows.lock:
            return body(self._begin())

    def _begin(self) -> SmallTransaction:
        if self._is_closed:
            raise ClosedError(f"the store {self._url} was closed; open() opens it again")
        return SmallTransaction(self._rows, self.groups.messages, self.codec)

    async def transact(self, body: Callable[[Transaction], T], *, repeatable: bool = False) -> T:
        return self.run(body)

    async def open(self) -> None:
        self._is_closed = False
        if self not in self._rows.backends:
            self._rows.backends.append(self)

    async def close(self) -> None:
        self._is_closed, self._watches = True, False
        if self in self._rows.backends:
            self._rows.backends.remove(self)

    async def ping(self) -> int | None:
        return self.read(lambda tx: time.time_ns() // 1_000)

    def another(self, patience: float | None = None) -> Backend:
        return type(self)(self._url)

    async def watch(self) -> None:
        self._watches = True

    def _forward(self, kind: str, names: Sequence[str]) -> None:
        for other in list(self._rows.backends):
            if other is not self and other._watches:
                other.listeners.receive(kind, names)

    async def push(self, tasks: Sequence[Task], room: Room | None = None) -> list[Task]:
        def body(tx: SmallTransaction) -> list[Task]:
            if room is not None:
                tx.check_room(tasks, room)
                tx.update(room.instead)
            each = zip(push(tx, tasks), tasks, strict=True)
            return [row if row is task else self._out([row])[0] for row, task in each]

        return self.run(body)

    async def _claim(self, wanted: Claim) -> list[Task]:
        owner, now, limit, queues, lease_until = wanted
        run: dict[str, Any] = {"status": RUNNING, "started_at": now // SECOND, "began_at": now}
        run |= {"lease_owner": owner, "lease_until": lease_until}

        def body(tx: SmallTransaction) -> list[Task]:
            found = [row.replace(**run, fence=row.fence + 1) for row in tx.ready(now, queues)[:limit]]
            tx.rows.tasks.update({row.task_id: row for row in found})
            return self._out(found)

        return self.run(body) if limit else []

    async def update(self, changes: Sequence[Change]) -> list[bool]:
        return self.run(lambda tx: tx.update(changes)) if changes else []

    def _edit(self, ids: Sequence[tuple[str, int | None]], edits: Sequence[dict[str, Any]]) -> list[bool]:
        """Change running tasks, given by id and perhaps fence; return for each whether it was running so."""

        def body(tx: SmallTransaction) -> list[bool]:
            found = []
            for (task_id, fence), edit in zip(ids, edits, strict=True):
                row = tx.rows.tasks.get(task_id)
                found.append(row is not None and row.status is RUNNING and fence in (row.fence, None))
                if row is not None and found[-1]:
                    codes = {"coded": {**(row.coded or {}), **edit.get("coded", {})} or None}
                    tx.rows.tasks[task_id] = row.replace(**{**edit, **codes})
            return found

        return self.run(body)

    async def report(self, progress: Sequence[tuple[str, int, dict[str, Any]]]) -> list[bool]:
        edits: list[dict[str, Any]] = []
        for *_, value in progress:
            coded = is_coded(text := msgspec.json.encode(value))
            plain = {"progress": None if coded else msgspec.json.decode(text)}
            edits.append(plain | ({"coded": {"progress": text.decode()}} if coded else {}))
        return self._edit([(task_id, fence) for task_id, fence, _ in progress], edits)

    async def request_cancel(self, ids: Sequence[str]) -> list[bool]:
        flagged = self._edit([(task_id, None) for task_id in ids], [{"cancel_requested": True}] * len(ids))
        self.listeners.notify(CANCEL, ids)
        return flagged

    async def get(self, ids: Sequence[str]) -> list[Task | None]:
        found = self.read(lambda tx: tx.tasks(ids))
        return [self._out([found[task_id]])[0] if task_id in found else None for task_id in ids]

    def _out(self, rows: Iterable[Task]) -> list[Task]:
        """Return rows as they are handed out: copies, and decoded."""
        codec = lazy(self.codec)
        return [row if row.coded is None else decoded(row, codec) for row in map(copied, rows)]

    async def recode(self, ids: Sequence[str]) -> list[bool | None]:
        if (codec := self.codec) is None:
            return await super().recode(ids)
        await asyncio.sleep(0)

        def body(tx: SmallTransaction) -> list[bool | None]:
            made = {task_id: anew(row, codec) for task_id, row in tx.tasks(ids).items()}
            tx.rows.tasks.update({task_id: row for task_id, row in made.items() if row is not None})
            return [True if made.get(task_id) else None for task_id in ids]

        return self.run(body)

    def _all(self) -> list[Task]:
        return self.read(lambda tx: sorted(tx.rows.tasks.values(), key=lambda row: (-row.seq, row.task_id)))

    async def find(self, where: TaskFilter, limit: int) -> list[Task]:
        rows = self._all()
        ids = [row.task_id for row in rows]
        if where.after in ids:
            rows = rows[ids.index(where.after) + 1 :]
        return self._out(self.read(lambda tx: list(filter(tx.matching(where), rows)))[:limit])

    async def last_ended(self, status: Status, limit: int) -> list[str]:
        ended = [row for row in self._all() if row.status is status and row.completed_at is not None]
        return [row.task_id for row in sorted(ended, key=lambda row: row.completed_at or 0, reverse=True)][:limit]

    async def ids_with_prefix(self, prefixes: Sequence[str], limit: int) -> list[list[str]]:
        ids = sorted(self.read(lambda tx: list(tx.rows.tasks)))
        return [[task_id for task_id in ids if task_id.startswith(prefix)][:limit] for prefix in prefixes]

    async def overdue(self, now: int, limit: int) -> list[Task]:
        def body(tx: SmallTransaction) -> list[Task]:
            rows = tx.rows.tasks.values()
            running = [row for row in rows if row.status is RUNNING]
            owned = [row for row in running if row.lease_until is None and row.lease_owner]
            workers = {row.name for row in tx.side.of(WORKER, [""])}
            orphans = [row for row in owned if owner_of(row) not in workers]
            ends = [(row.lease_until, row) for row in running]
            ends += [(row.expires_at, row) for row in rows if row.status is PENDING]
            late = [(end, row.task_id, row) for end, row in ends if end is not None and end <= now]
            return [*orphans, *(row for *_, row in sorted(late, key=lambda each: each[:2]))][:limit]

        return self._out(self.read(body))

    async def next_run_at(self, now: int, queues: Sequence[str] | None = None) -> int | None:
        def body(tx: SmallTransaction) -> int | None:
            live = (row.run_at for row in tx.open(queues) if not row.parked and (row.expires_at or PARKED) > now)
            return min(live, default=None)

        return self.read(body)

    async def count_ready(self, now: int, queues: Sequence[str] | None = None) -> int:
        return len(self.read(lambda tx: tx.ready(now, queues)))

    async def least_ready(self, now: int, limit: int) -> list[Task]:
        ready = self.read(lambda tx: tx.ready(tx.latest(now)))
        return self._out(sorted(ready, key=lambda row: (-row.priority, row.run_at, row.seq))[:limit])

    async def stats(self, now: int) -> base.QueueStats:
        rows, ready = self.read(lambda tx: (list(tx.rows.tasks.values()), tx.ready(now)))
        counts = Counter((row.queue, str(row.status)) for row in rows)
        oldest = min((row.run_at for row in ready), default=None)
        return base.stats_of([(*key, count) for key, count in counts.items()], len(ready), oldest)

    async def active(self, schedule_ids: Sequence[str]) -> dict[str, int]:
        counts = Counter(row.scheduler_task_id for row in self._all() if not row.final)
        return {schedule_id: counts[schedule_id] for schedule_id in schedule_ids}

    async def purge(self, where: TaskFilter, limit: int) -> int:
        def body(tx: SmallTransaction) -> int:
            match = tx.matching(where)
            found = [row for row in tx.rows.tasks.values() if row.status in FINAL and match(row)]
            stay = staying(tx, found, where.completed_before)
            return tx.delete([row for row in found if row.task_id not in stay][:limit])

        return self.run(body)

    async def delete(self, ids: Sequence[str], *, ended: bool = False) -> int:
        return self.run(lambda tx: tx.delete([row for row in tx.tasks(ids).values() if row.final or not ended]))

    async def set_paused(self, queue: str, paused: bool) -> None:
        self.run(lambda tx: tx.rows.paused.update({queue: None}) if paused else tx.rows.paused.pop(queue, None))
        await self.gates.pause(queue, paused)
        self.listeners.notify(READY)

    async def paused(self) -> list[str]:
        return sorted(self.read(lambda tx: tx.paused_queues()))
