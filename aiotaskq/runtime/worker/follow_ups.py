"""The tasks that are pushed with the write that ends a task: what its push asked for, and messages of webhooks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiotaskq.core.parent import PARENT, Parent
from aiotaskq.core.task import Status, Task, TaskOfObjects, new_task, run_options
from aiotaskq.core.webhooks import Webhook, messages
from aiotaskq.errors import ValidationError
from aiotaskq.log import log, named, printable
from aiotaskq.runtime.handler import Handler

_TRACE = ("traceparent", "tracestate")  # https://www.w3.org/TR/trace-context/


def follow_ups(
    after: Task, handlers: Mapping[str, Handler], webhooks: Mapping[str, Webhook], now: int
) -> tuple[Task, ...]:
    """Return the tasks to push in the transaction that writes this ended task; ``now`` in microseconds."""
    told = tuple(messages(webhooks, after, now)) if webhooks and after.final else ()
    name = {Status.COMPLETED: after.on_success, Status.FAILED: after.on_failure}.get(after.status)
    if not isinstance(name, str):
        return told
    parent = Parent(after.task_id, after.type, after.result, after.error_message)
    params = {PARENT: parent if isinstance(after, TaskOfObjects) else parent.as_params()}
    handler = handlers.get(name)
    options: dict[str, Any] = {} if handler is None else run_options(handler.template)
    trace = {key: value for key, value in after.extra.items() if key in _TRACE}  # it belongs to the same trace
    task = new_task(name, params, now=now, extra=trace, kind=type(after), **options)
    if handler is not None and handler.gating is not None:
        try:
            task = handler.gating.gated(task)
        except ValidationError as error:  # it is pushed without gates: to refuse it would undo the end of its task
            log.error("the follow-up {} of {} passes no limit: {}", printable(name), named(after), error)
    return (task, *told)
