"""Every endpoint of the API: those of the operations in the table, the stream of a task, and the probes."""

from __future__ import annotations

import re
import signal
from collections.abc import AsyncGenerator, Callable, Collection
from typing import Annotated, Any, Literal
from urllib.parse import quote

import msgspec
from starlette.responses import Response, StreamingResponse

from aiotaskq.app.handle import TaskHandle
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.errors import MAX_ID, check_key
from aiotaskq.core.instants import to_iso
from aiotaskq.core.notes import LogEntry
from aiotaskq.core.task import SECOND
from aiotaskq.errors import DatabaseUnavailable, NotFound, ValidationError
from aiotaskq.operations import examples, table
from aiotaskq.operations.everything import NOUNS
from aiotaskq.operations.tasks import TaskId
from aiotaskq.web.endpoint import HEADERS, Call, Endpoint, Success, respond
from aiotaskq.web.policy import actor_of
from aiotaskq.web.problem_details import status_of

# ---- the operations: method and path by the verb, schemas by the parameters ----

METHODS = {
    "list": "GET",
    "get": "GET",
    "set": "PUT",
    "add": "POST",
    "push": "POST",
    "edit": "PATCH",
    "update": "PATCH",
    "delete": "DELETE",
}
"""Methods of the verbs that are no part of the path; the others are, and are POST where they change something."""


def endpoints_of(operations: table.Operations) -> list[Endpoint]:
    """Return the endpoints of the operations on one kind of thing."""
    found = [_endpoint(each) for each in operations.values()]
    # The name of a thing may be any text: first the paths without one, at last those that end with one.
    return sorted(found, key=lambda endpoint: ("{" in endpoint.path, endpoint.path.endswith("}")))


def _endpoint(operation: table.Operation) -> Endpoint:
    method = METHODS.get(operation.verb, "POST" if operation.changes else "GET")
    path = f"/{operation.noun}"
    verb = "" if operation.verb in METHODS else f"/{operation.verb.removesuffix(table.MANY)}"
    if operation.thing is not None:
        path += f"/{{{operation.thing}}}{verb}"
    elif method == "GET":  # behind the noun it would hide the thing of that name
        path = f"{verb}{path}"
    else:
        path += verb
    fields = {each.name: each for each in msgspec.structs.fields(operation.params)}
    thing = None if operation.thing is None else fields.pop(operation.thing)
    name = "".join(part.title() for part in re.split("[._]", operation.name))
    schema = table.struct_of(name, list(fields.values()), operation.params.__doc__) if fields else None

    async def run(call: Call) -> Response:
        given = call.body if operation.changes else call.query
        sent = {} if given is None else msgspec.structs.asdict(given)
        sent = {name: value for name, value in sent.items() if value is not msgspec.UNSET}
        values = {**call.request.path_params, **sent}
        access = table.Access(call.tq, call.policy.show_args)
        params = table.read(operation, values)
        actor = await actor_of(call.policy.actor, call.request) if operation.changes else ""
        found = await table.perform(operation, access, params, "api", actor)
        if not operation.adds:
            return respond(found)
        location = f"{operation.noun}/{quote(msgspec.structs.astuple(found)[0], safe='')}"
        return respond(found, 201 if getattr(found, "created", True) else 200, Location=location)

    run.__doc__ = operation.run.__doc__
    return Endpoint(
        name=operation.name,
        method=method,
        path=path,
        tag=f"aiotaskq {operation.noun}",
        run=run,
        thing=str if thing is None else thing.type,
        query=None if operation.changes else schema,
        body=schema if operation.changes else None,
        example=examples.given(operation),
        successes=_successes(operation, examples.answer(operation)),
        own_problems=tuple(status_of(each) for each in operation.raises),
    )


def _successes(operation: table.Operation, example: Any) -> tuple[Success, ...]:
    kind = operation.answer
    said = (kind.__doc__ or "").partition(".")[0]
    if not operation.adds:
        return (Success(200, said, kind, example),)
    made = Success(201, f"{said}; Location is its path", kind, example)
    if "created" not in kind.__struct_fields__:
        return (made,)
    return made, Success(200, "It existed already", kind, example | {"created": False})


# ---- what a task writes, as server-sent events, and the ids by which a browser goes on after a lost connection ----

EVENT_STREAM = "text/event-stream"
BEAT = 1.0  # seconds after which a comment is sent: proxies keep the connection, and a stop of the server is noticed
LONGEST = 300.0  # seconds of one response: then the browser connects again, and is let in again or not
RETRY = b"retry: 1000\n\n"  # milliseconds after which a browser connects again
_ENDED = ".end"
_LAST = re.compile(r"([0-9]{1,18})(\.end)?")


class EventsQuery(msgspec.Struct):
    """From where a task is followed."""

    after: Annotated[
        int, msgspec.Meta(ge=0, le=2**31 - 1, description="The number of the last event that is known")
    ] = 0


async def event_stream(handle: TaskHandle[Any], after: int, is_stopping: Callable[[], bool]) -> AsyncGenerator[bytes]:
    """Yield the notes of a task, and its end, as events.

    It stops early where the store cannot be reached, and where ``is_stopping`` says that the server waits for its end.
    """
    clock = SystemClock()
    until = clock.ticks() + int(LONGEST * SECOND)
    yield RETRY
    while (left := until - clock.ticks()) > 0 and not is_stopping():
        try:
            notes = await handle.next_log(after, timeout=min(BEAT, left / SECOND))
        except NotFound:
            yield _event(f"{after}{_ENDED}", "end", b'{"status":null}')
            return
        except DatabaseUnavailable:
            return  # the browser connects again
        yield b"".join(map(_event_of, notes)) or b": \n\n"
        for note in notes:
            if note.kind == "end":
                return
            after = note.n


def _event_of(note: LogEntry) -> bytes:
    match note.kind:
        case "data":
            return _event(str(note.n), None, note.text.encode())
        case "end":
            return _event(f"{note.n}{_ENDED}", "end", msgspec.json.encode({"status": note.text}))
        case _:
            return _event(str(note.n), "log", msgspec.json.encode({"at": to_iso(note.at), "text": note.text}))


def _event(id: str, name: str | None, data: bytes) -> bytes:
    # JSON of one line; data that cannot be decoded any more may be anything. Each of these ends a line of an event.
    lines = b"\ndata: ".join(re.split(rb"\r\n?|\n", data))
    kind = b"" if name is None else b"event: " + name.encode() + b"\n"
    return b"id: " + id.encode() + b"\n" + kind + b"data: " + lines + b"\n\n"


EVENTS = (
    'id: 1\nevent: log\ndata: {"at":"2026-01-31T08:00:14.500000Z","text":"begun"}\n\n'
    'id: 2\ndata: {"token":"Hello"}\n\nid: 2.end\nevent: end\ndata: {"status":"completed"}\n\n'
)


async def task_stream(call: Call) -> Response:
    """Stream what a task writes with log and stream, as server-sent events, until it has ended.

    What was streamed comes as a message, a line of the log as an event "log", the status as an event "end". After a
    lost connection a browser sends Last-Event-ID, and gets what it has missed. Refused where params are not shown.
    """
    table.Access(call.tq, call.policy.show_args).may_show(True)
    task_id = check_key("task_id", call.request.path_params["task_id"], MAX_ID)
    task = await call.tq.get(task_id)
    seen = _LAST.fullmatch(call.request.headers.get("last-event-id", ""))  # None for an id of another server
    after = call.query.after if seen is None else int(seen[1])
    if seen is not None and seen[2] and task.final:
        return respond(status=204)  # it tells a browser not to connect again
    headers = HEADERS | {"X-Accel-Buffering": "no"}  # a proxy is not to hold events back
    if call.request.method == "HEAD":  # Starlette routes it here, and would wait for the end of the stream
        return Response(None, 200, headers, EVENT_STREAM)
    stopping = call.request.scope.get("aiotaskq.stopping", _is_stopping)
    return StreamingResponse(event_stream(call.tq.handle(task_id), after, stopping), 200, headers, EVENT_STREAM)


def _is_stopping() -> bool:
    # uvicorn tells an application of its stop only when all responses have ended; its signal handler is a method.
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return getattr(server, "should_exit", False) is True


# ---- probes: liveness and readiness ----


class Health(msgspec.Struct):
    """Whether this process can do its work, and which part of it cannot."""

    status: Literal["ok", "failing"]
    parts: dict[str, Literal["ok", "failing"]]


async def healthz(call: Call) -> Response:
    """Liveness: the process answers; nothing else is checked."""
    return respond(Health("ok", {}))


async def readyz(call: Call) -> Response:
    """Readiness: whether the store answers, and whether this process's workers and scheduler work."""
    parts = {name: "ok" if problem is None else "failing" for name, problem in (await call.tq.health()).items()}
    ready = all(state == "ok" for state in parts.values())
    return respond(Health("ok" if ready else "failing", parts), 200 if ready else 503)  # type: ignore[arg-type]


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        name="tasks.stream",
        path="/tasks/{task_id}/stream",
        tag="aiotaskq tasks",
        run=task_stream,
        thing=TaskId,
        query=EventsQuery,
        successes=(
            Success(200, "Server-sent events", Any, EVENTS, EVENT_STREAM),
            Success(204, "The browser has had the last event"),
        ),
        own_problems=(403,),
    ),
    *(each for nouns in NOUNS for each in endpoints_of(nouns)),
    Endpoint(
        name="healthz",
        path="/healthz",
        tag="aiotaskq health",
        run=healthz,
        successes=(Success(200, "The process answers", Health, {"status": "ok", "parts": {}}),),
        public=True,
    ),
    Endpoint(
        name="readyz",
        path="/readyz",
        tag="aiotaskq health",
        run=readyz,
        successes=(
            Success(200, "Ready", Health, {"status": "ok", "parts": {"store": "ok", "workers": "ok"}}),
            Success(503, "Not ready", Health, {"status": "failing", "parts": {"store": "failing"}}),
        ),
        public=True,
    ),
)


def selected(names: Collection[str] | None) -> tuple[Endpoint, ...]:
    """Return the endpoints of these names; None selects all. Raises ValidationError for an unknown name."""
    if names is None:
        return ENDPOINTS
    known = {each.name for each in ENDPOINTS}
    if isinstance(names, str) or (unknown := sorted(set(names) - known)):
        what = repr(names) if isinstance(names, str) else ", ".join(unknown)
        raise ValidationError(f"operations: a list of {', '.join(sorted(known))} is needed (got {what:.60})")
    return tuple(each for each in ENDPOINTS if each.name in names)
