"""Traces and metrics for OpenTelemetry: a span around each push, run and step, and the metrics of Prometheus."""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from aiotaskq.app.taskq import TaskQ
from aiotaskq.core.errors import missing
from aiotaskq.core.groups import GroupState
from aiotaskq.core.steps import Step
from aiotaskq.core.task import SECOND, SPAN, TRACE, Task
from aiotaskq.errors import DatabaseUnavailable, ValidationError
from aiotaskq.integrations.measures import BUCKETS, LATE, Measures, Metric, Values, failure, way_to
from aiotaskq.log import printable
from aiotaskq.runtime.context import current_task
from aiotaskq.runtime.hooks import HookCall
from aiotaskq.runtime.run_steps import is_suspension

if TYPE_CHECKING:
    import aiotaskq.sync

try:
    from opentelemetry.context import Context
    from opentelemetry.metrics import Meter, MeterProvider, Observation, get_meter
    from opentelemetry.trace import (
        Link,
        Span,
        SpanKind,
        StatusCode,
        TracerProvider,
        get_current_span,
        get_tracer,
        set_span_in_context,
    )
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:
    raise missing("opentelemetry-api", "otel") from None

W3C = TraceContextTextMapPropagator()  # without baggage, which may hold data that must not be stored
SCHEMA = "https://opentelemetry.io/schemas/1.44.0"
"""The version of the semantic conventions."""
OPERATIONS = {"push": "send", "run": "process"}
"""The types of the operations of messaging, by their names."""
ATTRIBUTES = {"queue": "messaging.destination.name"}
"""The attributes of the labels of metrics that are not ``aiotaskq.`` and the label."""
PUSH = Metric(
    "push", "How long a push takes.", "histogram", ("queue",), "s", "messaging.client.operation.duration", "push"
)
"""Not in the table, since middleware of pushes makes those into memory slower; the conventions require it."""


MOST_LINKS = 32
"""Links of one span to the tasks before it: an SDK keeps 128 by default."""
MOST_REPLAYED = 100
"""Spans of one run for steps that earlier runs have done."""


def _operation(name: str) -> dict[str, Any]:
    """Return the attributes of an operation of messaging, on its spans and metrics."""
    return {
        "messaging.system": "aiotaskq",
        "messaging.operation.name": name,
        "messaging.operation.type": OPERATIONS[name],
    }


class Tracing:
    """The spans of one TaskQ: ``Tracing(tq)``, made before its workers start.

    A push is a producer span; its context is stored with each task as W3C ``traceparent`` (and ``tracestate``), in the
    task's ``extra``, on every backend. A run is a consumer span that continues it, in any process and at each retry,
    and has a link to it; a task that a schedule has fired begins a trace of its own. The callback of a group, and a
    task that waits for others, belongs to the trace of the group's push, and has links to the runs of up to 32 tasks
    before it. A step is a span in that of its run; one that is replayed has a link to the run that has done it, up to
    100 in a run. Attributes follow OpenTelemetry's semantic conventions for messaging. Never params, results or, unless
    asked for, the texts of errors.
    """

    def __init__(
        self,
        tq: TaskQ | aiotaskq.sync.TaskQ,
        tracer_provider: TracerProvider | None = None,
        *,
        relation: str = "child",
        record_exceptions: bool = False,
    ) -> None:
        """Attach to a TaskQ, the awaited or the blocking one.

        Args:
            tracer_provider: default the global one; without an SDK it records nothing and passes the context on.
            relation: of a run to its push: ``child`` (one trace), or ``link`` (a trace of its own).
            record_exceptions: record the text and traceback of a handler's error, which may hold secrets. Default only
                its type.

        Raises:
            ValidationError: for another relation.
        """
        if relation not in ("child", "link"):
            raise ValidationError(f"relation: {relation!r} is not one of child, link")
        self._linked = relation == "link"
        self._record = record_exceptions
        start = get_tracer("aiotaskq", tracer_provider=tracer_provider, schema_url=SCHEMA).start_as_current_span
        self._tq = way_to(tq)
        self._span = functools.partial(start, record_exception=False, set_status_on_exception=False)
        self._spans: dict[tuple[str, int], Span] = {}  # of the current runs
        tq.middleware(self)
        tq.on("timeout", self._timed_out)

    async def push(self, tasks: list[Task], call_next: Callable[[list[Task]], Awaitable[list[Task]]]) -> list[Task]:
        """Wrap a push: its span's context is stored with the tasks."""
        if not tasks:
            return await call_next(tasks)
        types = {task.type for task in tasks}
        queues = {task.queue for task in tasks}
        attributes = _operation("push")
        if len(queues) == 1:
            attributes["messaging.destination.name"] = printable(queues.pop())
        if len(tasks) == 1:
            attributes["messaging.message.id"] = printable(tasks[0].task_id)
        else:
            attributes["messaging.batch.message_count"] = len(tasks)
        name = f"push {printable(types.pop()) if len(types) == 1 else 'many'}"
        with self._span(name, kind=SpanKind.PRODUCER, attributes=attributes) as span:
            carrier: dict[str, str] = {}
            W3C.inject(carrier)
            if carrier:
                # In the same list, because the push compares the stored tasks with its elements.
                tasks[:] = [task.replace(extra={**task.extra, **carrier}) for task in tasks]
            try:
                return await call_next(tasks)
            except BaseException as error:
                self._failed(span, error)
                raise

    async def run(self, task: Task, call_next: Callable[[Task], Awaitable[Any]]) -> Any:
        """Wrap a run: spans of its handler belong to the trace of the push."""
        carrier = {name: value for name in W3C.fields if isinstance(value := task.extra.get(name), str)}
        # From an empty context, not from the one that was current when the worker was started.
        context = W3C.extract(carrier, Context())
        pushed = get_current_span(context).get_span_context()
        links = [*([Link(pushed)] if pushed.is_valid else []), *await self._links_before(task)]
        if self._linked:
            context = Context()
        attributes = _operation("run") | {
            "messaging.destination.name": printable(task.queue),
            "messaging.message.id": printable(task.task_id),
            "aiotaskq.type": printable(task.type),
            "aiotaskq.retry_count": task.retry_count,
        }
        if task.scheduler_task_id is not None:
            attributes["aiotaskq.schedule_id"] = printable(task.scheduler_task_id)
        key = (task.task_id, task.fence)
        with self._span(f"run {printable(task.type)}", context, SpanKind.CONSUMER, attributes, links) as span:
            self._spans[key] = span
            if span.get_span_context().is_valid:
                current_task().spans = _RunSpans(span, self._span, self._failed)
            try:
                return await call_next(task)
            except BaseException as error:
                if failure(error) is None:
                    kept = "suspended" if is_suspension(error) else "snoozed"
                    span.set_attribute(f"aiotaskq.{kept}", True)
                elif key in self._spans:  # else its timeout is recorded already
                    self._failed(span, error)
                raise
            finally:
                self._spans.pop(key, None)

    async def _links_before(self, task: Task) -> list[Link]:
        """Return links to the runs of the tasks for which a task has waited, or of the members of its group."""
        if task.flow is None or not (task.flow.source or task.flow.parents):
            return []
        groups = self._tq().queue.groups
        try:
            rows = [row for *_, row in await groups.before(task, 0, MOST_LINKS)]
            for group in [row for row in rows if isinstance(row, GroupState)]:
                rows += [row for _, row in await groups.page(group.group_id, MOST_LINKS)]
        except DatabaseUnavailable:
            return []  # spans may miss links, and the task must run
        return _links([row.extra.get(SPAN) for row in rows if isinstance(row, Task)])[:MOST_LINKS]

    def _failed(self, span: Span, error: BaseException) -> None:
        kind = type(error).__name__
        span.set_attribute("error.type", kind)
        if self._record:
            span.record_exception(error)
        span.set_status(StatusCode.ERROR, kind)

    def _timed_out(self, event: HookCall) -> None:
        assert event.task is not None
        # Removed, so that a later error or return of the handler does not change the span's status.
        span = self._spans.pop((event.task.task_id, event.task.fence), None)
        if span is not None:
            span.set_attribute("error.type", LATE)
            span.set_status(StatusCode.ERROR, LATE)


def _links(traceparents: Iterable[object]) -> list[Link]:
    """Return links to the spans that are valid."""
    contexts = [W3C.extract({TRACE[0]: each}, Context()) for each in traceparents if isinstance(each, str)]
    spans = [get_current_span(context).get_span_context() for context in contexts]
    return [Link(span) for span in spans if span.is_valid]


class _RunSpans:
    """The spans of one run: see ``runtime.run_steps.RunSpans``."""

    def __init__(self, run: Span, span: Any, failed: Callable[[Span, BaseException], None]) -> None:
        """``span`` opens the span of a step, and ``failed`` sets its status."""
        self._span, self._failed = span, failed
        self._replayed = 0
        self.recorded = run.is_recording()
        carrier: dict[str, str] = {}
        W3C.inject(carrier, set_span_in_context(run))
        self.traceparent = carrier[TRACE[0]]

    @contextlib.contextmanager
    def step(self, label: str) -> Iterator[None]:
        attributes = {"aiotaskq.step": printable(label)}
        with self._span(f"step {printable(label)}", attributes=attributes) as span:
            try:
                yield
            except BaseException as error:
                self._failed(span, error)
                raise

    def replayed(self, step: Step) -> None:
        if self._replayed < MOST_REPLAYED:
            self._replayed += 1
            attributes = {"aiotaskq.step": printable(step.label), "aiotaskq.replayed": True}
            name, links = f"step {printable(step.label)}", _links([step.span])
            with self._span(name, attributes=attributes, links=links):
                pass


class Metrics(Measures):
    """The metrics of one TaskQ: ``Metrics(tq)``, made before its workers start: those that Prometheus has.

    Names and attributes follow OpenTelemetry's semantic conventions for messaging; what these do not have begins with
    ``aiotaskq.``. Types, queues and limits are bounded as in ``prometheus.Metrics``. Never ids, params or the texts of
    errors; ``limits=0`` shows no key of a limit. A second TaskQ needs a MeterProvider of its own: of two gauges of one
    name the SDK reads only the first.
    """

    def __init__(
        self,
        tq: TaskQ | aiotaskq.sync.TaskQ,
        meter_provider: MeterProvider | None = None,
        *,
        queues: Collection[str] = (),
        sample_interval: float | timedelta = 15.0,
        buckets: Iterable[float] = BUCKETS,
        limit: int = 200,
        limits: int = 10,
        tags: Sequence[str] = (),
    ) -> None:
        """Attach to a TaskQ, the awaited or the blocking one.

        Args:
            meter_provider: default the global one; without an SDK nothing is recorded.
            queues: names of queues beside those of the registered handlers, and "default".
            sample_interval: seconds between two counts of the store's rows, while workers run.
            buckets: upper bounds of the histograms, in seconds, unless a view of the SDK sets others.
            limit: number of pairs of type and queue with attributes of their own.
            limits: number of limits, rates and fair shares with values of their own: those at which most tasks wait.
            tags: names of tags with few values, which are attributes, ``aiotaskq.tag_tenant`` for ``tenant``. ``limit``
                combinations of type, queue and values have attributes of their own.

        Raises:
            ValidationError: for a wrong value, or a second Metrics of the same TaskQ.
        """
        super().__init__(tq, queues, sample_interval, limit, limits, tags, buckets)
        tq.resource(self._while_workers_run)
        self._sampled: dict[str, Values] = {}
        self._known: dict[tuple[str, tuple[str, ...]], dict[str, Any]] = {}
        self._table = {metric.name: metric for metric in (*self.table, PUSH)}
        meter = get_meter("aiotaskq", meter_provider=meter_provider, schema_url=SCHEMA)
        self._instruments = {each.name: self._instrument(meter, each) for each in self._table.values()}
        self._listen(tq.on)
        tq.middleware(self)

    def _instrument(self, meter: Meter, metric: Metric) -> Any:
        name = metric.convention or f"aiotaskq.{metric.name}"
        if metric.kind == "counter":
            return meter.create_counter(name, metric.unit, metric.text)
        if metric.kind == "histogram":
            return meter.create_histogram(
                name, metric.unit, metric.text, explicit_bucket_boundaries_advisory=self.buckets
            )
        return meter.create_observable_gauge(
            name, [functools.partial(self._observed, metric.name)], metric.unit, metric.text
        )

    def _observed(self, name: str, _options: object) -> list[Observation]:
        values = self._readings()[name] if self._table[name].kind == "reading" else self._sampled.get(name, {})
        return [Observation(value, self._attributes(name, labels)) for labels, value in values.items()]

    def _attributes(self, name: str, labels: tuple[str, ...], error: str | None = None) -> dict[str, Any]:
        found = self._known.get((name, labels))
        if found is None:
            metric = self._table[name]
            found = _operation(metric.operation) if metric.operation else {}
            for label, value in zip(metric.labels, labels, strict=False):
                found[ATTRIBUTES.get(label, f"aiotaskq.{label}")] = str(value)
            self._known[name, labels] = found
        return found if error is None else {**found, "error.type": error}

    def _add(self, name: str, labels: tuple[str, ...], amount: float = 1) -> None:
        self._instruments[name].add(amount, self._attributes(name, labels))

    def _observe(self, name: str, labels: tuple[str, ...], seconds: float, error: str | None = None) -> None:
        self._instruments[name].record(seconds, self._attributes(name, labels, error))

    def _set(self, name: str, values: Values) -> None:
        self._sampled[name] = {**self._sampled.get(name, {}), **values}

    async def push(self, tasks: list[Task], call_next: Callable[[list[Task]], Awaitable[list[Task]]]) -> list[Task]:
        """Wrap a push: it is measured, and the tasks of one that fails are counted with its error."""
        if not tasks:
            return await call_next(tasks)
        queues = {self._labels.queue(task.queue) for task in tasks}
        clock = self._tq().queue.clock
        start = clock.ticks()
        error: str | None = None
        try:
            return await call_next(tasks)
        except BaseException as raised:
            error = type(raised).__name__
            for labels, count in Counter(map(self._labels.of, tasks)).items():
                self._instruments["tasks.pushed"].add(count, self._attributes("tasks.pushed", labels, error))
            raise
        finally:
            self._observe("push", tuple(queues) if len(queues) == 1 else (), (clock.ticks() - start) / SECOND, error)

    async def _while_workers_run(self) -> AsyncIterator[Metrics]:
        async with self.sampling():
            yield self
