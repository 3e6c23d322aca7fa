"""The memory backend: an asyncio.Queue in claim order, and dicts. Nothing survives the process.

Every verb runs without suspending, under one lock, so that an app's loop and legacy threads share one queue.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Sequence
from operator import itemgetter
from typing import Any, ClassVar

from aiotaskq.backends.base import CANCEL, READY, Backend, Change, QueueStats, holds, matches, same_push, stats_of
from aiotaskq.backends.memory_queue import ReadyQueue
from aiotaskq.backends.memory_values import MemoryValues
from aiotaskq.task import SECOND, Status, Task, TaskFilter


class MemoryBackend(Backend):
    """Tasks and public values in this process. ``keep`` is how many finished tasks are remembered."""

    name: ClassVar[str] = "memory"
    durable: ClassVar[bool] = False
    shared: ClassVar[bool] = False
    steady: ClassVar[bool] = True
    grouped: ClassVar[bool] = False

    def __init__(self, keep: int = 10_000) -> None:
        super().__init__()
        self.values = MemoryValues()
        self._keep = keep
        self._lock = threading.RLock()
        self._tasks: dict[str, Task] = {}
        self._counts: Counter[tuple[str, Status]] = Counter()
        self._queues: defaultdict[str, ReadyQueue] = defaultdict(ReadyQueue)
        self._running: dict[str, None] = {}
        self._final: dict[str, None] = {}
        self._expiring: dict[str, None] = {}  # pending with an expires_at; nearly always empty, then nobody looks
        self._keys: dict[tuple[str, str], str] = {}
        self._paused: set[str] = set()

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def push(self, tasks: Sequence[Task]) -> list[Task]:
        with self._lock:
            rows = self._insert(tasks)
        self.hints.tell(READY)
        return [task if same_push(row, task) else row for task, row in zip(tasks, rows, strict=True)]

    def _insert(self, tasks: Sequence[Task]) -> list[Task]:
        return [self._in_the_way(task) or self._put(task) for task in tasks]

    def _in_the_way(self, task: Task) -> Task | None:
        ids = (task.task_id, *(self._keys.get(key, "") for key in _keys_of(task)))
        return next((self._tasks[task_id] for task_id in ids if task_id in self._tasks), None)

    def _put(self, task: Task) -> Task:
        """Make ``task`` the row under its id, and let every index say so."""
        self._forget(task.task_id)
        self._tasks[task.task_id] = task
        self._counts[task.queue, task.status] += 1
        self._keys.update((key, task.task_id) for key in _keys_of(task))
        if task.status is Status.RUNNING:
            self._running[task.task_id] = None
        elif task.status is Status.PENDING:
            if task.expires_at is not None:
                self._expiring[task.task_id] = None
            self._queues[task.queue].put_nowait(task)
        else:
            self._final[task.task_id] = None
            while len(self._final) > self._keep:
                self._forget(next(iter(self._final)))
        return task

    def _forget(self, task_id: str) -> bool:
        task = self._tasks.pop(task_id, None)
        if task is not None:
            self._counts[task.queue, task.status] -= 1
            for key in _keys_of(task):
                self._keys.pop(key, None)
            for index in (self._running, self._final, self._expiring):
                index.pop(task_id, None)
            self._queues[task.queue].discard(task_id)
        return task is not None

    def _open(self, queues: Sequence[str] | None) -> list[ReadyQueue]:
        names = self._queues if queues is None else queues
        return [self._queues[name] for name in names if name in self._queues and name not in self._paused]

    async def claim(
        self, owner: str, now: int, limit: int, *, queues: Sequence[str] | None = None, lease_until: int | None = None
    ) -> list[Task]:
        claimed: list[Task] = []
        with self._lock:
            open_queues = self._open(queues)
            while len(claimed) < limit and (heads := [(h, q) for q in open_queues if (h := q.head(now))]):
                task = min(heads, key=itemgetter(0))[1].get_nowait()
                lease = {"lease_owner": owner, "lease_until": lease_until, "started_at": now // SECOND}
                claimed.append(self._put(task.replace(status=Status.RUNNING, fence=task.fence + 1, **lease)))
        return claimed

    async def update(self, changes: Sequence[Change]) -> list[bool]:
        held = []
        with self._lock:
            for change in changes:
                after, row = change.after, self._tasks.get(change.before.task_id)
                # A dead letter that comes back must not break the uniqueness of a newer task.
                free = all(self._keys.get(key, after.task_id) == after.task_id for key in _keys_of(after))
                ok = row is not None and holds(row, change) and free
                held.append(ok)
                if row is not None and ok:
                    self._put(after if row.progress is after.progress else after.replace(progress=row.progress))
                    self._insert(change.then)
        self.hints.tell_updated(changes, held)
        return held

    def _edit(self, task_id: str, fence: int | None, **changes: Any) -> Task | None:
        """Change a running task in place, if the fence is right; the indexes do not depend on these fields."""
        task = self._tasks.get(task_id) if task_id in self._running else None
        if task is None or fence not in (task.fence, None):
            return None
        self._tasks[task_id] = task.replace(**changes)
        return task

    async def heartbeat(self, held: Sequence[tuple[str, int]], lease_until: int) -> list[bool | None]:
        with self._lock:
            tasks = [self._edit(task_id, fence, lease_until=lease_until) for task_id, fence in held]
        return [None if task is None else task.cancel_requested for task in tasks]

    async def report(self, progress: Sequence[tuple[str, int, dict[str, Any]]]) -> list[bool]:
        with self._lock:
            return [self._edit(task_id, fence, progress=value) is not None for task_id, fence, value in progress]

    async def request_cancel(self, ids: Sequence[str]) -> list[bool]:
        with self._lock:
            flagged = [self._edit(task_id, None, cancel_requested=True) is not None for task_id in ids]
        self.hints.tell(CANCEL, ids)
        return flagged

    async def get(self, ids: Sequence[str]) -> list[Task | None]:
        return [self._tasks.get(task_id) for task_id in ids]

    async def find(self, where: TaskFilter, limit: int) -> list[Task]:
        with self._lock:
            found = sorted((-t.seq, t.task_id) for t in self._tasks.values() if matches(t, where))
            last = self._tasks.get(where.after or "")
            return [self._tasks[i] for n, i in found if last is None or (n, i) > (-last.seq, last.task_id)][:limit]

    async def overdue(self, now: int, limit: int) -> list[Task]:
        with self._lock:
            late = [(self._tasks[i].lease_until, i) for i in self._running]
            late += [(self._tasks[i].expires_at, i) for i in self._expiring]
            return [self._tasks[i] for when, i in sorted((w, i) for w, i in late if w is not None and w <= now)[:limit]]

    async def next_run_at(self, now: int, queues: Sequence[str] | None = None) -> int | None:
        with self._lock:
            return min((at for q in self._open(queues) if (at := q.next_at(now)) is not None), default=None)

    async def count_ready(self, now: int, queues: Sequence[str] | None = None) -> int:
        with self._lock:
            return sum(len(queue.ready(now)) for queue in self._open(queues))

    async def stats(self, now: int) -> QueueStats:
        with self._lock:
            ready = [task for queue in self._open(None) for task in queue.ready(now)]
            rows = [(queue, str(status), count) for (queue, status), count in self._counts.items() if count]
        return stats_of(rows, len(ready), min((task.run_at for task in ready), default=None))

    async def active(self, schedule_ids: Sequence[str]) -> dict[str, int]:
        with self._lock:
            found = Counter(t.scheduler_task_id for t in self._tasks.values() if not t.final)
        return {schedule_id: found[schedule_id] for schedule_id in schedule_ids}

    async def purge(self, where: TaskFilter, limit: int) -> int:
        with self._lock:
            return await self.delete([i for i in self._final if matches(self._tasks[i], where)][:limit])

    async def delete(self, ids: Sequence[str]) -> int:
        with self._lock:
            return sum(map(self._forget, ids))

    async def set_paused(self, queue: str, paused: bool) -> None:
        (self._paused.add if paused else self._paused.discard)(queue)
        self.hints.tell(READY)

    async def paused(self) -> list[str]:
        return sorted(self._paused)


def _keys_of(task: Task) -> list[tuple[str, str]]:
    keys = [] if task.idempotency_key is None else [("idempotency", task.idempotency_key)]
    return keys if task.unique_key is None or task.final else [*keys, ("unique", task.unique_key)]
