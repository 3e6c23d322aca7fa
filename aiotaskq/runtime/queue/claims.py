"""Claims in transactions that run to their end, and releases what was claimed for a caller that was cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from aiotaskq.backends.change import Change, Claim
from aiotaskq.backends.listeners import TAKEN
from aiotaskq.concurrency.clock import Clock
from aiotaskq.concurrency.uninterrupted import ShieldedTask, in_shielded_task
from aiotaskq.core.outcome import Released, settle
from aiotaskq.core.task import Task
from aiotaskq.log import log

if TYPE_CHECKING:
    from aiotaskq.backends.base import Backend, ScheduleChange


T = TypeVar("T")

Exchanged = tuple[list[bool], list[Task]]
Pushed = tuple[list[T], list[bool], list[Task]]


class Claimer(Protocol):
    """A worker of this process, which claims tasks of this store."""

    @property
    def queues(self) -> Sequence[str] | None:
        """The names of the queues that it claims from; None for every queue."""


class Taker(Protocol):
    """A worker that can run tasks as soon as they are pushed."""

    @property
    def wants(self) -> bool:
        """Whether it has room for tasks."""

    async def push(self, tasks: Sequence[Task]) -> list[Task]:
        """Push as the backend does, write what has ended, and claim what there is room for, in the same transaction.

        What was claimed starts after the callers that wait for this push have been answered.
        """

    async def fire(self, changes: Sequence[ScheduleChange]) -> list[bool]:
        """Do the same with the tasks of schedules that fire; return which of the changes held."""


def willing(takers: Iterable[Taker]) -> Taker | None:
    """Return one that has room for tasks, if there is one."""
    return next((taker for taker in takers if taker.wants), None)


class Claims:
    """Claims from one backend. With ``bounded``, each claim wakes the pushes that wait for room."""

    def __init__(self, backend: Backend, clock: Clock, *, bounded: bool) -> None:
        self._backend = backend
        self._clock = clock
        self._bounded = bounded
        self._background: set[asyncio.Future[Any]] = set()

    @property
    def busy(self) -> bool:
        """Whether claims are under way or being undone whose callers do not wait for them."""
        return bool(self._background)

    async def exchange(self, changes: Sequence[Change], wanted: Claim) -> Exchanged:
        """Write the changes and claim, in one transaction; return which changes held, and the claimed tasks.

        If the caller is cancelled meanwhile, the transaction goes on, and what it claims is released.
        """
        verb = self._backend.exchange(changes, wanted) if changes else self._claim(*wanted)
        if not self._backend.suspends:  # it never suspends, so it cannot be cancelled
            answer = await verb
        else:
            exchange = ShieldedTask(verb)
            try:
                answer = await asyncio.shield(exchange)
            except asyncio.CancelledError:
                self._in_background(self._undo(exchange))
                raise
        self.hint_room(answer[1])
        return answer

    async def to_its_end(
        self, pushing: Coroutine[Any, Any, Pushed[T]], left: Callable[[asyncio.Future[Pushed[T]]], None]
    ) -> Pushed[T]:
        """Await a verb that pushes and claims; ``undone`` waits for its end as well.

        If the caller is cancelled meanwhile, ``left`` is called with the verb, which goes on.
        """
        verb = ShieldedTask(pushing)
        self._background.add(verb)
        verb.add_done_callback(self._background.discard)
        try:
            answer = await (verb if in_shielded_task() else asyncio.shield(verb))
        except asyncio.CancelledError:
            left(verb)
            raise
        self.hint_room(answer[2])
        return answer

    def give_back(self, tasks: Sequence[Task]) -> None:
        """Give claimed tasks back, in the background."""
        if tasks:
            self._in_background(self._release(tasks))

    def hint_room(self, tasks: Sequence[Task]) -> None:
        """Wake the pushes that wait for room, after these tasks were claimed."""
        if tasks and self._bounded:
            self._backend.listeners.notify(TAKEN)

    async def _claim(
        self, owner: str, now: int, limit: int, queues: Sequence[str] | None, lease_until: int | None
    ) -> Exchanged:
        return [], await self._backend.claim(owner, now, limit, queues=queues, lease_until=lease_until)

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
        """Wait until the claims that are being undone are undone, at most ``timeout`` seconds."""
        end = asyncio.get_running_loop().time() + timeout
        while self._background and (left := end - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait(set(self._background), timeout=left)
            await asyncio.sleep(0)  # an exchange that has ended may begin to be undone now
