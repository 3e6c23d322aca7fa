"""What the registry of a store knows of a worker, and what the id of a worker says."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from aiotaskq.core.instants import utc

MOST_TYPES = 500
"""Task types, and limits, that a worker tells of: its row is written with each heartbeat."""


class WorkerInfo(msgspec.Struct, frozen=True):
    """A worker as it was at its last heartbeat. Instants are in microseconds UTC."""

    owner: str
    """Its id: the ``lease_owner`` of the tasks that it has claimed."""
    host: str
    pid: int
    aiotaskq: str
    """The version of aiotaskq."""
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
    """Whether it is asked to claim nothing more; its running tasks continue."""
    wanted_concurrency: int | None = None
    """The number of slots that it is asked to have; None where it was not resized."""
    types: tuple[str, ...] | None = None
    """The types of the tasks that it can run, sorted; None where that is not known, or they are too many.

    Of a type with a version also each version, as ``order@2``."""
    limits: tuple[str, ...] | None = None
    """The limits that its handlers declare, sorted, those with a key as ``tenant:``; None where that is not known, or
    they are too many."""
    version: str | None = None
    """Of its application: ``TaskQ(version=…)``."""
    stack_asked: int = 0
    """When it was last asked where its handlers stand, in microseconds UTC; 0 for never."""

    started = utc("started_at")
    seen = utc("seen_at")

    def claims(self, now: int) -> bool:
        """Return whether it claims tasks at ``now``, in microseconds UTC: its lease is not over, nor is it quiet."""
        return self.lease_until > now and not self.quiet

    def claims_from(self, queue: str) -> bool:
        """Return whether it claims from this queue."""
        return self.queues is None or queue in self.queues

    def knows(self, type: str, version: int | None = None) -> bool:
        """Return whether it has a handler of this type and version, as far as it has told."""
        if self.types is None or type not in self.types or version is None:
            return self.types is None or type in self.types
        versions = {each for each in self.types if each.startswith(f"{type}@")}
        return f"{type}@{version}" in versions if versions else version == 1


class RunStack(msgspec.Struct, frozen=True):
    """Where the handler of a running task stands: places in the code, and no values."""

    task_id: str
    type: str
    began_at: int | None
    """In microseconds UTC."""
    attempt: int
    """Which one it is, from 1."""
    executor: str
    """What runs the handler: ``loop``, ``thread``, ``process`` or ``interpreter``."""
    lines: tuple[str, ...]
    """``file:line function``, the latest call last; none where the handler runs elsewhere."""
    pids: tuple[int, ...] = ()
    """The child processes of which one runs the handler."""


class WorkerStack(msgspec.Struct, frozen=True):
    """Where the handlers of a worker stood."""

    asked: int
    """The latest ``WorkerInfo.stack_asked`` that this answers."""
    at: int
    """When this was so, in microseconds UTC."""
    runs: tuple[RunStack, ...]
    """The earliest start first."""
    left_off: int = 0
    """How many more tasks run."""


def told_names(names: Iterable[str]) -> tuple[str, ...] | None:
    """Return types or limits as a worker tells of them; None if they are more than ``MOST_TYPES``."""
    known = tuple(names)
    return tuple(sorted(known)) if len(known) <= MOST_TYPES else None


class Owner(NamedTuple):
    """What an owner id says: ``kind`` is ``worker`` or ``pop``; None for an id that ``fresh_owner`` has not made."""

    kind: str | None
    host: str | None
    pid: int | None


_PARTS = re.compile(r"(worker|pop)-(.*)-(\d{1,10})-(?:0|[0-9a-f]{12})-[0-9a-f]{12}", re.DOTALL)


def read_owner(owner: str) -> Owner:
    """Return what an owner id says of the process that holds a lease."""
    match = _PARTS.fullmatch(owner)
    return Owner(None, None, None) if match is None else Owner(match[1], match[2], int(match[3]))
