"""Claims that outlive their callers: what was claimed for somebody who left goes back at once."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, Protocol

from aiotaskq.backends.base import TAKEN, Backend, Change
from aiotaskq.concurrency.clock import Clock
from aiotaskq.concurrency.sheltered import Sheltered, is_sheltered
from aiotaskq.core.outcome import Released, settle
from aiotaskq.core.task import Task
from aiotaskq.log import log

Exchanged = tuple[list[bool], list[Task]]


class Taker(Protocol):
    """Who can use tasks at once."""

    @property
    def wants(self) -> bool:
        """Whether there is room for some."""

    async def push(self, tasks: Sequence[Task]) -> list[Task]:
        """Push as the backend does, and claim what there is room for in the same transaction.

        What was claimed starts when all who wait for this have been told.
        """


class Claims:
    """Claims from one backend. With ``bounded``, who waits for room is told of each."""

    def __init__(self, backend: Backend, clock: Clock, *, bounded: bool) -> None:
        self._backend = backend
        self._clock = clock
        self._bounded = bounded
        self._background: set[asyncio.Future[Any]] = set()

    async def exchange(
        self,
        changes: Sequence[Change],
        owner: str,
        now: int,
        limit: int,
        *,
        queues: Sequence[str] | None = None,
        lease_until: int | None = None,
    ) -> Exchanged:
        """Write what ended, answer which held, and claim. If the caller is cancelled meanwhile, that goes on."""
        verb: Coroutine[Any, Any, Exchanged]
        if changes:
            verb = self._backend.exchange(changes, owner, now, limit, queues=queues, lease_until=lease_until)
        else:
            verb = self._claim(owner, now, limit, queues=queues, lease_until=lease_until)
        if not self._backend.grouped:  # does not suspend, so there is no meanwhile
            answer = await verb
        else:
            exchange = Sheltered(verb)
            try:
                answer = await asyncio.shield(exchange)
            except asyncio.CancelledError:
                self._in_background(self._undo(exchange))
                raise
        self._tell(answer[1])
        return answer

    async def push_and_claim(
        self, tasks: Sequence[Task], owner: str, now: int, limit: int, **options: Any
    ) -> tuple[list[Task], list[Task]]:
        """As the backend's verb; ``undone`` waits for its end, too."""
        verb = Sheltered(self._backend.push_and_claim(tasks, owner, now, limit, **options))
        self._background.add(verb)
        verb.add_done_callback(self._background.discard)
        answer = await (verb if is_sheltered() else asyncio.shield(verb))
        self._tell(answer[1])
        return answer

    def give_back(self, tasks: Sequence[Task]) -> None:
        """Undo the claim of these, in the background."""
        if tasks:
            self._in_background(self._release(tasks))

    def _tell(self, tasks: Sequence[Task]) -> None:
        if tasks and self._bounded:
            self._backend.hints.tell(TAKEN)

    async def _claim(self, owner: str, now: int, limit: int, **options: Any) -> Exchanged:
        return [], await self._backend.claim(owner, now, limit, **options)

    def _in_background(self, undoing: Coroutine[Any, Any, None]) -> None:
        future = asyncio.ensure_future(undoing)
        self._background.add(future)
        future.add_done_callback(self._undone)

    async def _undo(self, exchange: asyncio.Future[Exchanged]) -> None:
        _, tasks = await exchange
        await self._release(tasks)

    async def _release(self, tasks: Sequence[Task]) -> None:
        now = self._clock.now()
        await self._backend.update([Change(task, settle(task, Released("its caller left"), now)) for task in tasks])

    def _undone(self, ended: asyncio.Future[None]) -> None:
        self._background.discard(ended)
        if not ended.cancelled() and (error := ended.exception()) is not None:
            log.warning("queue: {}: {}", type(error).__name__, error)

    async def undone(self, timeout: float) -> None:
        """Wait until claims that are being undone are, at most ``timeout`` seconds."""
        end = asyncio.get_running_loop().time() + timeout
        while self._background and (left := end - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait(set(self._background), timeout=left)
            await asyncio.sleep(0)  # what has ended may be undone now
