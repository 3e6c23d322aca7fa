"""The workers of a store at run time: listed, quieted, woken and resized, from any process."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from aiotaskq.backends import workers as registry
from aiotaskq.backends.listeners import STEER
from aiotaskq.concurrency.clock import Clock, SystemClock
from aiotaskq.concurrency.failure_backoff import backoff
from aiotaskq.core.errors import MAX_NAME, check_int, check_key, check_seconds
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task
from aiotaskq.core.worker_info import WorkerInfo, WorkerStack
from aiotaskq.errors import NotFound, NotSupported, ResultTimeout
from aiotaskq.log import log, printable

if TYPE_CHECKING:
    from aiotaskq.backends.base import Backend


class Workers:
    """The workers in the registry of one store, by their ids.

    The request is written into the store. A worker does it when it is notified, where the store can notify, and
    within 3 seconds otherwise. ``memory://`` has no registry: there these raise NotSupported.
    """

    def __init__(self, backend: Backend, clock: Clock | None = None) -> None:
        self._backend, self._clock = backend, clock or SystemClock()

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

    async def stack(self, owner: str, timeout: float | timedelta = 10.0) -> WorkerStack:
        """Ask a worker where its handlers stand now, and return its answer: places in the code, and no values.

        It answers from a thread of its own, also while its event loop stands still. ``timeout`` in seconds: where the
        store does not notify a worker, it looks every 3 seconds.

        Raises NotFound, NotSupported, ResultTimeout if no answer came in time, ValidationError.
        """
        seconds, registry = check_seconds("timeout", timeout, zero=False), self._registry
        asked = max(self._clock.now(), (await self.get(owner)).stack_asked + 1)
        end = self._clock.ticks() + int(seconds * SECOND)
        if not await registry.steer(owner, stack_asked=asked):
            raise _missing(owner)
        self._backend.listeners.notify(STEER, [owner])
        log.debug("worker {} is asked where its handlers stand", printable(owner))
        looks = 0
        while (found := await registry.answered(owner, asked)) is None:
            left = (end - self._clock.ticks()) / SECOND
            if left <= 0:
                raise self._unanswered(await self.get(owner), seconds)
            looks += 1
            await self._clock.sleep(min(left, backoff(looks, 0.02, 0.5)))
        return found

    def _unanswered(self, worker: WorkerInfo, seconds: float) -> ResultTimeout:
        now, name = self._clock.now(), printable(worker.owner)
        ago = max(0, now - worker.seen_at) // SECOND
        if now >= worker.lease_until:
            return ResultTimeout(
                f"worker {name} has not answered within {seconds:g} s; it was last seen {ago} s ago, and its lease is "
                "over: its process has ended, is suspended, or does not reach the store"
            )
        return ResultTimeout(
            f"worker {name} has not answered within {seconds:g} s; it was last seen {ago} s ago: its process has just "
            "ended, is suspended, or is busy in code that lets no other thread run; look into its log"
        )

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
