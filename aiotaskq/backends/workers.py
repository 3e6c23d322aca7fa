"""The registry of workers: each worker has one side row there, and in it one lease for all of its tasks.

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

from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from aiotaskq.backends.side_rows import WORKER, Range, SideRow, SideRows, WithSide
from aiotaskq.core.history import KEEP_DAYS
from aiotaskq.core.task import SECOND
from aiotaskq.core.worker_info import WorkerInfo, WorkerStack
from aiotaskq.log import log

Held = tuple[str, int, bool]
"""The id, the fence and the cancel flag of a running task."""
VERSION = "version"
"""The kind of the versions of applications, by name: when a worker first started with it, in microseconds UTC."""
STACK = "stack"
"""The kind of the answers of workers that were asked where their handlers stand, by the ids of the workers."""
ANSWERED = 60 * SECOND  # for which an answer is kept
MANY = 1_000  # rows that are not needed any more that are deleted at a time

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(WorkerInfo).decode
_decode_stack = msgspec.json.Decoder(WorkerStack).decode


class Workers:
    """The workers of a shared store, as side rows under their ids. Each method is atomic."""

    def __init__(self, rows: SideRows, held: Callable[[Sequence[str]], Awaitable[dict[str, list[Held]]]]) -> None:
        self._rows = rows
        self.held = held
        """``Backend.held``."""

    async def register(self, worker: WorkerInfo) -> None:
        """Add a worker, before its first claim. Repeated with the same id, it replaces the row."""
        await self._rows.put(WORKER, [_row(worker)])

    async def note_version(self, worker: WorkerInfo) -> None:
        """Store when the version of its application first started, for as long as the history after its latest start.

        Not in the transaction of ``register``, which a store takes whose memory is full.
        """
        if (version := worker.version) is None:
            return

        def body(tx: WithSide) -> None:
            first = tx.side.lock(VERSION, [version]).get(version, str(worker.started_at))
            tx.side.put(VERSION, [SideRow(version, first, worker.started_at + KEEP_DAYS * SECOND)])

        await self._rows.store.transact(body, repeatable=True)
        await self._rows.expire(VERSION, worker.started_at, MANY)

    async def versions(self, now: int) -> list[tuple[int, str]]:
        """Return when the versions of the application first started, in microseconds UTC, and their names, in order."""
        rows = await self._rows.read(Range(VERSION, now))
        return sorted((int(row.text), row.name) for row in rows if row.text.isdecimal())

    async def heartbeat(self, worker: WorkerInfo) -> bool:
        """Write the row of a worker; return whether it was there, else nothing is written.

        What it is asked for, ``quiet``, ``wanted_concurrency`` and ``stack_asked``, stays as it is: only ``steer``
        writes that.
        """

        def written(known: WorkerInfo | None) -> WorkerInfo:
            if known is None:
                return worker
            asked = {"quiet": known.quiet, "wanted_concurrency": known.wanted_concurrency}
            return replace(worker, **asked, stack_asked=known.stack_asked)

        return await self._change(worker.owner, written, repeatable=True)

    async def steer(
        self, owner: str, *, quiet: bool | None = None, concurrency: int | None = None, stack_asked: int = 0
    ) -> bool:
        """Write what a worker is asked for, as far as it is given; return whether the worker was there."""
        given = {"quiet": quiet, "wanted_concurrency": concurrency}
        asked = {name: value for name, value in given.items() if value is not None}

        def written(known: WorkerInfo | None) -> WorkerInfo | None:
            # Of two that ask for the stack at the same time, both get the answer to the later request.
            return known and replace(known, **asked, stack_asked=max(known.stack_asked, stack_asked))

        return await self._change(owner, written, repeatable=True)

    async def answer(self, owner: str, stack: WorkerStack) -> None:
        """Store where the handlers of a worker stand, for a minute."""
        await self._rows.put(STACK, [SideRow(owner, _encode(stack).decode(), stack.at + ANSWERED)])
        await self._rows.expire(STACK, stack.at, MANY)

    async def answered(self, owner: str, asked: int) -> WorkerStack | None:
        """Read the answer of a worker to ``stack_asked``, or a later one; None where there is none."""
        (text,) = await self._rows.get(STACK, [owner], 0)
        stack = None if text is None else _decode_stack(text)
        return stack if stack is not None and stack.asked >= asked else None

    async def remove(self, worker: WorkerInfo) -> bool:
        """Remove a worker if its ``lease_until`` is that of ``worker``, as it was read; return whether it was.

        Nothing is written otherwise: a reaper must lose against a heartbeat.
        """
        until = worker.lease_until
        return await self._change(worker.owner, lambda known: None if known and known.lease_until == until else known)

    async def _change(
        self, owner: str, written: Callable[[WorkerInfo | None], WorkerInfo | None], repeatable: bool = False
    ) -> bool:
        """Write what a worker becomes, None to remove it; return whether it was there, and has become another.

        ``written`` gets None for a row that cannot be read.
        """

        def rows(found: Mapping[str, str]) -> Sequence[SideRow] | None:
            if not found or (after := written(known := _readable(found[owner]))) is known:
                return None
            return [] if after is None else [_row(after)]

        return await self._rows.rewrite(WORKER, [owner], rows, repeatable=repeatable)

    async def get(self, owner: str) -> WorkerInfo | None:
        """Read one worker; None where it is not there."""
        (text,) = await self._rows.get(WORKER, [owner], 0)
        return None if text is None else _readable(text)

    async def all(self) -> list[WorkerInfo]:
        """Read the workers, the earliest start first, without those whose rows cannot be read."""
        found = [_readable(row.text) for row in await self._rows.read(Range(WORKER, 0))]
        return sorted(filter(None, found), key=lambda worker: (worker.started_at, worker.owner))


def _readable(text: str) -> WorkerInfo | None:
    """Return the worker of a row; None where it cannot be read, which is logged: the other workers go on."""
    try:
        return _decode(text)
    except msgspec.DecodeError as error:
        log.error("the row of a worker cannot be read: {}", error)
        return None


def _row(worker: WorkerInfo) -> SideRow:
    return SideRow(worker.owner, _encode(worker).decode())
