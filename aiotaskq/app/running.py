"""Running workers and the scheduler of a TaskQ: inside an application, or until a signal; and the options of that."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self

from aiotaskq.app.internal import Internal, RunOptions
from aiotaskq.app.registrations import Registrations, open_resource
from aiotaskq.app.registry import Registry
from aiotaskq.app.settings import schedules_elsewhere, settings
from aiotaskq.backends import connect
from aiotaskq.concurrency.clock import SteadyClock, StoreClock, SystemClock
from aiotaskq.concurrency.poller import Poller
from aiotaskq.core.alerts import ALERTS, NAMED, Rules, Seen, after, changes, holding, make_rules
from aiotaskq.core.errors import INT32
from aiotaskq.core.status import Status
from aiotaskq.core.stopping import CLOSING, SERVICES, ExitCode
from aiotaskq.core.task import SECOND, Task, TaskFilter, new_task, with_default_tags
from aiotaskq.errors import NotFound, ValidationError
from aiotaskq.log import log, printable
from aiotaskq.runtime.blobs import BlobSweep
from aiotaskq.runtime.context import current_task
from aiotaskq.runtime.fleet import Workers
from aiotaskq.runtime.handler import no_resource
from aiotaskq.runtime.params import fitted
from aiotaskq.runtime.public_values import PublicValues
from aiotaskq.runtime.queue.operations import stats_of, unclaimed_queues
from aiotaskq.runtime.retention import Retention
from aiotaskq.runtime.waiting import awake

if TYPE_CHECKING:
    from aiotaskq.backends.base import Backend, Schedules
    from aiotaskq.runtime.queue.queue import Queue
    from aiotaskq.runtime.scheduler.scheduler import Scheduler
    from aiotaskq.runtime.worker.worker import Worker


CLOCK_INTERVAL = 30.0  # seconds between two comparisons with the store's clock
ECHO = 500_000  # microseconds in which a second signal may be a copy of the first, passed on by a wrapper


class Running(Registry):
    """What a TaskQ that is wired runs: a worker, the scheduler and the deletion of old tasks."""

    url: str
    """That of the store of its tasks."""
    queue: Queue
    """The tasks of the store, to push, pop and settle them by hand."""
    values: PublicValues
    """Public values: JSON under names."""
    _backend: Backend
    _retention: Retention
    _blob_sweep: BlobSweep
    _internal: Internal
    _schedules_url: str | None
    _worker_options: dict[str, Any]
    _check_interval: float
    _store_clock: StoreClock | None
    _clock_poller: Poller
    worker: Worker | None = None
    """The worker of this process, while it runs."""
    _is_open = False
    _blocks = 0  # of `async with` that have it open
    _was_open = False  # before the first of them
    _fires = False  # whether schedules are fired here
    _asked_to_stop = 0  # ticks of the first signal

    def _store(self, url: str) -> Backend:
        if url not in self._internal.backends:
            self._internal.backends[url] = connect(url, codec=self._internal.codec)
        return self._internal.backends[url]

    @functools.cached_property
    def _scheduler(self) -> Scheduler:
        """What fires the schedules; made (and its store opened) only when something uses it."""
        from aiotaskq.runtime.scheduler.scheduler import Scheduler  # a process that only pushes needs none

        url = self._schedules_url
        if self._schedules_elsewhere:
            url = url or settings().database_url
        schedules = (self._backend if url is None else self._store(url)).schedules
        # A schedule is about the wall clock, even where the queue's own clock is a steady one.
        clock = SystemClock() if type(self._clock) is SteadyClock else self._clock
        return Scheduler(
            schedules,
            self.queue,
            self._backend,
            clock,
            check_interval=self._check_interval,
            prepare=self._prepared,
            fires=lambda: self._fires,
        )

    def _prepared(self, type: Any, params: Any) -> Any:
        """Return params as they are stored. Raises ValidationError if they do not fit the registered handler."""
        return fitted(self._registered.handlers.get(type) if isinstance(type, str) else None, params)

    def _gated(self, task: Task) -> Task:
        handler = self._registered.handlers.get(task.type)
        if handler is None:
            return task
        if handler.template.extra:
            task = with_default_tags(task, handler.template.tags)
        return task if handler.gating is None else handler.gating.gated(task)

    def _open_schedules(self) -> Schedules | None:
        if "_scheduler" in self.__dict__:
            return self._scheduler.schedules
        return None if self._schedules_elsewhere else self._backend.schedules

    # ---- opening and closing ----

    async def open(self) -> None:
        """Connect, and create or adopt the tables; idempotent. Raises DatabaseUnavailable, SchemaTooNew."""
        try:
            for backend in self._internal.backends.values():
                await backend.open()
        except BaseException:
            if not self._blocks and not self._is_open:  # else it is open for others, or a block closes it
                await self._close_stores()
            raise
        self._internal.bound.bind()
        if self._store_clock is not None:
            await self._look_at_clock()
            if self._store_clock.foreign:
                await self._clock_poller.start()
        self._is_open = True

    async def _look_at_clock(self) -> float:
        assert self._store_clock is not None
        await self._store_clock.look(self._backend.ping)
        return CLOCK_INTERVAL

    async def close(self, drain: float | timedelta = 25.0, grace: float | timedelta = 5.0) -> None:
        """Stop workers and the scheduler, as ``running`` does, and close every connection; idempotent."""
        options = RunOptions(drain=drain, grace=grace)
        self._is_open = False
        if self.worker is not None:
            await self._stop_running(*options.times)
        await asyncio.gather(
            self.values.stop_cleanup(),
            self._clock_poller.stop(SERVICES),
            self.queue.after_sweep.stop(SERVICES),
            self._registered.hooks.idle(CLOSING),
            self.queue.claims.undone(CLOSING),
        )
        await self._close_stores()

    async def _close_stores(self) -> None:
        stores = self._internal.backends.values()
        ends = await asyncio.gather(*(store.close() for store in stores), return_exceptions=True)
        for error in ends:
            if error is not None:
                raise error

    async def __aenter__(self) -> Self:
        await self._enter(self.open())
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._leave()

    async def _enter(self, opening: Awaitable[None]) -> None:
        bound = self._internal.bound
        if not bound.running:  # what a loop has left behind that was stopped, or a parent that has forked
            bound.bind()
            self._blocks, self._is_open = 0, False
        if not self._blocks:
            self._was_open = self._is_open
        self._blocks += 1
        try:
            await opening
        except BaseException:
            await self._leave()
            raise

    async def _leave(self) -> None:
        self._blocks = max(self._blocks - 1, 0)  # a forked child leaves blocks of its parent
        if not self._blocks and not self._was_open:  # else whatever opened it closes it
            await self.close()

    # ---- running ----

    @contextlib.asynccontextmanager
    async def running(
        self,
        concurrency: int = 10,
        *,
        queues: Sequence[str] | None = None,
        scheduler: bool = True,
        workers: bool | None = None,
        drain: float | timedelta = 25.0,
        grace: float | timedelta = 5.0,
    ) -> AsyncIterator[Self]:
        """Run workers and the scheduler inside the application; no signal handler is installed.

        With ``workers=False`` it is only opened, for a process that only pushes; None runs workers except under
        ``override`` in a test, True runs them there, too. On leaving, no more tasks are claimed; handlers may end for
        ``drain`` seconds, are then cancelled, and after ``grace`` more seconds their tasks are released.
        """
        if callable(concurrency):
            raise ValidationError("running: an application calls tq.lifespan, as in FastAPI(lifespan=tq.lifespan)")
        if not (workers is None or isinstance(workers, bool)):
            raise ValidationError(
                f"workers: True, False or None is needed (got {workers!r:.40}); "
                "concurrency= is how many tasks run at a time"
            )
        options = RunOptions(concurrency, queues, scheduler, drain, grace)
        runs = not self._internal.stands_by if workers is None else workers
        await self._enter(self._start_running(options) if runs else self.open())
        try:
            yield self
        finally:
            try:
                if runs:
                    await self._stop_running(*options.times)
            finally:
                await self._leave()

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
        drain: float | timedelta = 25.0,
        grace: float | timedelta = 5.0,
    ) -> ExitCode:
        """Run workers and the scheduler until SIGINT or SIGTERM; a second signal skips the drain.

        Returns 0 when everything drained, 3 when some tasks were released, 4 when some had to be abandoned.
        """
        options = RunOptions(concurrency, queues, scheduler, drain, grace)
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM)
        for number in signals:
            loop.add_signal_handler(number, self._on_signal, stop)
        try:
            return await self._run_until(stop, options)
        finally:
            for number in signals:
                loop.remove_signal_handler(number)

    async def resize(self, concurrency: int) -> None:
        """Let the worker of this process run so many tasks at a time until it ends.

        Running tasks run to their end, also where they are more; threads, processes and claims ahead follow. On a
        shared store it is as ``workers.resize`` of this worker: the registry shows it, and the latest call counts.

        Raises NotFound if no worker runs here, ValidationError, DatabaseUnavailable.
        """
        if self.worker is None:
            raise NotFound("resize: no worker runs in this process; for another one there is workers.resize(id, n)")
        if self._backend.workers is not None:
            await Workers(self._backend).resize(self.worker.owner, concurrency)
        if concurrency != self.worker.concurrency:
            self.worker.resize(concurrency)

    def _on_signal(self, stop: asyncio.Event) -> None:
        if not stop.is_set():
            self._asked_to_stop = self._clock.ticks()
            stop.set()
        elif self.worker is not None and self._clock.ticks() - self._asked_to_stop > ECHO:
            self.worker.hurry()

    async def _run_until(
        self, stop: asyncio.Event, options: RunOptions, started: Callable[[], object] = lambda: None
    ) -> ExitCode:
        await self._enter(self._start_running(options))
        code = ExitCode.DRAINED
        try:
            started()
            await stop.wait()
        finally:
            try:
                code = await self._stop_running(*options.times)
            finally:
                self._was_open = False  # a run closes what was opened before it
                await self._leave()
        return code

    def alerts(
        self,
        *,
        dead_letters: int | None = None,
        oldest_ready: float | timedelta | None = None,
        schedule_late: float | timedelta | None = None,
        no_worker: float | timedelta | None = None,
        every: float | timedelta = 30.0,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Watch the store: an alert begins when it passes one of these bounds, and ends when it is within it again.

        Each beginning and end calls the hook ``alert`` in the process that has noticed it, and is told to webhooks
        with ``on="alert"``. The rules are evaluated by a durable task, so by one worker at a time for all processes.

        Args:
            dead_letters: so many failed tasks, or more, are in the store.
            oldest_ready: a task has been ready for more seconds.
            schedule_late: a schedule has been due for more seconds.
            no_worker: tasks of a queue have been ready for more seconds, and no worker claims from it. Where no worker
                runs at all, nothing evaluates the rules: ``aiotaskq check`` tells that from outside.
            every: seconds between two evaluations.
            tags: ``dead_letters`` counts the tasks with all these tags only.

        Raises:
            ValidationError: naming the argument.
        """
        self._registered.alerts = make_rules(dead_letters, oldest_ready, schedule_late, no_worker, every, tags)
        self._handle_alerts()

    def _adopt(self, registered: Registrations) -> None:
        super()._adopt(registered)
        if self._registered.alerts is not None:
            self._handle_alerts()

    def _handle_alerts(self) -> None:
        self._registered.handlers.pop(ALERTS, None)  # of an adopted TaskQ, which would read its own store
        self.task(name=ALERTS, max_retries=INT32)(self._watch)

    async def _watch(self) -> None:
        rules, now = self._registered.alerts, self._clock.now()
        if rules is None:
            return
        from aiotaskq.core.webhooks import alert_messages

        schedules = self._open_schedules()
        found = holding(rules, await look(self._backend, schedules, rules, now))
        known = await self.values.get_public(ALERTS) or {}
        made = changes(known, found, now)
        queue = current_task().task.queue
        if told := [task for alert in made for task in alert_messages(self._registered.webhooks, alert, queue, now)]:
            await self.queue.add(told)
        if made:
            await self.values.set_public(ALERTS, after(known, made))
        for alert in made:
            (log.warning if alert.firing else log.info)(
                "alert {} {}: {}", alert.rule, "begins" if alert.firing else "is over", printable(alert.text)
            )
            self._registered.hooks.call("alert", now, None, **alert.as_dict())
        current_task().snooze(rules.every)

    async def _start_watching(self, queues: Sequence[str] | None) -> None:
        if self._registered.alerts is not None:
            queue = "default" if queues is None or "default" in queues else queues[0]
            now = self._clock.now()
            await self.queue.add([new_task(ALERTS, {}, now=now, queue=queue, max_retries=INT32, unique_key=ALERTS)])

    async def _start_running(self, options: RunOptions) -> None:
        if self.worker is not None:
            raise ValidationError("running: workers run already; one running() at a time")
        from aiotaskq.runtime.worker.worker import Worker  # a process that only pushes needs none

        for handler in self._registered.handlers.values():
            for name, kind in handler.injected.items():
                if kind not in self._registered.resources:
                    raise no_resource(handler, name)
        worker = Worker(
            self.queue,
            self._registered.handlers,
            concurrency=options.concurrency,
            queues=options.queues,
            middleware=self._registered.run_middleware,
            resources=self._open_resources if self._registered.resources else None,
            history_tags=self._internal.history_tags,
            **self._worker_options,
        )
        self.worker = worker
        try:
            await self.open()
            await self.values.start_cleanup()
            # Where there cannot be schedules, no database is opened for them.
            asked = self._schedules_url is not None or "_scheduler" in self.__dict__ or self._registered.schedules
            schedules = options.scheduler and (asked or not self._schedules_elsewhere)
            if schedules:
                await self._scheduler.declare([make() for make in self._registered.schedules.values()])
            await self.queue.limits.declare()
            await worker.start()
            await self._start_watching(options.queues)
            await self._retention.start()
            await self._blob_sweep.start()
            self._fires = options.scheduler
            if schedules:
                await self._scheduler.start()
        except BaseException:
            await self._stop_running(0.0, 0.0)
            raise

    @property
    def _schedules_elsewhere(self) -> bool:
        """Whether the schedules are in another store than the tasks."""
        if self._schedules_url is not None:
            return self._schedules_url != self.url
        return schedules_elsewhere(self.url)

    async def _stop_running(self, drain: float, grace: float) -> ExitCode:
        if (worker := self.worker) is None:
            return ExitCode.DRAINED
        self._fires = False
        beside = [self._retention.stop(), self._blob_sweep.stop()]
        if "_scheduler" in self.__dict__:
            beside.append(self._scheduler.stop())
        try:
            code, _ = await asyncio.gather(worker.stop(drain, grace), asyncio.gather(*beside))
        except asyncio.CancelledError:
            worker.hurry()
            await worker.stop(0.0, grace)
            raise
        finally:
            self.worker = None
        return code

    async def _open_resources(self, stack: contextlib.AsyncExitStack) -> dict[Any, Any]:
        return {kind: await open_resource(factory, stack) for kind, factory in self._registered.resources.items()}


async def look(backend: Backend, schedules: Schedules | None, rules: Rules, now: int) -> Seen:
    """Return what is in a store; ``now`` in microseconds UTC. Raises DatabaseUnavailable."""
    stats = await stats_of(backend, now)
    late: list[str] = []
    if schedules is not None and rules.schedule_late is not None:
        due = await schedules.due(now - int(rules.schedule_late * SECOND), NAMED + 1)
        late = [each.name for each in due]
    unclaimed: list[str] = []
    if rules.no_worker is not None and (workers := await awake(backend, now)) is not None:
        unclaimed = await unclaimed_queues(backend, stats, workers, now - int(rules.no_worker * SECOND))
    failed = stats.counts.get(str(Status.FAILED), 0)
    if rules.tags and rules.dead_letters is not None and failed >= rules.dead_letters:
        tagged = TaskFilter(status=(Status.FAILED,), tags=rules.tags)
        failed = len(await backend.find(tagged, rules.dead_letters))
    return Seen(failed, stats.oldest_age, late, unclaimed)
