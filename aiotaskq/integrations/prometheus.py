"""Metrics for Prometheus: counts events, measures runs, and samples the store while workers run."""

from __future__ import annotations

import contextlib
import errno
import threading
from collections import Counter as Sums
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from datetime import timedelta
from heapq import nlargest
from typing import TYPE_CHECKING, Any

from aiotaskq.app.internal import internal
from aiotaskq.app.taskq import TaskQ
from aiotaskq.concurrency.poller import Poller
from aiotaskq.core.errors import check_int, check_key, check_seconds, missing
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task
from aiotaskq.core.usage import MAX_NAMES
from aiotaskq.errors import DatabaseUnavailable, ValidationError
from aiotaskq.log import log, printable
from aiotaskq.runtime.hooks import HookCall, HookName
from aiotaskq.runtime.limits import LimitState
from aiotaskq.runtime.worker.watchdog import Occupancy

if TYPE_CHECKING:
    import aiotaskq.sync

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
    from prometheus_client import start_http_server as _start_http_server
    from prometheus_client.core import GaugeMetricFamily
except ImportError:
    raise missing("prometheus-client", "metrics") from None

OTHER = "other"
"""The label of types and queues that are unknown or beyond the limit."""

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)
"""Upper bounds of the histograms, in seconds: from a fast handler to a long one."""

COUNTED = {
    "pushed": "Tasks pushed here.",
    "started": "Runs started here.",
    "completed": "Tasks whose handler returned here.",
    "retried": "Runs that failed or timed out here and are tried again.",
    "failed": "Tasks that failed for good here: dead letters.",
    "cancelled": "Tasks cancelled here.",
    "expired": "Tasks that no worker claimed in time, found here.",
    "released": "Runs released unharmed: a stop, a snooze, an unknown type.",
    "lost": "Runs whose worker died or was cut off, found here.",
    "refused": "Late outcomes refused here, since the task had been given to another worker.",
    "timed_out": "Runs that passed their timeout here; told when it happens, whatever the handler then does.",
    "unknown": "Claims of a type that no handler here is registered for.",
}
MOST_GATES = 10_000  # read in one count, in the order of their keys
OPEN = (Status.PENDING, Status.RUNNING, Status.FAILED)
SKIPS = ("misfire", "catch_up", "overlap", "max_runs", "holiday", "weekend", "blackout", "paused")


class Metrics:
    """The metrics of one TaskQ: ``Metrics(tq)``, made before its workers start. It listens to events.

    Without it nothing is measured. Labels are bounded: a type is that of a registered handler (or one
    named by ``tq.elsewhere``), a queue is that of a handler or one of ``queues``; all others, and all pairs of
    type and queue beyond ``limit``, are ``other``. Never ids, params or error texts; but the key of a limit, as
    ``tenant:42``, has the value of a parameter: ``limits=0`` shows none.
    """

    def __init__(
        self,
        tq: TaskQ | aiotaskq.sync.TaskQ,
        registry: CollectorRegistry | None = None,
        *,
        port: int | None = None,
        host: str = "127.0.0.1",
        ports: int = 1,
        namespace: str = "aiotaskq",
        queues: Collection[str] = (),
        sample_interval: float | timedelta = 15.0,
        buckets: Iterable[float] = BUCKETS,
        limit: int = 200,
        limits: int = 10,
    ) -> None:
        """Attach to a TaskQ.

        Args:
            tq: the awaited or the blocking one.
            registry: prometheus_client's, default its global one. The application may expose it.
            port: serve the registry over HTTP here while workers run, else the application does. With ``ports`` 4, the
                first free one of 4, for the processes of ``aiotaskq run --processes 4``. 0 is any free one.
            host: the address of that port; default loopback, since there is no password.
            namespace: the prefix of the metrics' names.
            queues: names of queues beside those of the registered handlers, and "default".
            sample_interval: seconds between two counts of the store's rows, while workers run.
            buckets: upper bounds of the histograms, in seconds.
            limit: number of pairs of type and queue with series of their own.
            limits: number of limits, rates and fair shares with series of their own: those at which most tasks wait.

        Raises:
            ValidationError: for a wrong value, a second Metrics of the same TaskQ, or names that the registry has.
        """
        self._tq: Callable[[], TaskQ]
        if isinstance(tq, TaskQ):
            self._tq = lambda: tq
        else:  # it may replace its awaited twin by one with the same handlers and listeners
            from aiotaskq.sync.bridge import reach_of  # imported already; for others it would turn on log lines

            self._tq = reach_of(tq)
        self.registry = REGISTRY if registry is None else registry
        self._port = None if port is None else check_int("port", port, 0, 65_535)
        self._host = host
        self._ports = check_int("ports", ports, 1, 1_000)
        self._labels = _Labels(self._tq, [check_key("queues", name, 100) for name in queues], check_int("limit", limit))
        self._interval = check_seconds("sample_interval", sample_interval, zero=False)
        self._known: dict[tuple[Any, tuple[str, str]], Any] = {}
        self._usages: set[str] = set()
        self.serving: int | None = None
        """The port, while it is served."""
        self._limits = _Limits(namespace, check_int("limits", limits, 0, 1_000))
        tq.resource(self._while_workers_run)
        try:
            self._make(namespace, tuple(buckets))
            self.registry.register(self._limits)
        except ValueError as error:
            raise ValidationError(f"registry, namespace: {error}; give each TaskQ a namespace of its own") from None
        self._listen(tq.on)
        tq.middleware(self._measured)

    def _make(self, namespace: str, buckets: tuple[float, ...]) -> None:
        common: dict[str, Any] = {"namespace": namespace, "registry": self.registry}
        both = ("type", "queue")
        self._counters = {name: Counter(f"tasks_{name}", text, both, **common) for name, text in COUNTED.items()}
        timed = {**common, "buckets": buckets}
        self._wait = Histogram("wait_seconds", "From when a task is due to its start.", both, **timed)
        self._run = Histogram("run_seconds", "How long a handler runs, however it ends.", both, **timed)
        self._lateness = Histogram("schedule_lateness_seconds", "From due to fired.", both, **timed)
        self._skipped = Counter("schedule_skipped", "Due times skipped.", ("type", "queue", "reason"), **common)
        self._disabled = Counter("schedules_disabled", "Schedules that could not be fired.", both, **common)
        used = "What tasks have used up here, by the names of current_task().usage()."
        self._usage = Counter("usage", used, (*both, "name"), **common)
        self._stall = Histogram("loop_stall_seconds", "How long the event loop stood still in a task.", both, **timed)
        self._exhausted = Counter("slots_exhausted", "Times that late handlers held all slots.", both, **common)
        up = "Whether the store answered the last count."
        self._up = Gauge("store_up", up, multiprocess_mode="livemin", **common)
        last = {**common, "multiprocess_mode": "livemostrecent"}
        rows = "Rows of the store by queue and status (pending, running, failed), as last counted."
        self._rows = Gauge("tasks", rows, ("queue", "status"), **last)
        self._ready = Gauge("ready_tasks", "Tasks that could be claimed now, as last counted.", **last)
        self._oldest = Gauge("oldest_ready_seconds", "How long the oldest of these is due, as last counted.", **last)
        for name, text, read in HELD:
            gauge = Gauge(f"worker_{name}", text, **common)
            gauge.set_function(lambda read=read: float(read(self._occupancy())))  # type: ignore[misc]

    def _occupancy(self) -> Occupancy:
        worker = self._tq().worker
        return Occupancy(0) if worker is None else worker.occupancy()

    # ---- listening ----

    def _listen(self, on: Callable[[HookName, Callable[[HookCall], Any]], Any]) -> None:
        for name in ("pushed", "completed", "retried", "failed", "cancelled", "expired", "released", "unknown"):
            on(name, self._counting(self._counters[name]))
        on("started", self._started)
        on("timeout", self._counting(self._counters["timed_out"]))
        on("used", self._used)
        on("lost", self._lost)
        on("fired", lambda event: self._observe(self._lateness, event.task, event.detail["lateness"]))
        on("skipped", self._skip)
        on("disabled", lambda event: self._disabled.labels(*self._of_schedule(event)).inc())
        on("stalled", lambda event: self._observe(self._stall, event.task, event.detail["seconds"]))
        on("exhausted", self._counting(self._exhausted))

    def _counting(self, counter: Counter) -> Callable[[HookCall], None]:
        return lambda event: self._series(counter, self._labels.of(event.task)).inc()

    def _observe(self, histogram: Histogram, task: Task | None, seconds: float) -> None:
        self._series(histogram, self._labels.of(task)).observe(max(0.0, seconds))

    def _series(self, metric: Any, labels: tuple[str, str]) -> Any:
        """Return the series of a metric with these labels; few exist, and prometheus_client's own look-up is slow."""
        series = self._known.get((metric, labels))
        if series is None:
            series = self._known[metric, labels] = metric.labels(*labels)
        return series

    def _started(self, event: HookCall) -> None:
        assert event.task is not None
        self._series(self._counters["started"], self._labels.of(event.task)).inc()
        self._observe(self._wait, event.task, (event.at - event.task.run_at) / SECOND)

    def _used(self, event: HookCall) -> None:
        labels = self._labels.of(event.task)
        for name, amount in event.detail["usage"].items():
            if len(self._usages) < MAX_NAMES:
                self._usages.add(name)
            self._usage.labels(*labels, printable(name) if name in self._usages else OTHER).inc(amount)

    def _lost(self, event: HookCall) -> None:
        assert event.task is not None
        name = "refused" if event.task.status is Status.RUNNING else "lost"  # a late worker still has it as running
        self._counters[name].labels(*self._labels.of(event.task)).inc()

    def _skip(self, event: HookCall) -> None:
        labels = self._of_schedule(event)
        known = [reason for _, reason in event.detail["skipped"] if reason in SKIPS]
        for reason in known:
            self._skipped.labels(*labels, reason).inc()
        # Of very many only the latest are listed; the others have the reason of the first of these.
        rest = event.detail["count"] - len(known)
        if rest > 0:
            self._skipped.labels(*labels, known[0] if known else OTHER).inc(rest)

    def _of_schedule(self, event: HookCall) -> tuple[str, str]:
        schedule = event.detail["schedule"]
        return self._labels.pair(schedule.task_type, schedule.queue)

    async def _measured(self, task: Task, call_next: Callable[[Task], Awaitable[Any]]) -> Any:
        clock = self._tq().queue.clock
        start = clock.ticks()
        try:
            return await call_next(task)
        finally:
            self._observe(self._run, task, (clock.ticks() - start) / SECOND)

    # ---- sampling and serving ----

    @contextlib.asynccontextmanager
    async def sampling(self) -> AsyncIterator[None]:
        """Sample the store, and serve the port if there is one, in a process that runs no workers.

        The counters of the registered handlers exist from here on, with 0.
        """
        # Without the series of the registered handlers ``rate`` and alerts miss the first increment.
        for handler in internal(self._tq()).registered.handlers.values():
            labels = self._labels.pair(handler.name, handler.template.queue)
            for counter in (*self._counters.values(), self._disabled, self._exhausted):
                self._series(counter, labels)
        sampler = Poller("metrics", self._sample, self._tq().queue.clock)
        stop = self._serve(self._port) if self._port is not None else None
        await sampler.start()
        try:
            yield
        finally:
            await sampler.stop(1.0)
            if stop is not None:
                self.serving = None
                stop()

    async def _while_workers_run(self) -> AsyncIterator[Metrics]:
        async with self.sampling():
            yield self

    async def _sample(self) -> float:
        try:
            stats = await self._tq().stats()
            found = await self._tq().limits.list(MOST_GATES)
        except DatabaseUnavailable:
            self._up.set(0)
            raise
        self._up.set(1)
        self._limits.found = found
        self._ready.set(stats.ready)
        self._oldest.set(stats.oldest_age or 0.0)
        counts = {(printable(queue), status): 0 for queue in self._labels.queues() for status in OPEN}
        for queue, by_status in stats.queues.items():
            label = self._labels.queue(queue)
            for status in OPEN:
                counts[label, status] += by_status.get(status, 0)
        for (label, status), count in counts.items():
            self._rows.labels(label, status).set(count)
        return self._interval

    def _serve(self, first: int) -> Callable[[], None]:
        for port in range(first, first + (self._ports if first else 1)):
            try:
                stop, self.serving = start_http_server(port, self._host, self.registry)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            log.info("metrics are served at http://{}:{}/metrics", self._host, self.serving)
            return stop
        # A missing port of metrics must not stop the work.
        log.error("metrics are not served: port {} of {}, the first of {}, is taken", first, self._host, self._ports)
        return lambda: None


HELD: tuple[tuple[str, str, Callable[[Occupancy], int]], ...] = (
    ("slots", "How many tasks the worker runs at a time.", lambda held: held.slots),
    ("busy_slots", "How many of its slots are taken.", lambda held: held.busy),
    ("thread_slots", "Slots taken by def handlers in threads.", lambda held: held.threads),
    ("process_slots", "Slots taken by handlers in processes.", lambda held: held.processes),
    ("interpreter_slots", "Slots taken by handlers in interpreters.", lambda held: held.interpreters),
    ("overdue_threads", "Threads past their task's timeout, which hold their slot.", lambda held: held.overdue_threads),
    ("overdue_processes", "The same for handlers in processes.", lambda held: held.overdue_processes),
    ("overdue_interpreters", "The same for handlers in interpreters.", lambda held: held.overdue_interpreters),
    ("overdue_coroutines", "Coroutines that go on after their task's timeout.", lambda held: held.overdue_coroutines),
)


def start_http_server(
    port: int, host: str = "127.0.0.1", registry: CollectorRegistry | None = None
) -> tuple[Callable[[], None], int]:
    """Serve a registry over HTTP from a daemon thread; return what stops it, and the port (0 asked for a free one).

    Loopback by default, since every client can read the metrics. Raises OSError when the port is taken.
    """
    server, thread = _start_http_server(port, host, REGISTRY if registry is None else registry)
    server.daemon_threads = True  # type: ignore[attr-defined]  # a scraper that hangs must not keep the process from ending

    def close() -> None:
        server.shutdown()
        thread.join()
        server.server_close()

    def stop() -> None:
        # In a thread, because it waits for the server thread's next poll.
        threading.Thread(target=close, name="aiotaskq-metrics", daemon=True).start()

    return stop, server.server_port


LIMITS = (
    ("limit_waiting", "Tasks that wait at a limit, a rate or a fair share, as last counted.", ("limit",)),
    ("limit_held", "Tasks that have passed it and have not ended, as last counted.", ("limit",)),
    ("paused_limits", "Limits that are paused, as last counted.", ()),
    ("used_up_budgets", "Groups with tasks that wait since its budget is used up, as last counted.", ()),
)


class _Limits:
    """Collects the limits as last counted. Series of a gauge would stay when other limits are the fullest."""

    def __init__(self, namespace: str, number: int) -> None:
        self._prefix = f"{namespace}_"
        self._number = number
        self.found: Sequence[LimitState] = ()

    def describe(self) -> list[GaugeMetricFamily]:
        """Return the families without samples: by their names the registry finds another one with the same."""
        return [GaugeMetricFamily(f"{self._prefix}{name}", text, labels=labels) for name, text, labels in LIMITS]

    def collect(self) -> list[GaugeMetricFamily]:
        """Return the families: a sample for each of the fullest limits, and one for all others together."""
        waiting, held, closed, used_up = self.describe()
        found = [each for each in self.found if each.budget_of is None]
        fullest = nlargest(self._number, found, key=lambda each: (each.waiting, each.held))
        names = {each.key: printable(each.key) for each in fullest}
        waits: Sums[str] = Sums({OTHER: 0} if found else {})
        holds: Sums[str] = Sums()
        for each in found:
            waits[names.get(each.key, OTHER)] += each.waiting
            holds[names.get(each.key, OTHER)] += each.held
        for label, count in waits.items():
            waiting.add_metric((label,), count)
            held.add_metric((label,), holds[label])
        closed.add_metric((), sum(each.state != "open" for each in found))
        used_up.add_metric((), sum(each.state == "used_up" and each.waiting > 0 for each in self.found))
        return [waiting, held, closed, used_up]


class _Labels:
    """The label values: registered types and queues, up to the limit."""

    def __init__(self, tq: Callable[[], TaskQ], queues: Collection[str], limit: int) -> None:
        self._tq = tq
        self._named = {OTHER, "default", *queues}
        self._limit = limit
        self._pairs: dict[tuple[str, str], tuple[str, str]] = {}
        self._registered = -1
        self._queues: set[str] = set()

    def of(self, task: Task | None) -> tuple[str, str]:
        """Return the labels (type, queue) of a task; without one, "other"."""
        return (OTHER, OTHER) if task is None else self.pair(task.type, task.queue)

    def pair(self, type: str, queue: str) -> tuple[str, str]:
        """Return the labels of a type and a queue."""
        if (labels := self._pairs.get((type, queue))) is not None:
            return labels
        # One of the two may be known by itself; its pair with "other" counts towards the limit, too.
        known = internal(self._tq()).registered.knows(type)
        pair = (type if known else OTHER, queue if queue in self.queues() else OTHER)
        if pair not in self._pairs and (pair == (OTHER, OTHER) or len(self._pairs) >= self._limit):
            return (OTHER, OTHER)
        return self._pairs.setdefault(pair, (printable(pair[0]), printable(pair[1])))

    def queue(self, name: str) -> str:
        """Return the label of a queue."""
        return printable(name) if name in self.queues() else OTHER

    def queues(self) -> set[str]:
        """Return the known queues: the named ones, and up to ``limit`` of the handlers'."""
        handlers = internal(self._tq()).registered.handlers
        if len(handlers) != self._registered:
            self._registered = len(handlers)
            names = sorted({handler.template.queue for handler in handlers.values()})
            self._queues = self._named | set(names[: self._limit])
        return self._queues
