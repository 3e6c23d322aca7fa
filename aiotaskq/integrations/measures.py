"""What is measured of one TaskQ, for each library of metrics: the table of the metrics, and what counts and samples."""

from __future__ import annotations

import contextlib
import math
import re
from abc import ABC, abstractmethod
from collections import Counter as Sums
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from datetime import timedelta
from heapq import nlargest
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from aiotaskq.app.internal import internal
from aiotaskq.app.taskq import TaskQ
from aiotaskq.concurrency.poller import Poller
from aiotaskq.core.errors import check_int, check_key, check_seconds, kind_name
from aiotaskq.core.status import Status
from aiotaskq.core.tags import OTHER, check_tag_names
from aiotaskq.core.task import SECOND, Task
from aiotaskq.core.usage import MAX_NAMES
from aiotaskq.errors import DatabaseUnavailable, ValidationError
from aiotaskq.log import printable
from aiotaskq.runtime.context import SnoozeRequested
from aiotaskq.runtime.hooks import HookCall, HookName
from aiotaskq.runtime.limits import LimitState
from aiotaskq.runtime.run_steps import is_suspension, only_in
from aiotaskq.runtime.worker.watchdog import Occupancy

if TYPE_CHECKING:
    import aiotaskq.sync

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)
"""Upper bounds of the histograms, in seconds: from a fast handler to a long one."""

Kind = Literal["counter", "histogram", "gauge", "reading"]
"""``gauge``: what a sample of the store sets. ``reading``: what is read when it is collected."""


class Metric(NamedTuple):
    """A metric, under its name for OpenTelemetry behind ``aiotaskq.``; ``convention`` is the name by its conventions.

    ``operation`` is the name of the operation of messaging that it counts or measures.
    """

    name: str
    text: str
    kind: Kind = "counter"
    labels: tuple[str, ...] = ("type", "queue")
    unit: str = ""
    convention: str = ""
    operation: str = ""
    held: str = ""
    """The field of ``Occupancy`` that is read."""

    @property
    def plain(self) -> str:
        """The name for Prometheus, behind the namespace: what an exporter of OpenTelemetry makes of it."""
        return self.name.replace(".", "_") + ("_seconds" if self.unit == "s" else "")


def _seconds(name: str, text: str, convention: str = "", operation: str = "") -> Metric:
    return Metric(name, text, "histogram", unit="s", convention=convention, operation=operation)


def _held(name: str, text: str, field: str = "") -> Metric:
    return Metric(f"worker.{name}", text, "reading", (), held=field or name)


def _gauge(name: str, text: str, *labels: str, kind: Kind = "gauge", unit: str = "") -> Metric:
    return Metric(name, f"{text}, as last counted.", kind, labels, unit)


_STARTED = "messaging.client.consumed.messages"
_LATE = "Runs that passed their timeout here; told when it happens, whatever the handler then does."
_USED = "What tasks have used up here, by the names of current_task().usage()."
TABLE = (
    Metric("tasks.pushed", "Tasks pushed here.", convention="messaging.client.sent.messages", operation="push"),
    Metric("tasks.started", "Runs started here.", convention=_STARTED, operation="run"),
    Metric("tasks.completed", "Tasks whose handler returned here."),
    Metric("tasks.retried", "Runs that failed or timed out here and are tried again."),
    Metric("tasks.failed", "Tasks that failed for good here: dead letters."),
    Metric("tasks.cancelled", "Tasks cancelled here."),
    Metric("tasks.expired", "Tasks that no worker claimed in time, found here."),
    Metric("tasks.released", "Runs released unharmed: a stop, a snooze, an unknown type."),
    Metric("tasks.lost", "Runs whose worker died or was cut off, found here."),
    Metric("tasks.refused", "Late outcomes refused here, since the task had been given to another worker."),
    Metric("tasks.timed_out", _LATE),
    Metric("tasks.unknown", "Claims of a type that no handler here is registered for."),
    _seconds("wait", "From when a task is due to its start."),
    _seconds("run", "How long a handler runs, however it ends.", "messaging.process.duration", "run"),
    _seconds("schedule.lateness", "From due to fired."),
    Metric("schedule.skipped", "Due times skipped.", labels=("type", "queue", "reason")),
    Metric("schedules.disabled", "Schedules that could not be fired."),
    Metric("usage", _USED, labels=("type", "queue", "name")),
    _seconds("loop.stall", "How long the event loop stood still in a task."),
    Metric("slots.exhausted", "Times that late handlers held all slots."),
    Metric("store.up", "Whether the store answered the last count.", "gauge", ()),
    _gauge("tasks", "Rows of the store by queue and status (pending, running, failed)", "queue", "status"),
    _gauge("ready_tasks", "Tasks that could be claimed now"),
    _gauge("oldest_ready", "How long the oldest of these is due", unit="s"),
    _held("slots", "How many tasks the worker runs at a time."),
    _held("busy_slots", "How many of its slots are taken.", "busy"),
    _held("thread_slots", "Slots taken by def handlers in threads.", "threads"),
    _held("process_slots", "Slots taken by handlers in processes.", "processes"),
    _held("interpreter_slots", "Slots taken by handlers in interpreters.", "interpreters"),
    _held("overdue_threads", "Threads past their task's timeout, which hold their slot."),
    _held("overdue_processes", "The same for handlers in processes."),
    _held("overdue_interpreters", "The same for handlers in interpreters."),
    _held("overdue_coroutines", "Coroutines that go on after their task's timeout."),
    _gauge("limit.waiting", "Tasks that wait at a limit, a rate or a fair share", "limit", kind="reading"),
    _gauge("limit.held", "Tasks that have passed it and have not ended", "limit", kind="reading"),
    _gauge("paused_limits", "Limits that are paused", kind="reading"),
    _gauge("used_up_budgets", "Groups with tasks that wait since its budget is used up", kind="reading"),
)


def _labelled(metric: Metric, tags: Sequence[str]) -> Metric:
    """Return a metric with labels for these tags, if it is one of tasks."""
    if "type" not in metric.labels:
        return metric
    return metric._replace(labels=(*metric.labels[:2], *map(_label, tags), *metric.labels[2:]))


def _label(tag: str) -> str:
    return f"tag_{re.sub('[^a-zA-Z0-9]', '_', tag)}"


def _check_buckets(buckets: object) -> tuple[float, ...]:
    if isinstance(buckets, str) or not isinstance(buckets, Iterable):
        raise ValidationError(f"buckets: a list of seconds is needed (got {kind_name(buckets)})")
    found = tuple(check_seconds("buckets", bound) for bound in buckets if bound != math.inf)  # that one is always there
    if not found or any(low >= high for low, high in pairwise(found)):
        raise ValidationError("buckets: each upper bound must be larger than the one before")
    return found


COUNTED = tuple(metric.name for metric in TABLE if metric.kind == "counter" and len(metric.labels) == 2)
"""The counters that begin at 0 for each registered handler."""
MOST_GATES = 10_000  # read in one count, in the order of their keys
OPEN = (Status.PENDING, Status.RUNNING, Status.FAILED)
SKIPS = ("misfire", "catch_up", "overlap", "max_runs", "holiday", "weekend", "blackout", "paused")

Values = dict[tuple[str, ...], float]
"""The values of one metric by its labels."""


class Measures(ABC):
    """Counts the events of one TaskQ, measures its runs, and samples its store while workers run."""

    def __init__(
        self,
        tq: TaskQ | aiotaskq.sync.TaskQ,
        queues: Collection[str],
        sample_interval: float | timedelta,
        limit: int,
        limits: int,
        tags: Sequence[str] = (),
        buckets: Iterable[float] = BUCKETS,
    ) -> None:
        """Check the arguments, as of ``prometheus.Metrics``; ``attach`` begins. Raises ValidationError."""
        self._tq = way_to(tq)
        names = check_tag_names("tags", tags)
        if len(set(map(_label, names))) < len(names):
            raise ValidationError(f"tags: some of {', '.join(names)} would be the same label")
        self.table = tuple(_labelled(each, names) for each in TABLE)
        """The metrics, those of tasks with labels for the tags."""
        named = [check_key("queues", name, 100) for name in queues]
        self._labels = _Labels(self._tq, named, check_int("limit", limit), names)
        self.buckets = _check_buckets(buckets)
        """The upper bounds of the histograms, in seconds."""
        self._interval = check_seconds("sample_interval", sample_interval, zero=False)
        self._usages: set[str] = set()
        self._most_limits = check_int("limits", limits, 0, 1_000)
        self._limits = _fullest((), self._most_limits)
        self._late: set[tuple[str, int]] = set()  # runs past their timeouts

    @abstractmethod
    def _add(self, name: str, labels: tuple[str, ...], amount: float = 1) -> None:
        """Add to a counter."""

    @abstractmethod
    def _observe(self, name: str, labels: tuple[str, ...], seconds: float, error: str | None = None) -> None:
        """Record a duration; ``error`` is the type of the error with which it ended."""

    @abstractmethod
    def _set(self, name: str, values: Values) -> None:
        """Set the values of a gauge; those of other labels stay."""

    def _readings(self) -> dict[str, Values]:
        """Return what is read now, by the names of the metrics."""
        worker = self._tq().worker
        held = Occupancy(0) if worker is None else worker.occupancy()
        found: dict[str, Values] = {each.name: {(): getattr(held, each.held)} for each in TABLE if each.held}
        return {**found, **self._limits}

    # ---- listening ----

    def _listen(self, on: Callable[[HookName, Callable[[HookCall], Any]], Any]) -> None:
        """Call the hooks of what is counted, ``on`` being that of the TaskQ."""
        for name in ("pushed", "completed", "retried", "failed", "cancelled", "expired", "released", "unknown"):
            on(name, self._counting(f"tasks.{name}"))
        on("started", self._started)
        on("timeout", self._timed_out)
        on("used", self._used)
        on("lost", self._lost)
        on("fired", lambda event: self._took("schedule.lateness", event, "lateness"))
        on("skipped", self._skip)
        on("disabled", lambda event: self._add("schedules.disabled", self._of_schedule(event)))
        on("stalled", lambda event: self._took("loop.stall", event, "seconds"))
        on("exhausted", self._counting("slots.exhausted"))

    def _counting(self, name: str) -> Callable[[HookCall], None]:
        return lambda event: self._add(name, self._labels.of(event.task))

    def _took(self, name: str, event: HookCall, detail: str) -> None:
        self._observe(name, self._labels.of(event.task), max(0.0, event.detail[detail]))

    def _started(self, event: HookCall) -> None:
        assert event.task is not None
        labels = self._labels.of(event.task)
        self._add("tasks.started", labels)
        self._observe("wait", labels, max(0.0, (event.at - event.task.run_at) / SECOND))

    def _timed_out(self, event: HookCall) -> None:
        assert event.task is not None
        self._add("tasks.timed_out", self._labels.of(event.task))
        self._late.add((event.task.task_id, event.task.fence))

    def _used(self, event: HookCall) -> None:
        labels = self._labels.of(event.task)
        for name, amount in event.detail["usage"].items():
            if len(self._usages) < MAX_NAMES:
                self._usages.add(name)
            self._add("usage", (*labels, printable(name) if name in self._usages else OTHER), amount)

    def _lost(self, event: HookCall) -> None:
        assert event.task is not None
        name = "refused" if event.task.status is Status.RUNNING else "lost"  # a late worker still has it as running
        self._add(f"tasks.{name}", self._labels.of(event.task))

    def _skip(self, event: HookCall) -> None:
        labels = self._of_schedule(event)
        known = [reason for _, reason in event.detail["skipped"] if reason in SKIPS]
        for reason in known:
            self._add("schedule.skipped", (*labels, reason))
        # Of very many only the latest are listed; the others have the reason of the first of these.
        rest = event.detail["count"] - len(known)
        if rest > 0:
            self._add("schedule.skipped", (*labels, known[0] if known else OTHER), rest)

    def _of_schedule(self, event: HookCall) -> tuple[str, ...]:
        schedule = event.detail["schedule"]
        return self._labels.tagged(schedule.task_type, schedule.queue, schedule.tags)

    async def run(self, task: Task, call_next: Callable[[Task], Awaitable[Any]]) -> Any:
        """Wrap a run: it is measured."""
        clock = self._tq().queue.clock
        key, start = (task.task_id, task.fence), clock.ticks()
        error: str | None = None
        try:
            return await call_next(task)
        except BaseException as raised:
            error = failure(raised)
            raise
        finally:
            if key in self._late:
                self._late.discard(key)
                error = LATE
            self._observe("run", self._labels.of(task), max(0.0, (clock.ticks() - start) / SECOND), error)

    # ---- sampling ----

    @contextlib.asynccontextmanager
    async def sampling(self) -> AsyncIterator[None]:
        """Sample the store in a process that runs no workers.

        The counters of the registered handlers exist from here on, with 0.
        """
        # Without the series of the registered handlers ``rate`` and alerts miss the first increment.
        for handler in internal(self._tq()).registered.handlers.values():
            labels = self._labels.of(handler.template)
            for name in COUNTED:
                self._add(name, labels, 0)
        sampler = Poller("metrics", self._sample, self._tq().queue.clock)
        await sampler.start()
        try:
            yield
        finally:
            await sampler.stop(1.0)

    async def _sample(self) -> float:
        try:
            stats = await self._tq().stats()
            found = await self._tq().limits.list(MOST_GATES)
        except DatabaseUnavailable:
            self._set("store.up", {(): 0})
            raise
        self._limits = _fullest(found, self._most_limits)
        counts: Values = {(printable(queue), status): 0 for queue in self._labels.queues() for status in OPEN}
        for queue, by_status in stats.queues.items():
            label = self._labels.queue(queue)
            for status in OPEN:
                counts[label, status] += by_status.get(status, 0)
        self._set("store.up", {(): 1})
        self._set("ready_tasks", {(): stats.ready})
        self._set("oldest_ready", {(): stats.oldest_age or 0.0})
        self._set("tasks", counts)
        return self._interval


def way_to(tq: TaskQ | aiotaskq.sync.TaskQ) -> Callable[[], TaskQ]:
    """Return the way to the awaited TaskQ."""
    if isinstance(tq, TaskQ):
        return lambda: tq
    # It may replace its awaited twin by one with the same handlers and listeners.
    from aiotaskq.sync.bridge import reach_of  # imported already; for others it would turn on log lines

    found: Callable[[], TaskQ] = reach_of(tq)
    return found


LATE = "TimeoutError"
"""The type of the error of a run that has passed its timeout, whatever its handler does then."""


def failure(error: BaseException) -> str | None:
    """Return the type of the error with which a run has ended; None where it is to go on later, and did not fail."""
    left = only_in(error, SnoozeRequested) is not None or is_suspension(error)
    return None if left else type(error).__name__


def _fullest(limits: Sequence[LimitState], number: int) -> Mapping[str, Values]:
    """Return the readings of limits: a value for each of the fullest ones, and one for all others together."""
    found = [each for each in limits if each.budget_of is None]
    fullest = nlargest(number, found, key=lambda each: (each.waiting, each.held))
    names = {each.key: printable(each.key) for each in fullest}
    waits: Sums[tuple[str, ...]] = Sums({(OTHER,): 0} if found else {})
    holds: Sums[tuple[str, ...]] = Sums(waits)
    for each in found:
        waits[names.get(each.key, OTHER),] += each.waiting
        holds[names.get(each.key, OTHER),] += each.held
    return {
        "limit.waiting": dict(waits),
        "limit.held": dict(holds),
        "paused_limits": {(): sum(each.state != "open" for each in found)},
        "used_up_budgets": {(): sum(each.state == "used_up" and each.waiting > 0 for each in limits)},
    }


class _Labels:
    """The label values: registered types and queues, and values of tags, up to the limit."""

    def __init__(self, tq: Callable[[], TaskQ], queues: Collection[str], limit: int, tags: Sequence[str]) -> None:
        self._tq, self._tags = tq, tags
        self._tagged: set[tuple[str, ...]] = set()
        self._named = {OTHER, "default", *queues}
        self._limit = limit
        self._pairs: dict[tuple[str, str], tuple[str, str]] = {}
        self._registered = -1
        self._queues: set[str] = set()

    def of(self, task: Task | None) -> tuple[str, ...]:
        """Return the labels of a task: type, queue, and the tags; without one, "other"."""
        if not self._tags:
            return (OTHER, OTHER) if task is None else self.pair(task.type, task.queue)
        return self.tagged(OTHER, OTHER, {}) if task is None else self.tagged(task.type, task.queue, task.tags)

    def tagged(self, type: str, queue: str, tags: Mapping[str, str]) -> tuple[str, ...]:
        """Return the labels of a type, a queue and tags, one that is missing as an empty text."""
        pair, values = self.pair(type, queue), tuple(printable(tags.get(name, "")) for name in self._tags)
        if any(values) and (*pair, *values) not in self._tagged:
            if len(self._tagged) >= self._limit:
                return *pair, *(value and OTHER for value in values)
            self._tagged.add((*pair, *values))
        return *pair, *values

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
