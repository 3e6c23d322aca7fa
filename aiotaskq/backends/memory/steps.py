"""The steps and events in memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from aiotaskq.backends.change import Change
from aiotaskq.backends.steps import Steps, Wait
from aiotaskq.core.steps import EventValue, NewStep, Step, woken
from aiotaskq.core.task import RUNNING, Task

Update = Callable[[Sequence[Change]], list[bool]]
AtCommit = Callable[[Any, Callable[[], None]], Awaitable[None]]


class MemorySteps(Steps):
    """The steps of this process. Its texts are kept as they are: a codec is for what leaves the process."""

    def __init__(
        self,
        rows: Mapping[str, Task],
        lock: AbstractContextManager[Any],
        update: Update,
        notify: Callable[[Sequence[Change], Sequence[bool]], None],
    ) -> None:
        """Keep the steps of these rows. ``update`` writes changes under the lock, ``notify`` sends their hints."""
        self._rows, self._lock, self._update, self._notify = rows, lock, update, notify
        self.by_task: dict[str, dict[tuple[int, str, str, int], Step]] = {}
        """Of the tasks that have any; an entry is removed with its task."""
        self.at_commit: AtCommit | None = None
        """Calls back when the transaction of a session commits: of a store that behaves as a SQL database."""
        self._events: dict[str, EventValue] = {}
        self._waits: dict[str, dict[str, int | None]] = {}  # by key: the ids of what waits, and its began_at
        self._waits_for: dict[str, str] = {}  # by id: the key

    async def read(self, task_id: str, seq: int) -> list[Step]:
        with self._lock:
            found = self.by_task.get(task_id, {})
            return sorted((step for key, step in found.items() if key[0] == seq), key=lambda step: step.n)

    async def add(self, new: Sequence[NewStep]) -> list[Step | None]:
        with self._lock:
            return [self._add(each) for each in new]

    async def put(self, new: Sequence[NewStep]) -> None:
        with self._lock:
            for each in new:
                self._put(each)

    async def add_with(self, session: Any, new: NewStep) -> Step | None:
        if self.at_commit is None:
            return await super().add_with(session, new)

        def store() -> None:
            with self._lock:
                self._add(new)

        with self._lock:
            there = self.by_task.get(new.task_id, {}).get(_key(new))
            runs = self._runs(new)
        if runs and there is None:
            await self.at_commit(session, store)
        return (there or new.step) if runs else None

    def _add(self, new: NewStep) -> Step | None:
        return self._put(new) if self._runs(new) else None

    def _runs(self, new: NewStep) -> bool:
        row = self._rows.get(new.task_id)
        return row is not None and row.status is RUNNING and (row.fence, row.seq) == (new.fence, new.seq)

    def _put(self, new: NewStep) -> Step:
        return self.by_task.setdefault(new.task_id, {}).setdefault(_key(new), new.step)

    async def suspend(self, change: Change, new: NewStep, wait: Wait | None = None) -> bool:
        task = change.before
        with self._lock:
            if wait is not None and self._there(wait.key, new.step.at) is not None:
                change, wait = Change(task, wait.woken), None
            held = self._update([change])
            if held[0]:
                self._put(new)
                self._forget(task.task_id)
                if wait is not None:
                    self._waits.setdefault(wait.key, {})[task.task_id] = task.began_at
                    self._waits_for[task.task_id] = wait.key
        self._notify([change], held)
        return held[0]

    def _forget(self, task_id: str) -> None:
        if (key := self._waits_for.pop(task_id, None)) is not None:
            del self._waits[key][task_id]
            if not self._waits[key]:
                del self._waits[key]

    async def emit(self, event: EventValue) -> EventValue:
        return self._emit(event)

    async def emit_with(
        self, session: Any, event: EventValue, committed: Callable[[], None] = lambda: None
    ) -> EventValue:
        if self.at_commit is None:
            return await super().emit_with(session, event, committed)

        def store() -> None:
            self._emit(event)
            committed()

        if (there := await self.event(event.key, event.at)) is None:
            await self.at_commit(session, store)
        return there or event

    def _emit(self, event: EventValue) -> EventValue:
        changes: list[Change] = []
        with self._lock:
            if (there := self._there(event.key, event.at)) is None:
                self._events[event.key] = there = event
                waiting = dict(self._waits.get(event.key, {}))
                for task_id in waiting:
                    self._forget(task_id)
                changes = self._changes(waiting, event.at)
                held = self._update(changes)
        if changes:
            self._notify(changes, held)
        return there

    def _changes(self, waiting: Mapping[str, int | None], now: int) -> list[Change]:
        """Return the changes of those of these tasks that wait still, given by id with the beginnings of their runs."""
        rows = [row for task_id, at in waiting.items() if (row := self._rows.get(task_id)) and row.began_at == at]
        return [Change(row, after) for row in rows if (after := woken(row, now)) is not None]

    async def event(self, key: str, now: int) -> EventValue | None:
        with self._lock:
            return self._there(key, now)

    def _there(self, key: str, now: int) -> EventValue | None:
        event = self._events.get(key)
        return event if event is not None and event.there(now) else None

    async def events(self, now: int, limit: int, *, prefix: str = "", after: str | None = None) -> list[EventValue]:
        with self._lock:
            keys = sorted(key for key in self._events if key.startswith(prefix) and (after is None or key > after))
            found = [event for key in keys if (event := self._there(key, now)) is not None]
            return found[:limit]

    async def waiting(self, keys: Sequence[str]) -> dict[str, int]:
        with self._lock:
            return {key: len(self._changes(self._waits.get(key, {}), 0)) for key in keys}

    async def awaited(self, limit: int, *, prefix: str = "") -> dict[str, int]:
        with self._lock:
            keys = sorted(key for key in self._waits if key.startswith(prefix))[:limit]
        return {key: count for key, count in (await self.waiting(keys)).items() if count}

    async def expire(self, now: int, limit: int) -> int:
        with self._lock:
            late = [key for key, event in self._events.items() if not event.there(now)][:limit]
            for key in late:
                del self._events[key]
            for waiting in list(self._waits.values()):
                live = {change.before.task_id for change in self._changes(waiting, 0)}
                for task_id in waiting.keys() - live:  # it went on, or is gone
                    self._forget(task_id)
            return len(late)

    async def orphans(self, limit: int) -> list[str]:
        with self._lock:
            return [task_id for task_id in self.by_task if task_id not in self._rows][:limit]

    async def drop(self, ids: Sequence[str]) -> None:
        with self._lock:
            for task_id in ids:
                if task_id not in self._rows:
                    self.by_task.pop(task_id, None)
                    self._forget(task_id)

    async def mend(self, now: int) -> int:
        return 0  # an event and what it wakes are one step here


def _key(new: NewStep) -> tuple[int, str, str, int]:
    return new.seq, new.step.kind, new.step.name, new.step.number
