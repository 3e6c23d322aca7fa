"""The stream of what a task writes; the operations on tasks are in the table."""

from __future__ import annotations

from typing import Any

from aiotaskq.core.validation import MAX_ID, check_key
from aiotaskq.operations.table import Access
from aiotaskq.operations.tasks import TaskId
from aiotaskq.web.endpoint import Call, Response, Success, get, respond
from aiotaskq.web.event_stream import EVENT_STREAM, EventsQuery, event_stream, last_event

EVENTS = (
    'id: 1\nevent: log\ndata: {"at":"2026-01-31T08:00:14.500000Z","text":"begun"}\n\n'
    'id: 2\ndata: {"token":"Hello"}\n\nid: 2.end\nevent: end\ndata: {"status":"completed"}\n\n'
)


@get(
    "/tasks/{task_id}/stream",
    "aiotaskq tasks",
    Success(200, "Server-sent events", Any, EVENTS, EVENT_STREAM),
    Success(204, "The browser has had the last event"),
    name="tasks.stream",
    thing=TaskId,
    query=EventsQuery,
    own_problems=(403,),
)
async def task_stream(call: Call) -> Response:
    """Stream what a task writes with log and stream, as server-sent events, until it has ended.

    What was streamed comes as a message, a line of the log as an event "log", the status as an event "end". After a
    lost connection a browser sends Last-Event-ID, and gets what it has missed. Refused where params are not shown.
    """
    Access(call.tq, call.policy.show_args).may_show(True)
    task_id = check_key("task_id", call.request.path["task_id"], MAX_ID)
    task = await call.tq.get(task_id)
    seen = last_event(call.request.headers.get("last-event-id", ""))
    if seen is not None and seen.ended and task.final:
        return respond(status=204)  # it tells a browser not to connect again
    after = call.query.after if seen is None else seen.n
    headers = respond(X_Accel_Buffering="no").headers  # a proxy is not to hold events back
    events = event_stream(call.tq.handle(task_id), after, call.request.is_stopping)
    return Response(200, None, headers, EVENT_STREAM, stream=events)
