"""Deletes, in the background, blobs to which no task of a store refers any more."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from aiotaskq.backends.blobs import BLOBS, BlobCodec, blobs_of
from aiotaskq.backends.side_rows import SideRow
from aiotaskq.concurrency.clock import Clock
from aiotaskq.concurrency.poller import Poller
from aiotaskq.core.task import SECOND, Task, TaskFilter
from aiotaskq.errors import TaskConflict
from aiotaskq.log import log

if TYPE_CHECKING:
    from aiotaskq.backends.base import Backend
    from aiotaskq.core.groups import GroupState

INTERVAL = 6 * 3600.0  # seconds between two sweeps of a store: each reads all of its tasks
CHUNK = 500  # tasks or groups in one read, and blobs in one deletion
SWEEP = "sweep"
"""The name of the side row that says when the next sweep begins."""


class BlobSweep(Poller):
    """Sweeps the blobs of a store; of all its processes one does it at a time."""

    def __init__(self, backend: Backend, clock: Clock) -> None:
        super().__init__("blobs", self._sweep, clock)
        self._backend, self._clock = backend, clock
        self._rests = True

    async def start(self) -> None:
        """Start in the running loop, if there are blobs."""
        if isinstance(self._backend.codec, BlobCodec):
            self._rests = True
            await super().start()

    async def _sweep(self) -> float:
        if self._rests:  # a process that lives shortly sweeps nothing
            self._rests = False
        elif await self._begin() and (count := await sweep(self._backend)):
            log.debug("{} blobs to which no task refers are deleted", count)
        return INTERVAL / 4 * random.uniform(0.8, 1.2)

    async def _begin(self) -> bool:
        """Return whether it is time for a sweep; then no other process begins it."""
        now = self._clock.now()
        row = SideRow(SWEEP, str(now + int(INTERVAL * SECOND)))
        side = self._backend.side
        return await side.rewrite(BLOBS, [SWEEP], lambda there: [row] if int(there.get(SWEEP, 0)) <= now else None)


async def sweep(backend: Backend) -> int:
    """Delete the blobs that are older than the grace time and that no task refers to; return how many.

    Raises DatabaseUnavailable, and TaskConflict where something cannot be read that may refer to a blob; then nothing
    was deleted.

    A reference moves in one direction, from the callback of a group to a task, which is read later; tasks are read from
    the newest to the oldest, and whatever moves a task to the front encodes it anew. Encoded anew, it has other blobs.
    """
    codec = backend.codec
    assert isinstance(codec, BlobCodec)
    left, groups = await codec.older(codec.store.grace), set[str]()
    if not left:
        return 0
    async for page in _groups(backend):
        groups.update(group.group_id for group in page)
        for callback in [callback for group in page for callback in (group.then, group.on_failure)]:
            left.difference_update(() if callback is None else _referred(callback))
    async for tasks in _tasks(backend):
        for task in tasks:
            left.difference_update(_referred(task))
        unknown = {task.flow.group for task in tasks if task.flow is not None and task.flow.group is not None} - groups
        groups |= unknown
        if unknown and (unread := await backend.groups.unread(sorted(unknown))):
            raise TaskConflict(f"group {min(unread)} cannot be read, so that no blob is deleted")
    gone = sorted(left)
    for start in range(0, len(gone), CHUNK):
        await codec.delete(gone[start : start + CHUNK])
    return len(gone)


def _referred(task: Task) -> list[str]:
    if task.undecodable is not None and not task.coded:
        raise TaskConflict(f"task {task.task_id} cannot be read ({task.undecodable}), so that no blob is deleted")
    return list(blobs_of(task))


async def _groups(backend: Backend) -> AsyncIterator[list[GroupState]]:
    """Yield all groups."""
    page: list[GroupState] = []
    while True:
        # A list cannot be continued behind a row that was deleted; where none of a page is left, it begins again.
        kept = [row.group_id for row in await backend.groups.get([row.group_id for row in page]) if row is not None]
        page = await backend.groups.find(CHUNK, after=kept[-1] if kept else None)
        if not page:
            return
        yield page


async def _tasks(backend: Backend) -> AsyncIterator[list[Task]]:
    """Yield all tasks, the newest push first, as ``_groups``."""
    page: list[Task] = []
    while True:
        kept = [row.task_id for row in await backend.get([row.task_id for row in page]) if row is not None]
        page = await backend.find(TaskFilter(after=kept[-1] if kept else None), CHUNK)
        if not page:
            return
        yield page
