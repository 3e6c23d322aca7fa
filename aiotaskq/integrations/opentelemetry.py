"""Traces for OpenTelemetry: a span around each push and each run, and the push's context in the run."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from aiotaskq.app.taskq import TaskQ
from aiotaskq.core.errors import missing
from aiotaskq.core.task import Task
from aiotaskq.errors import ValidationError
from aiotaskq.log import printable
from aiotaskq.runtime.context import SnoozeRequested
from aiotaskq.runtime.hooks import HookCall

if TYPE_CHECKING:
    import aiotaskq.sync

try:
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, Span, SpanKind, StatusCode, TracerProvider, get_current_span, get_tracer
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:
    raise missing("opentelemetry-api", "otel") from None

W3C = TraceContextTextMapPropagator()  # without baggage, which may hold data that must not be stored


class Tracing:
    """The spans of one TaskQ: ``Tracing(tq)``, made before its workers start.

    A push is a producer span; its context is stored with each task as W3C ``traceparent`` (and ``tracestate``), in the
    task's ``extra``, on every backend. A run is a consumer span that continues it, in any process and at each retry; a
    task that a schedule has fired begins a trace of its own. Attributes follow OpenTelemetry's semantic
    conventions for messaging. Never params, results or, unless asked for, the texts of errors.
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
            relation: of a run to its push: ``child`` (one trace), or ``link`` (a trace of its own, with a link).
            record_exceptions: record the text and traceback of a handler's error, which may hold secrets. Default only
                its type.

        Raises:
            ValidationError: for another relation.
        """
        if relation not in ("child", "link"):
            raise ValidationError(f"relation: {relation!r} is not one of child, link")
        self._linked = relation == "link"
        self._record = record_exceptions
        start = get_tracer("aiotaskq", tracer_provider=tracer_provider).start_as_current_span
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
        attributes: dict[str, Any] = {"messaging.system": "aiotaskq", "messaging.operation.type": "send"}
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
        links: list[Link] = []
        if self._linked and (pushed := get_current_span(context).get_span_context()).is_valid:
            links, context = [Link(pushed)], Context()
        attributes: dict[str, Any] = {
            "messaging.system": "aiotaskq",
            "messaging.operation.type": "process",
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
            try:
                return await call_next(task)
            except SnoozeRequested:
                span.set_attribute("aiotaskq.snoozed", True)
                raise
            except BaseException as error:
                if key in self._spans:  # else its timeout is recorded already
                    self._failed(span, error)
                raise
            finally:
                self._spans.pop(key, None)

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
            span.set_attribute("error.type", "TimeoutError")
            span.set_status(StatusCode.ERROR, "TimeoutError")
