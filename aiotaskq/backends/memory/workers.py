"""The registry of workers of the durable fake: rows in a dict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from aiotaskq.backends.memory.lock import BriefLock
from aiotaskq.backends.workers import Workers
from aiotaskq.core.outcome import owner_of
from aiotaskq.core.task import Task
from aiotaskq.core.worker_info import WorkerInfo


class MemoryWorkers(Workers):
    """The workers that run tasks of these rows; ``running`` are the ids of the running ones."""

    def __init__(self, rows: Mapping[str, Task], running: Iterable[str], lock: BriefLock) -> None:
        self._rows = rows
        self._running = running
        self._lock = lock
        self._workers: dict[str, WorkerInfo] = {}

    async def register(self, worker: WorkerInfo) -> None:
        self._workers[worker.owner] = worker

    async def heartbeat(self, worker: WorkerInfo) -> bool:
        with self._lock:
            row = self._workers.get(worker.owner)
            if row is None:
                return False
            asked = {"quiet": row.quiet, "wanted_concurrency": row.wanted_concurrency}
            self._workers[worker.owner] = replace(worker, **asked)
            return True

    async def steer(self, owner: str, *, quiet: bool | None = None, concurrency: int | None = None) -> bool:
        with self._lock:
            row = self._workers.get(owner)
            if row is None:
                return False
            self._workers[owner] = replace(
                row,
                quiet=row.quiet if quiet is None else quiet,
                wanted_concurrency=row.wanted_concurrency if concurrency is None else concurrency,
            )
            return True

    async def remove(self, worker: WorkerInfo) -> bool:
        with self._lock:
            row = self._workers.get(worker.owner)
            if row is None or row.lease_until != worker.lease_until:
                return False
            del self._workers[worker.owner]
            return True

    async def all(self) -> list[WorkerInfo]:
        return sorted(self._workers.values(), key=lambda worker: (worker.started_at, worker.owner))

    async def held(self, owner: str) -> list[tuple[str, int, bool]]:
        with self._lock:
            rows = [self._rows[task_id] for task_id in self._running]
        return [(row.task_id, row.fence, row.cancel_requested) for row in rows if owner_of(row) == owner]

    def orphans(self) -> list[Task]:
        """Return the running tasks whose worker is not there; used under the backend's lock."""
        rows = [self._rows[task_id] for task_id in self._running]
        return [row for row in rows if row.lease_until is None and row.lease_owner and self._is_gone(row)]

    def _is_gone(self, row: Task) -> bool:
        return owner_of(row) not in self._workers
