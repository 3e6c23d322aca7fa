"""What the registry of a store knows of a worker."""

from __future__ import annotations

import msgspec


class WorkerInfo(msgspec.Struct, frozen=True):
    """A worker as it was at its last heartbeat. Instants are in microseconds UTC."""

    owner: str
    """Its id: the ``lease_owner`` of the tasks that it has claimed."""
    host: str
    pid: int
    version: str
    """Of aiotaskq."""
    started_at: int
    seen_at: int
    """When it sent its last heartbeat."""
    lease_until: int
    """When the lease of all its tasks ends, unless it sends another one."""
    queues: tuple[str, ...] | None
    """The queues that it claims from; None for every queue."""
    concurrency: int
    busy: int
    """How many tasks ran."""
    quiet: bool = False
    """Whether it is asked to claim nothing more; it goes on with what it runs."""
    wanted_concurrency: int | None = None
    """The number of slots that it is asked to have; None where it was not resized."""
