"""The steps and events in memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from aiotaskq.backends.change import Change
from aiotaskq.backends.steps import Leave, Steps
from aiotaskq.core.steps import EventValue, NewStep, Step, answered, in_order, woken
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
        self._waits: dict[str, _Waits] = {}  # by id of a task
        self._awaited: dict[str, set[str]] = {}  # by key of an event: the ids of these tasks

    async def read(self, task_id: str, seq: int) -> list[Step]:
        with self._lock:
            found = self.by_task.get(task_id, {})
            return in_order(step for key, step in found.items() if key[0] == seq)

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

    async def suspend(self, leaves: Sequence[Leave]) -> list[bool]:
        changes, held = [], []
        with self._lock:
            for leave in leaves:
                change, found, left = leave.meets(self._event_for, self._answered)
                changes.append(change)
                held += self._update([change])
                if held[-1]:
                    self._forget(change.before.task_id)
                    for new in (*leave.new, *found):
                        self._put(new)
                    if left:
                        self._remember(change.before, left)
        self._notify(changes, held)
        return held

    def _event_for(self, wait: NewStep) -> EventValue | None:
        return self._there(wait.step.name, wait.step.at)

    def _answered(self, wait: NewStep) -> bool:
        step = wait.step
        return (wait.seq, "event", step.name, step.number) in self.by_task.get(wait.task_id, {})

    def _remember(self, task: Task, waits: Sequence[NewStep]) -> None:
        self._waits[task.task_id] = _Waits(task.began_at, {(wait.step.name, wait.step.number): wait for wait in waits})
        for wait in waits:
            self._awaited.setdefault(wait.step.name, set()).add(task.task_id)

    def _forget(self, task_id: str, key: str | None = None) -> None:
        """Forget the waits of a task, all or those for one event."""
        if (waits := self._waits.get(task_id)) is None:
            return
        for each in [each for each in waits.by_name if key is None or each[0] == key]:
            del waits.by_name[each]
            if (ids := self._awaited.get(each[0])) is not None:
                ids.discard(task_id)
                if not ids:
                    del self._awaited[each[0]]
        if not waits.by_name:
            del self._waits[task_id]

    async def emit(self, events: Sequence[EventValue]) -> list[EventValue]:
        return [self._emit(event) for event in events]

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
                changes = self._changes(event.key, event.at)
                for task_id in sorted(self._awaited.get(event.key, ())):
                    for wait in self._live(task_id, event.key):
                        if (answer := answered(wait, event)) is not None:
                            self._put(answer)
                    self._forget(task_id, event.key)
                held = self._update(changes)
        if changes:
            self._notify(changes, held)
        return there

    def _live(self, task_id: str, key: str) -> list[NewStep]:
        """Return the waits of a task for an event, whatever it does meanwhile; none once it has ended."""
        row = self._rows.get(task_id)
        waits = [] if row is None or row.final else list(self._waits[task_id].by_name.values())
        return [wait for wait in waits if wait.step.name == key and row is not None and wait.seq == row.seq]

    def _changes(self, key: str, now: int) -> list[Change]:
        """Return the changes of the tasks that were left to wait for an event, and are left since."""
        ids = sorted(self._awaited.get(key, ()))
        rows = [row for each in ids if (row := self._rows.get(each)) and row.began_at == self._waits[each].began_at]
        return [Change(row, after) for row in rows if (after := woken(row, now)) is not None]

    async def get_events(self, keys: Sequence[str], now: int) -> list[EventValue | None]:
        with self._lock:
            return [self._there(key, now) for key in keys]

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
            return {key: len(self._changes(key, 0)) for key in keys}

    async def awaited(self, limit: int, *, prefix: str = "") -> dict[str, int]:
        with self._lock:
            keys = sorted(key for key in self._awaited if key.startswith(prefix))[:limit]
        return {key: count for key, count in (await self.waiting(keys)).items() if count}

    async def expire(self, now: int, limit: int) -> int:
        with self._lock:
            late = [key for key, event in self._events.items() if not event.there(now)][:limit]
            for key in late:
                del self._events[key]
            for task_id in [each for each in self._waits if (row := self._rows.get(each)) is None or row.final]:
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


class _Waits(NamedTuple):
    """For what the handler of a task was left."""

    began_at: int | None
    """Of the run that was left."""
    by_name: dict[tuple[str, int], NewStep]
    """By the key of the event and the number of the wait."""
