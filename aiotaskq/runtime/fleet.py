"""The workers of a store at run time: listed, quieted, woken and resized, from any process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from aiotaskq.backends import workers as registry
from aiotaskq.backends.listeners import STEER
from aiotaskq.core.errors import MAX_NAME, check_int, check_key
from aiotaskq.core.status import Status
from aiotaskq.core.task import Task
from aiotaskq.core.worker_info import WorkerInfo
from aiotaskq.errors import NotFound, NotSupported
from aiotaskq.log import log, printable

if TYPE_CHECKING:
    from aiotaskq.backends.base import Backend


class Workers:
    """The workers in the registry of one store, by their ids.

    The request is written into the store. A worker does it when it is notified, where the store can notify, and
    with its next heartbeat at the latest. ``memory://`` has no registry: there these raise NotSupported.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def list(self) -> list[WorkerInfo]:
        """Return the workers, the earliest start first. Raises NotSupported."""
        return await self._registry.all()

    async def get(self, owner: str) -> WorkerInfo:
        """Return one worker by its id. Raises NotFound, NotSupported."""
        found = await self._registry.get(check_key("id", owner, MAX_NAME))
        if found is None:
            raise _missing(owner)
        return found

    async def tasks(self, owner: str) -> Sequence[Task]:
        """Return the tasks that a worker runs now, or has claimed to run next; the earliest claim first.

        Raises NotFound, NotSupported.
        """
        await self.get(owner)
        return (await self.tasks_of([owner]))[owner]

    async def tasks_of(self, owners: Sequence[str], most: int | None = None) -> dict[str, Sequence[Task]]:
        """Return the same for several workers, and of each at most so many; none of one that is not there.

        Raises NotSupported.
        """
        held = await self._registry.held(owners)
        wanted = {owner: sorted(task_id for task_id, *_ in held[owner])[:most] for owner in owners}
        read = await self._backend.get([task_id for ids in wanted.values() for task_id in ids]) if owners else []
        running = {task.task_id: task for task in read if task is not None and task.status is Status.RUNNING}
        return {
            owner: sorted(
                (running[task_id] for task_id in ids if task_id in running),
                key=lambda task: (task.began_at or 0, task.seq),
            )
            for owner, ids in wanted.items()
        }

    async def quiet(self, owner: str | None = None) -> int:
        """Let a worker claim nothing more and end its running tasks; None for all that are there now.

        Return how many. Raises NotFound, NotSupported.
        """
        return await self._steer(owner, quiet=True)

    async def wake(self, owner: str | None = None) -> int:
        """Let a quiet worker claim again; None for all that are there now. Raises as ``quiet``."""
        return await self._steer(owner, quiet=False)

    async def resize(self, owner: str, concurrency: int) -> WorkerInfo:
        """Let a worker have so many slots until it ends; running tasks continue, also where they are more.

        Raises ValidationError, NotFound, NotSupported.
        """
        await self._steer(owner, concurrency=check_int("concurrency", concurrency, 1, 10_000))
        return await self.get(owner)

    async def _steer(self, owner: str | None, *, quiet: bool | None = None, concurrency: int | None = None) -> int:
        registry = self._registry
        if owner is None:
            owners = [worker.owner for worker in await registry.all()]
        else:
            owners = [check_key("id", owner, MAX_NAME)]
        found = [each for each in owners if await registry.steer(each, quiet=quiet, concurrency=concurrency)]
        if owner is not None and not found:
            raise _missing(owner)
        if found:
            self._backend.listeners.notify(STEER, found)
            what = f"{concurrency} slots" if concurrency is not None else "quiet" if quiet else "awake"
            log.info("asked of workers {}: {}", printable(", ".join(found)), what)
        return len(found)

    @property
    def _registry(self) -> registry.Workers:
        if (found := self._backend.workers) is None:
            raise NotSupported(
                "workers: this store has no registry of workers; its only worker is tq.worker, with "
                "set_quiet() and resize()"
            )
        return found


def _missing(owner: str) -> NotFound:
    return NotFound(f"there is no worker {printable(owner)}")
