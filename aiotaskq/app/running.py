"""Running workers and the scheduler of a TaskQ: inside an application, or until a signal."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from abc import abstractmethod
from collections.abc import AsyncIterator, Sequence
from typing import Any, Self

from aiotaskq.app.registry import Registry
from aiotaskq.app.resources import open_resource
from aiotaskq.app.run_options import RunOptions
from aiotaskq.app.settings import schedules_elsewhere
from aiotaskq.backends.base import Backend
from aiotaskq.errors import ValidationError
from aiotaskq.runtime.queue.queue import Queue
from aiotaskq.runtime.retention import Retention
from aiotaskq.runtime.scheduler.scheduler import Scheduler
from aiotaskq.runtime.store import Store
from aiotaskq.runtime.worker.worker import ExitCode, Worker

ECHO = 500_000  # microseconds in which a second signal may be a copy of the first, passed on by a wrapper


class Running(Registry):
    """What a TaskQ that is wired runs: a worker, the scheduler and the deletion of old tasks."""

    queue: Queue
    store: Store
    _backend: Backend
    _retention: Retention
    url: str
    _schedules_url: str | None
    _worker_options: dict[str, Any]
    worker: Worker | None = None
    """The worker of this process, while it runs."""
    stands_by = False
    """Whether ``running`` runs no workers unless ``workers=True``; a test sets it."""
    _is_open = False
    _asked_to_stop = 0  # ticks of the first signal

    @property
    @abstractmethod
    def scheduler(self) -> Scheduler:
        """The scheduler actor; made when something uses it."""

    @abstractmethod
    async def open(self) -> None:
        """Connect, and create or adopt the tables."""

    @abstractmethod
    async def close(self, drain: float = 25.0, grace: float = 5.0) -> None:
        """Stop what runs, and close every connection."""

    @contextlib.asynccontextmanager
    async def running(
        self,
        concurrency: int = 10,
        *,
        queues: Sequence[str] | None = None,
        scheduler: bool = True,
        workers: bool | None = None,
        drain: float = 25.0,
        grace: float = 5.0,
    ) -> AsyncIterator[Self]:
        """Run workers and the scheduler inside the application; no signal handler is installed.

        With ``workers=False`` it is only opened, for a process that only pushes; None runs workers except under
        ``override`` in a test, True runs them there, too. On leaving, no more tasks are claimed; handlers may end for
        ``drain`` seconds, are then cancelled, and after ``grace`` more seconds their tasks are given back.
        """
        options = RunOptions(concurrency, queues, scheduler, drain, grace)
        was_open = self._is_open
        runs = not self.stands_by if workers is None else workers
        await (self._start_running(options) if runs else self.open())
        try:
            yield self
        finally:
            if runs:
                await self._stop_running(options.drain, options.grace)
            if not was_open and self.worker is None:  # else the caller that opened it closes it
                await self.close()

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[None]:
        """The lifespan of an ASGI application, with workers in it: ``FastAPI(lifespan=tq.lifespan)``, or Starlette's.

        It is ``running()`` with its defaults, and lets the integrations find this queue: ``app.state.aiotaskq``.
        """
        async with self.running():
            app.state.aiotaskq = self
            yield

    async def run(
        self,
        concurrency: int = 10,
        *,
        queues: Sequence[str] | None = None,
        scheduler: bool = True,
        drain: float = 25.0,
        grace: float = 5.0,
    ) -> ExitCode:
        """Run workers and the scheduler until SIGINT or SIGTERM; a second signal skips the drain.

        Returns 0 when everything drained, 3 when some tasks were given back, 4 when some had to be abandoned.
        """
        options = RunOptions(concurrency, queues, scheduler, drain, grace)
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM)
        for number in signals:
            loop.add_signal_handler(number, self.on_signal, stop)
        try:
            return await self.run_until(stop, options)
        finally:
            for number in signals:
                loop.remove_signal_handler(number)

    def on_signal(self, stop: asyncio.Event) -> None:
        """Handle a signal: the first sets the event of ``run_until``, the next one skips the drain."""
        if not stop.is_set():
            self._asked_to_stop = self._clock.ticks()
            stop.set()
        elif self.worker is not None and self._clock.ticks() - self._asked_to_stop > ECHO:
            self.worker.hurry()

    async def run_until(self, stop: asyncio.Event, options: RunOptions) -> ExitCode:
        """Like ``run``, until the event is set instead of a signal."""
        await self._start_running(options)
        code = ExitCode.DRAINED
        try:
            await stop.wait()
        finally:
            code = await self._stop_running(options.drain, options.grace)
            await self.close()
        return code

    async def _start_running(self, options: RunOptions) -> None:
        if self.worker is not None:
            raise ValidationError("running: workers run already; one running() at a time")
        worker = Worker(
            self.queue,
            self._backend,
            self._clock,
            self.registered.handlers,
            concurrency=options.concurrency,
            queues=options.queues,
            middleware=self.registered.run_middleware,
            resources=self._open_resources if self.registered.resources else None,
            **self._worker_options,
        )
        self.worker = worker
        try:
            await self.open()
            await self.store.start_cleanup()
            schedules = options.scheduler and self._has_schedules()
            if schedules:
                await self.scheduler.declare([make() for make in self.registered.schedules.values()])
            await worker.start()
            await self._retention.start()
            if schedules:
                await self.scheduler.start()
        except BaseException:
            await self._stop_running(0.0, 0.0)
            await self.close()
            raise

    def _has_schedules(self) -> bool:
        """Return whether there may be schedules; if not, no database is opened for them."""
        asked = self._schedules_url is not None or "scheduler" in self.__dict__
        return asked or bool(self.registered.schedules) or not self._schedules_elsewhere

    @property
    def _schedules_elsewhere(self) -> bool:
        """Whether the schedules are in another store than the tasks."""
        if self._schedules_url is not None:
            return self._schedules_url != self.url
        return schedules_elsewhere(self.url)

    async def _stop_running(self, drain: float, grace: float) -> ExitCode:
        if (worker := self.worker) is None:
            return ExitCode.DRAINED
        beside = [self._retention.stop(), *([self.scheduler.stop()] if "scheduler" in self.__dict__ else [])]
        code, _ = await asyncio.gather(worker.stop(drain, grace), asyncio.gather(*beside))
        self.worker = None
        return code

    async def _open_resources(self, stack: contextlib.AsyncExitStack) -> dict[Any, Any]:
        return {kind: await open_resource(factory, stack) for kind, factory in self.registered.resources.items()}
