"""A durable backend with a codec: its verbs take and return plain tasks, and the store holds coded ones.

Without a codec the store's own class is used, and nothing here runs.
"""

from __future__ import annotations

import functools
from asyncio import Future
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Self, cast

import msgspec

from aiotaskq.backends.base import Backend, Change, Claim, Room, ScheduleChange
from aiotaskq.backends.blobs import BlobCodec, encoded_by
from aiotaskq.backends.change import encoded_changes
from aiotaskq.core.codec import Codec
from aiotaskq.core.coded import COLUMNS, decoded, encoded_all, lazy, to_stored
from aiotaskq.core.conversion import MAX_RESULT
from aiotaskq.core.task import Task, TaskFilter


class CodedBackend(Backend):
    """What encodes before, and decodes behind, the verbs of the class after it.

    A verb of a store may call another one of itself, and a transaction encodes what it writes: to encode what is coded,
    and to decode what is plain, changes nothing.
    """

    @property
    def _store(self) -> Any:
        return super()

    def coded_by(self, codec: Codec | None) -> Self:
        """Set the codec. Blobs are for tasks: steps, events, logs and schedules are encoded without them."""
        if not isinstance(codec, BlobCodec):
            super().coded_by(codec)
        else:
            super().coded_by(codec.inner)
            self.codec = self.groups.codec = self.after.codec = codec.of(self.side)
            self.max_params = MAX_RESULT
        return self

    def another(self, patience: float | None = None) -> Backend:
        return cast(Backend, self._store.another(patience)).coded_by(self.codec)

    async def open(self) -> None:
        await self._store.open()
        if isinstance(self.codec, BlobCodec):
            await self.codec.open()

    def pending(self) -> Iterable[Future[Any]]:
        running = self.codec.running if isinstance(self.codec, BlobCodec) else ()
        return [*self._store.pending(), *running]

    async def push(self, tasks: Sequence[Task], room: Room | None = None) -> list[Task]:
        sent = await self._encoded(tasks)
        return self._pushed(await self._store.push(sent, room), sent, tasks)

    async def push_with(
        self,
        session: Any,
        tasks: Sequence[Task],
        committed: Callable[[], None] = lambda: None,
        room: Room | None = None,
    ) -> list[Task]:
        sent = await self._encoded(tasks, joined=True)
        return self._pushed(await self._store.push_with(session, sent, committed, room), sent, tasks)

    async def _claim(self, wanted: Claim) -> list[Task]:
        return self._decoded(await super()._claim(wanted))  # type: ignore[safe-super]  # the class after it has it

    async def update(self, changes: Sequence[Change]) -> list[bool]:
        return cast("list[bool]", await self._store.update(await self._changes(changes)))

    async def update_with(
        self, session: Any, changes: Sequence[Change], committed: Callable[[], None] = lambda: None
    ) -> list[bool]:
        return await super().update_with(session, await self._changes(changes, joined=True), committed)

    async def exchange(self, changes: Sequence[Change], wanted: Claim) -> tuple[list[bool], list[Task]]:
        held, tasks = await super().exchange(await self._changes(changes), wanted)
        return held, self._decoded(tasks)

    async def push_and_claim(
        self, tasks: Sequence[Task], wanted: Claim, ended: Sequence[Change] = ()
    ) -> tuple[list[Task], list[bool], list[Task]]:
        sent = await self._encoded(tasks)
        stored, held, claimed = await super().push_and_claim(sent, wanted, await self._changes(ended))
        return self._pushed(stored, sent, tasks), held, self._decoded(claimed)

    async def fire_and_claim(
        self, changes: Sequence[ScheduleChange], wanted: Claim, ended: Sequence[Change] = ()
    ) -> tuple[list[bool], list[bool], list[Task]]:
        # The schedules encode what they fire.
        fired, held, claimed = await super().fire_and_claim(changes, wanted, await self._changes(ended))
        return fired, held, self._decoded(claimed)

    async def report(self, progress: Sequence[tuple[str, int, dict[str, Any]]]) -> list[bool]:
        codec = self.notes.codec  # without blobs: progress is short
        assert codec is not None
        rows = [(i, n, msgspec.Raw(to_stored(msgspec.json.encode(value), codec))) for i, n, value in progress]
        return cast("list[bool]", await self._store.report(rows))

    async def get(self, ids: Sequence[str]) -> list[Task | None]:
        found: list[Task | None] = await self._store.get(ids)
        codec = lazy(self.codec)
        return [task if task is None or task.coded is None else decoded(task, codec) for task in found]

    async def find(self, where: TaskFilter, limit: int) -> list[Task]:
        return self._decoded(await self._store.find(where, limit))

    async def overdue(self, now: int, limit: int) -> list[Task]:
        return self._decoded(await self._store.overdue(now, limit))

    async def least_ready(self, now: int, limit: int) -> list[Task]:
        return self._decoded(await self._store.least_ready(now, limit))

    async def whole(self, tasks: Sequence[Task], columns: Collection[str] = COLUMNS) -> list[Task]:
        return await self.codec.whole(tasks, columns) if isinstance(self.codec, BlobCodec) else list(tasks)

    async def _encoded(self, tasks: Sequence[Task], joined: bool = False) -> Sequence[Task]:
        return await encoded_by(self.codec, functools.partial(encoded_all, tasks), joined)

    async def _changes(self, changes: Sequence[Change], joined: bool = False) -> Sequence[Change]:
        return await encoded_by(self.codec, functools.partial(encoded_changes, changes), joined) if changes else changes

    def _decoded(self, tasks: Sequence[Task]) -> list[Task]:
        codec = lazy(self.codec)
        return [task if task.coded is None else decoded(task, codec) for task in tasks]

    def _pushed(self, stored: Sequence[Task], sent: Sequence[Task], tasks: Sequence[Task]) -> list[Task]:
        """Return for each task what stands for it: the object that was given, or a row."""
        given = {id(coded): task for coded, task in zip(sent, tasks, strict=True)}
        return [given[id(row)] if id(row) in given else self._decoded([row])[0] for row in stored]


@functools.cache
def coded(kind: type[Backend]) -> Callable[[str], Backend]:
    """Return the class of a backend with a codec."""
    return cast("Callable[[str], Backend]", type(f"Coded{kind.__name__}", (CodedBackend, kind), {}))
