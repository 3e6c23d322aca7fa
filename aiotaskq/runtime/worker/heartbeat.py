"""The lease keeper: renews what a worker holds, from a thread and a connection of its own, and knows what to trust."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from aiotaskq.backends.base import Backend
from aiotaskq.concurrency.clock import Clock, SystemClock
from aiotaskq.concurrency.loop_thread import LoopThread
from aiotaskq.concurrency.poller import Service
from aiotaskq.core.outcome import DEAD_AFTER, Life
from aiotaskq.core.task import SECOND, new_id
from aiotaskq.errors import DatabaseUnavailable
from aiotaskq.log import log

Key = tuple[str, int]
"""A delivery: task id and fence."""

TRY_WITHIN = 0.5  # leases between tries while the store is away: a reaper waits for one whole lease when it is back


def fresh_owner(kind: str) -> str:
    """Return an owner id that no other process start has ever had, whatever its host name and pid.

    It tells other processes of this host which process it is, see ``life_of``.
    """
    seen = _process(os.getpid())
    birth = "0" if seen is None else seen[0]
    return f"{kind}{socket.gethostname()[:32]}-{os.getpid()}-{birth}-{new_id()[-12:]}"


PROC = Path("/proc")
_OWNER = re.compile(r".*-(\d{1,10})-([0-9a-f]{12})-[0-9a-f]{12}", re.DOTALL)
_renewing: set[str] = set()
"""The owners in this process whose leases are renewed."""


def life_of(owner: str) -> Life:
    """Return what this host knows of the process that has this owner id."""
    found = _OWNER.fullmatch(owner)
    seen = None if found is None else _process(int(found[1]))
    if found is None or seen is None or seen[0] != found[2] or seen[1] in "ZXx":
        return Life.UNKNOWN
    if seen[1] in "Tt" or (int(found[1]) == os.getpid() and owner not in _renewing):
        return Life.STOPPED
    return Life.LIVES


def _process(pid: int) -> tuple[str, str] | None:
    """Return what tells this process from others of the same pid, and its state as in ``/proc``; None if it is gone."""
    try:
        # Its name, in brackets, may hold anything.
        fields = (PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].decode().split()
        boot = (PROC / "sys/kernel/random/boot_id").read_text()
        namespace = os.readlink(PROC / "self/ns/pid")  # in another container the same pid is another process
    except OSError:
        return _process_elsewhere(pid)
    return _digest(boot, namespace, fields[19]), fields[0]


def _process_elsewhere(pid: int) -> tuple[str, str] | None:
    """The same without ``/proc``: another process that has got the pid since cannot be told from it."""
    if os.name != "posix" or (PROC / "self/stat").exists():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass  # it is there, and belongs to somebody else
    return _digest(socket.gethostname()), "R"


def _digest(*words: str) -> str:
    return hashlib.blake2s("\n".join(words).encode(), digest_size=6).hexdigest()


LOST: Final = -(2**63)  # ticks from which no lease lasts


class LeaseKeeper:
    """Renews the leases of one worker until it is stopped.

    A handler that blocks the worker's loop therefore loses nothing; but for a loop that stands still for five leases
    nothing is renewed any more. Virtual time belongs to one loop: with such a clock the keeper runs there, too.
    """

    def __init__(
        self,
        backend: Backend,
        clock: Clock,
        *,
        lease: float,
        heartbeat: float,
        answered: Callable[[Sequence[Key], Sequence[bool | None]], None],
        fenced: Callable[[], None],
        owner: str = "",
    ) -> None:
        """Wire a keeper for the leases of ``owner``; ``lease`` and ``heartbeat`` in seconds.

        Both callbacks run on the worker's loop: ``answered`` after each heartbeat with what came of it, ``fenced`` when
        none was answered for a whole lease, so that others may have the tasks.
        """
        self._owner = owner
        self._shared = backend.shared
        self._thread = LoopThread("aiotaskq-leases") if backend.shared and isinstance(clock, SystemClock) else None
        self._backend = backend if self._thread is None else backend.another()
        self._clock = clock
        self._lease = int(lease * SECOND)
        self._heartbeat = heartbeat
        self._answered = answered
        self._fenced = fenced
        # By delivery, the ticks from which its lease counts. The keeper's loop changes the lists; keys are
        # added and removed on the worker's loop alone.
        self._held: dict[Key, list[int]] = {}
        self._service = Service("heartbeat", self._renew, clock, lease * TRY_WITHIN)
        self._trusted = 0  # ticks at the sending of the last heartbeat that was answered
        self._alive = 0  # ticks when the worker's loop last did something
        self._failing = False
        self._given_up = False

    @property
    def trusted(self) -> bool:
        """Whether the store has answered within the lease; otherwise others may have what this worker holds."""
        return not self._shared or self._clock.ticks() - self._trusted <= self._lease

    def holds(self, key: Key, ticks: int) -> bool:
        """Return whether the lease of this delivery lasts at ``ticks`` of the clock, as far as the store has told.

        After the process has stood still, an answer about other deliveries says nothing of this one.
        """
        if not self._shared:
            return True
        since = self._held.get(key)
        return since is not None and ticks - since[0] <= self._lease

    def hold(self, key: Key, since: int) -> None:
        """Renew the lease of this delivery from now on; it was asked for at ``since`` ticks of the clock."""
        self._held[key] = [since]

    def drop(self, key: Key) -> None:
        """Renew it no more."""
        self._held.pop(key, None)

    def __contains__(self, key: object) -> bool:
        return key in self._held

    async def start(self) -> None:
        """Start renewing for a worker on the running loop. Raises DatabaseUnavailable."""
        if not self._shared:
            return
        self._loop = asyncio.get_running_loop()
        self._trusted = self._alive = self._clock.ticks()
        _renewing.add(self._owner)
        if self._thread is None:
            await self._service.start()
        else:
            await asyncio.wrap_future(self._thread.submit(self._open))

    async def _open(self) -> None:
        await self._backend.open()
        await self._service.start()

    async def stop(self) -> None:
        """Renew no more and give the connection back; idempotent."""
        if not self._shared:
            return
        _renewing.discard(self._owner)
        if self._thread is None:
            await self._service.stop()
        else:
            await asyncio.wrap_future(self._thread.submit(self._close))
            await asyncio.to_thread(self._thread.close)

    async def _close(self) -> None:
        await self._service.stop()
        await self._backend.close()

    # ---- on the keeper's loop ----

    async def _renew(self) -> float:
        since = list(self._held.items())
        held = [key for key, _ in since]
        ticks = self._clock.ticks()  # trust counts from the sending, not from the answer
        if self._is_dead(ticks):
            return self._heartbeat
        try:
            if held:
                answers = await self._backend.heartbeat(held, self._clock.now() + self._lease)
                for (_, asked), answer in zip(since, answers, strict=True):
                    asked[0] = LOST if answer is None else ticks
                self._tell(self._answered, held, answers)
            elif self._failing:  # with nothing to renew, only this tells that the store is back
                await self._backend.ping()
        except DatabaseUnavailable:
            self._failing = True
            if not self.trusted:
                self._tell(self._fenced)
            raise
        self._failing = False
        self._trusted = ticks
        return self._heartbeat

    def _is_dead(self, ticks: int) -> bool:
        self._tell(self._beat)
        dead = ticks - self._alive > DEAD_AFTER * self._lease
        if dead and not self._given_up:
            log.error("the worker's event loop has stood still for {} leases; they are renewed no more", DEAD_AFTER)
        if dead != self._given_up:
            (_renewing.discard if dead else _renewing.add)(self._owner)
        self._given_up = dead
        return dead

    def _beat(self) -> None:
        self._alive = self._clock.ticks()

    def _tell(self, callback: Callable[..., None], *args: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback, *args)
