"""Operations on tasks and queues: push, list, show, cancel, retry, pause, count."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import msgspec

from aiotaskq.core.task import EQUAL, FINAL, Attempt, Status, Task
from aiotaskq.core.validation import MAX_ID, MAX_NAME, check_json, check_key
from aiotaskq.errors import TaskConflict, ValidationError
from aiotaskq.operations.fields import MAX_PAGE
from aiotaskq.operations.hidden import error_filter
from aiotaskq.operations.table import Counted
from aiotaskq.web.changes import EditBody, change_task
from aiotaskq.web.endpoint import ApiResponse, Call, Endpoints, Success, respond
from aiotaskq.web.event_stream import EVENT_STREAM, EventsQuery, event_stream, last_event
from aiotaskq.web.schemas.events import StepList, StepsQuery
from aiotaskq.web.schemas.tasks import (
    PurgeBody,
    PushBody,
    Pushed,
    RetryBody,
    TaskPage,
    TaskQuery,
    TaskState,
    TaskView,
    TaskWhere,
)
from aiotaskq.web.views import body_options, step_view, task_view

tasks = Endpoints("aiotaskq tasks")

ID = "019ab0a4-6f00-7c3a-9d2e-3f6f3f8a2b11"
ERROR = "ConnectionError: the mail server does not answer"
EVENTS = (
    'id: 1\nevent: log\ndata: {"at":"2026-01-31T08:00:14.500000Z","text":"begun"}\n\n'
    'id: 2\ndata: {"token":"Hello"}\n\nid: 2.end\nevent: end\ndata: {"status":"completed"}\n\n'
)
_EXAMPLE = Task(
    task_id=ID,
    type="send_mail",
    status=Status.FAILED,
    retry_count=3,
    created_at=1_769_846_400,
    run_at=1_769_846_414_250_000,
    started_at=1_769_846_414,
    began_at=1_769_846_414_500_000,
    completed_at=1_769_846_415,
    ended_at=1_769_846_415_000_000,
    error_message=ERROR,
    attempts=(
        Attempt(
            number=4, began_at=1_769_846_414_500_000, ended_at=1_769_846_415_000_000, outcome="failed", error=ERROR
        ),
    ),
    params={"to": "you@example.com"},
    idempotency_key="order-17",
    timeout=30.0,
    progress={"done": 1, "total": 2},
    usage={"tokens": 1200, "cost": 0.018},
)
VIEW: dict[str, Any] = msgspec.to_builtins(task_view(_EXAMPLE, one=False, show=False))
SHOWN: dict[str, Any] = msgspec.to_builtins(task_view(_EXAMPLE, one=True, show=True))


@tasks(
    "POST",
    "/tasks",
    Success(201, "Stored; Location is its path", Pushed, {"task_id": ID, "created": True}),
    Success(200, "A key or the id names a task that existed already", Pushed, {"task_id": ID, "created": False}),
    body=PushBody,
    example={"type": "send_mail", "params": {"to": "you@example.com"}, "delay": 60, "idempotency_key": "order-17"},
    problems=(409, 501),
)
async def push_task(call: Call) -> ApiResponse:
    """Push a task.

    Where handlers are registered, only their types are accepted. On a durable store the task is on disk when the
    response is sent. After a broken connection, repeat the push with the same idempotency_key. A task_id that is
    pending or running is the same push; one that has ended is refused (409), or runs again with `rerun`.
    """
    options = {name: value for name, value in body_options(call.body).items() if value is not None}
    kind, params = options.pop("type"), options.pop("params")
    check_json("params", params)  # also for a queue in memory: JSON may be nested too deeply
    handle = await call.tq.push(kind, params, **options)
    if handle.created:
        call.targets.append(handle.task_id)
    location = f"tasks/{quote(handle.task_id, safe='')}"
    return respond(Pushed(handle.task_id, handle.created), 201 if handle.created else 200, Location=location)


@tasks(
    "GET",
    "/tasks",
    Success(200, "One page, the newest first", TaskPage, {"tasks": [VIEW], "next": ID}),
    query=TaskQuery,
    problems=(403, 404),
)
async def list_tasks(call: Call) -> ApiResponse:
    """List tasks, the newest first.

    `cursor` takes the `next` of the page before; 404 if that task has been deleted since.
    """
    query: TaskQuery = call.query
    limit = min(query.limit, MAX_PAGE)
    show = call.may_show("params" in query.show)
    for field, value in (("schedule", query.schedule), ("cursor", query.cursor)):
        if value is not None:
            check_key(field, value, MAX_ID)
    found = await call.tq.find(
        status=query.status or None,
        scheduler_task_id=query.schedule,
        **_where(call, query),
        limit=limit + 1,
        after=query.cursor,
    )
    page = found[:limit]
    more = page[-1].task_id if len(found) > limit else None
    return respond(TaskPage([task_view(task, one=False, show=show) for task in page], more))


@tasks(
    "POST",
    "/tasks/retry",
    Success(200, "Pending again; or, in a dry run, how many would be", Counted, {"count": 17, "dry_run": False}),
    body=RetryBody,
    example={"status": ["failed"], "type": "send_mail", "error": "ConnectionError", "dry_run": True},
)
async def retry_tasks(call: Call) -> ApiResponse:
    """Retry every failed task that matches; with `status` also cancelled or expired ones.

    At least one filter is needed. `dry_run` only counts. Tasks are put back in small transactions: after an error some
    may be pending already, and the same request retries the others.
    """
    where = _filters(call)
    where.setdefault("status", ["failed"])
    if call.body.dry_run:
        return respond(Counted(await call.tq.count(**where), True))
    return respond(Counted(await call.tq.retry_many(**where, progress=call.many), False))


@tasks(
    "POST",
    "/tasks/purge",
    Success(200, "Deleted; or, in a dry run, how many would be", Counted, {"count": 250, "dry_run": True}),
    body=PurgeBody,
    example={"status": ["completed"], "older_than": 86_400.0, "dry_run": True},
)
async def purge_tasks(call: Call) -> ApiResponse:
    """Delete every ended task that matches.

    At least one filter is needed. `dry_run` only counts. Tasks are deleted in small transactions: after an error some
    may be gone already, and the same request deletes the others. The members of a group stay until it has ended.
    """
    where = _filters(call)
    where.setdefault("status", [str(status) for status in Status if status in FINAL])
    if call.body.dry_run:
        return respond(Counted(await call.tq.purge(**where, dry_run=True), True))
    return respond(Counted(await call.tq.purge(**where, progress=call.many), False))


def _filters(call: Call) -> dict[str, Any]:
    """Return the filters that a body sets. Raises ValidationError if there are none, or one is wrong."""
    body: RetryBody | PurgeBody = call.body
    found = {name: value for name, value in body_options(body).items() if name != "dry_run" and value is not None}
    if not found:
        names = ", ".join(name for name in body.__struct_fields__ if name != "dry_run")
        raise ValidationError(f"body: at least one of {names} is needed, or every task would match")
    return {name: value for name, value in found.items() if name != "error"} | _where(call, body)


def _where(call: Call, given: TaskWhere) -> dict[str, Any]:
    """Return the filters that are set, but for the status. Raises ValidationError."""
    found = {name: value for name in TaskWhere.__struct_fields__ if (value := getattr(given, name)) is not None}
    for field in found.keys() & set(EQUAL):
        check_key(field, found[field], MAX_NAME)
    return found | error_filter(found.pop("error", None), call.policy.show_args)


@tasks(
    "POST",
    "/tasks/{task_id}/cancel",
    Success(
        200,
        "Cancelled, or asked to stop if it runs",
        TaskState,
        {"task_id": ID, "status": "cancelled", "cancel_requested": False},
    ),
    problems=(404, 409),
)
async def cancel_task(call: Call) -> ApiResponse:
    """Cancel a pending task, or ask a running one to stop; 409 if it has ended."""
    task_id = check_key("task_id", call.path["task_id"], MAX_ID)
    cancelled = await call.tq.cancel(task_id)
    task = await call.tq.get(task_id)
    if not cancelled:
        raise TaskConflict(f"task {task_id} has ended already: {task.status}")
    return respond(TaskState(task_id, task.status, task.cancel_requested))


@tasks(
    "POST",
    "/tasks/{task_id}/retry",
    Success(200, "Pending again", TaskState, {"task_id": ID, "status": "pending", "cancel_requested": False}),
    problems=(404, 409),
)
async def retry_task(call: Call) -> ApiResponse:
    """Put a failed, cancelled or expired task back, its retries unused; 409 if it is none of these."""
    task_id = check_key("task_id", call.path["task_id"], MAX_ID)
    await call.tq.retry(task_id)
    return respond(TaskState(task_id, Status.PENDING, False))


@tasks(
    "GET",
    "/tasks/{task_id}/steps",
    Success(
        200,
        "The steps, in their order",
        StepList,
        {"steps": [{"kind": "step", "name": "charge", "number": 1, "at": "2026-01-05T09:00:00Z"}]},
    ),
    query=StepsQuery,
    problems=(403, 404),
)
async def list_steps(call: Call) -> ApiResponse:
    """List what the handler of a task has done, slept and waited for; values where the host allows that."""
    query: StepsQuery = call.query
    show = call.may_show("params" in query.show)
    return respond(
        StepList(
            [step_view(each, show) for each in await call.tq.steps(check_key("task_id", call.path["task_id"], MAX_ID))]
        )
    )


@tasks(
    "GET",
    "/tasks/{task_id}/events",
    Success(200, "Server-sent events", Any, EVENTS, EVENT_STREAM),
    Success(204, "The browser has had the last event"),
    query=EventsQuery,
    problems=(403, 404),
)
async def task_events(call: Call) -> ApiResponse:
    """Stream what a task writes with log and emit, as server-sent events, until it has ended.

    What was emitted comes as a message, a line of the log as an event "log", the status as an event "end". After a lost
    connection a browser sends Last-Event-ID, and gets what it has missed. Refused where params are not shown.
    """
    call.may_show(True)
    task_id = check_key("task_id", call.path["task_id"], MAX_ID)
    task = await call.tq.get(task_id)
    seen = last_event(call.headers.get("last-event-id", ""))
    if seen is not None and seen.ended and task.final:
        return respond(status=204)  # it tells a browser not to connect again
    after = call.query.after if seen is None else seen.n
    headers = respond().headers | {"X-Accel-Buffering": "no"}  # a proxy is not to hold events back
    events = event_stream(call.tq.handle(task_id), after, call.is_stopping)
    return ApiResponse(200, None, headers, EVENT_STREAM, stream=events)


@tasks(
    "GET",
    "/tasks/{task_id}",
    Success(200, "The task", TaskView, SHOWN),
    problems=(404,),
)
async def show_task(call: Call) -> ApiResponse:
    """Show a task; with params and result where the host allows it."""
    task = await call.tq.get(check_key("task_id", call.path["task_id"], MAX_ID))
    return respond(task_view(task, one=True, show=call.policy.show_args))


@tasks(
    "PATCH",
    "/tasks/{task_id}",
    Success(200, "The changed task", TaskView, VIEW | {"status": "pending", "error": None, "attempts": []}),
    body=EditBody,
    example={"priority": -1, "delay": 0.0},
    problems=(404, 409),
)
async def edit_task(call: Call) -> ApiResponse:
    """Change a pending task; 409 if it is not pending, waits for other tasks, or has changed meanwhile.

    The params are checked by the handler where it is registered. New params have the limits that the type declares for
    them; 422 where the type of a task with gates is not registered.
    """
    task_id = check_key("task_id", call.path["task_id"], MAX_ID)
    await change_task(call.tq, task_id, call.body)
    return respond(task_view(await call.tq.get(task_id), one=True, show=call.policy.show_args))


@tasks("DELETE", "/tasks/{task_id}", Success(204, "Deleted"), problems=(404, 409))
async def delete_task(call: Call) -> ApiResponse:
    """Delete an ended task; 409 if it has not ended."""
    await call.tq.delete(check_key("task_id", call.path["task_id"], MAX_ID))
    return respond(status=204)
