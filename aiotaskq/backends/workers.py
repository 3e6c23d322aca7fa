"""The contract of a registry of workers: each worker has one row there, and in it one lease for all of its tasks.

A running task has a holder. A pop by hand claims with ``lease_until``, and holds the task until then. A worker claims
without a lease: it holds the task for as long as the id in ``lease_owner`` is in the registry. A task that has neither
a lease nor an owner, or that is in a store without a registry, never loses its holder. ``Backend.overdue`` returns the
tasks of dead workers before all others. It reads in one snapshot, or the running tasks before the workers, since a
worker is there before its first claim.

So a heartbeat writes one row, however many tasks run, and a worker dies in two steps: ``remove`` takes its row out, if
no heartbeat has come since the row was read; from then on ``Backend.overdue`` returns its tasks. A worker whose
heartbeat finds no row has lost all of them. It must register under another id before it claims again: an id that was
removed never holds tasks again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from aiotaskq.core.worker_info import WorkerInfo


class Workers(ABC):
    """The workers of a shared store. Each method is atomic."""

    @abstractmethod
    async def register(self, worker: WorkerInfo) -> None:
        """Add a worker, before its first claim. Repeated with the same id, it replaces the row."""

    @abstractmethod
    async def heartbeat(self, worker: WorkerInfo) -> bool:
        """Write the row of a worker; return whether it was there, else nothing is written.

        What it is asked for, ``quiet`` and ``wanted_concurrency``, stays as it is: only ``steer`` writes that.
        """

    @abstractmethod
    async def steer(self, owner: str, *, quiet: bool | None = None, concurrency: int | None = None) -> bool:
        """Write what a worker is asked for, as far as it is given; return whether the worker was there."""

    async def get(self, owner: str) -> WorkerInfo | None:
        """Read one worker; None where it is not there."""
        return next((worker for worker in await self.all() if worker.owner == owner), None)

    @abstractmethod
    async def remove(self, worker: WorkerInfo) -> bool:
        """Remove a worker if its ``lease_until`` is that of ``worker``, as it was read; return whether it was.

        Nothing is written otherwise: a reaper must lose against a heartbeat.
        """

    @abstractmethod
    async def all(self) -> list[WorkerInfo]:
        """Read the workers, the earliest start first."""

    @abstractmethod
    async def held(self, owner: str) -> list[tuple[str, int, bool]]:
        """Read id, fence and cancel flag of the running tasks that a worker holds, with or without a mark on them."""

    async def held_by(self, owners: Sequence[str]) -> dict[str, list[str]]:
        """Read the ids of the running tasks that each of these workers holds, for all of them."""
        return {owner: [task_id for task_id, _fence, _cancel in await self.held(owner)] for owner in owners}
