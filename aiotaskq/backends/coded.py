"""A durable backend with a codec: its verbs take and return plain tasks, and the store holds coded ones.

Without a codec the store's own class is used, and nothing here runs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, cast

import msgspec

from aiotaskq.backends.base import Backend, Change, Claim, Room, ScheduleChange
from aiotaskq.backends.change import encoded_changes
from aiotaskq.backends.flow.groups import push_within
from aiotaskq.core.coded import decoded, encoded, to_stored
from aiotaskq.core.task import Task, TaskFilter, any_tags


class CodedBackend(Backend):
    """What encodes before, and decodes behind, the verbs of the class after it.

    A verb of a store may call another one of itself, and a transaction encodes what it writes: to encode what is coded,
    and to decode what is plain, changes nothing.
    """

    @property
    def _store(self) -> Any:
        return super()

    def another(self, patience: float | None = None) -> Backend:
        return cast(Backend, self._store.another(patience)).coded_by(self.codec)

    async def push(self, tasks: Sequence[Task], room: Room | None = None) -> list[Task]:
        if any_tags(tasks):  # they are stored as they are
            return await self.store.transact(lambda tx: push_within(tx, tasks, room), repeatable=True)
        sent = self._encoded(tasks)
        return self._pushed(await self._store.push(sent, room), sent, tasks)

    async def _claim(self, wanted: Claim) -> list[Task]:
        return self._decoded(await super()._claim(wanted))  # type: ignore[safe-super]  # the class after it has it

    async def update(self, changes: Sequence[Change]) -> list[bool]:
        return cast("list[bool]", await self._store.update(encoded_changes(changes, self.codec)))

    async def exchange(self, changes: Sequence[Change], wanted: Claim) -> tuple[list[bool], list[Task]]:
        held, tasks = await super().exchange(encoded_changes(changes, self.codec), wanted)
        return held, self._decoded(tasks)

    async def push_and_claim(
        self, tasks: Sequence[Task], wanted: Claim, ended: Sequence[Change] = ()
    ) -> tuple[list[Task], list[bool], list[Task]]:
        stored, held, claimed = await super().push_and_claim(tasks, wanted, encoded_changes(ended, self.codec))
        return stored, held, self._decoded(claimed)

    async def fire_and_claim(
        self, changes: Sequence[ScheduleChange], wanted: Claim, ended: Sequence[Change] = ()
    ) -> tuple[list[bool], list[bool], list[Task]]:
        # The schedules encode what they fire.
        fired, held, claimed = await super().fire_and_claim(changes, wanted, encoded_changes(ended, self.codec))
        return fired, held, self._decoded(claimed)

    async def report(self, progress: Sequence[tuple[str, int, dict[str, Any]]]) -> list[bool]:
        assert self.codec is not None
        rows = [(i, n, msgspec.Raw(to_stored(msgspec.json.encode(value), self.codec))) for i, n, value in progress]
        return cast("list[bool]", await self._store.report(rows))

    async def get(self, ids: Sequence[str]) -> list[Task | None]:
        found: list[Task | None] = await self._store.get(ids)
        return [task if task is None or task.coded is None else decoded(task, self.codec) for task in found]

    async def find(self, where: TaskFilter, limit: int) -> list[Task]:
        return self._decoded(await self._store.find(where, limit))

    async def overdue(self, now: int, limit: int) -> list[Task]:
        return self._decoded(await self._store.overdue(now, limit))

    async def least_ready(self, now: int, limit: int) -> list[Task]:
        return self._decoded(await self._store.least_ready(now, limit))

    def _encoded(self, tasks: Sequence[Task]) -> list[Task]:
        assert self.codec is not None
        return [encoded(task, self.codec) for task in tasks]

    def _decoded(self, tasks: Sequence[Task]) -> list[Task]:
        return [task if task.coded is None else decoded(task, self.codec) for task in tasks]

    def _pushed(self, stored: Sequence[Task], sent: Sequence[Task], tasks: Sequence[Task]) -> list[Task]:
        """Return for each task what stands for it: the object that was given, or a row."""
        given = {id(coded): task for coded, task in zip(sent, tasks, strict=True)}
        return [given[id(row)] if id(row) in given else self._decoded([row])[0] for row in stored]


@functools.cache
def coded(kind: type[Backend]) -> Callable[[str], Backend]:
    """Return the class of a backend with a codec."""
    return cast("Callable[[str], Backend]", type(f"Coded{kind.__name__}", (CodedBackend, kind), {}))
