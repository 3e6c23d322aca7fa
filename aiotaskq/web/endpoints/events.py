"""Operations on events, for which handlers wait: list, emit, show."""

from __future__ import annotations

from msgspec import UNSET

from aiotaskq.core.instants import to_iso
from aiotaskq.core.steps import EventValue
from aiotaskq.core.validation import MAX_KEY, check_key
from aiotaskq.errors import NotFound
from aiotaskq.operations.fields import MAX_PAGE
from aiotaskq.operations.hidden import plain
from aiotaskq.web.endpoint import ApiResponse, Call, Endpoints, Success, respond
from aiotaskq.web.schemas.events import (
    Emitted,
    EventBody,
    EventPage,
    EventQuery,
    EventView,
    StepsQuery,
)

events = Endpoints("aiotaskq events")

AT = "2026-01-05T09:00:00Z"
EXAMPLE = {"key": "approved:17", "at": AT, "expires_at": "2026-02-04T09:00:00Z"}


@events(
    "GET",
    "/events",
    Success(200, "One page, by their keys", EventPage, {"events": [EXAMPLE], "next": None}),
    query=EventQuery,
)
async def list_events(call: Call) -> ApiResponse:
    """List the events that were emitted, sorted by their keys; their values where the host allows that."""
    query: EventQuery = call.query
    show, limit = call.may_show("params" in query.show), min(query.limit, MAX_PAGE)
    found = await call.tq.list_events(query.prefix, limit + 1, query.cursor)
    page = [_event_view(each, show) for each in found[:limit]]
    return respond(EventPage(page, page[-1].key if len(found) > limit else None))


@events(
    "POST",
    "/events/{key}",
    Success(200, "Emitted, or there already", Emitted, {"key": "approved:17", "emitted": True}),
    body=EventBody,
    example={"value": {"by": "boss"}},
)
async def emit_event(call: Call) -> ApiResponse:
    """Emit an event: the tasks that wait for it go on. The first value of a key stays."""
    body: EventBody = call.body
    key = check_key("key", call.path["key"], MAX_KEY)
    options = {} if body.expires is UNSET else {"expires": body.expires}
    return respond(Emitted(key, await call.tq.emit(key, body.value, **options)))


@events(
    "GET",
    "/events/{key}",
    Success(200, "The event", EventView, EXAMPLE),
    query=StepsQuery,
    problems=(403, 404),
)
async def get_event(call: Call) -> ApiResponse:
    """Show one event, and its value where the host allows that; 404 if it was not emitted, or has expired."""
    query: StepsQuery = call.query
    key = check_key("key", call.path["key"], MAX_KEY)
    show = call.may_show("params" in query.show)
    event = await call.tq.get_event(key)
    if event is None:
        raise NotFound(f"there is no event {key}")
    return respond(_event_view(event, show))


def _event_view(event: EventValue, show: bool) -> EventView:
    at, expires_at = to_iso(event.at) or "", to_iso(event.expires_at)
    if event.undecodable is not None:
        return EventView(event.key, at, expires_at, undecodable=event.undecodable)
    return EventView(event.key, at, expires_at, plain(event.value) if show else UNSET)
