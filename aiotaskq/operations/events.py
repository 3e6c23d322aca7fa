"""Operations on events, for which handlers wait: list, get, emit."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Struct

from aiotaskq.core.steps import EventValue
from aiotaskq.errors import NotFound
from aiotaskq.log import printable
from aiotaskq.operations.fields import MAX_PAGE, ByKey, Key, Nullable, Time, about, view_of
from aiotaskq.operations.hidden import plain
from aiotaskq.operations.table import Access, Operations

events = Operations("events")
EventKey = Annotated[Key, about("The key of an event")]


class EventView(Struct, omit_defaults=True):
    """An event."""

    key: str
    at: Time
    expires_at: Time | None
    value: Any = UNSET
    undecodable: Annotated[str | None, about("The error of the codec, where it cannot be decoded")] = None


class EventPage(Struct):
    """One page of the events, by their keys."""

    events: list[EventView]
    next: str | None


class Emitted(Struct):
    """What came of an event."""

    key: str
    emitted: Annotated[bool, about("False: there was one of this key already, which stays")]


@events()
async def list_(access: Access, given: ByKey) -> EventPage:
    """List the events that were emitted and have not expired, sorted by their keys; values are never listed."""
    limit = min(given.limit, MAX_PAGE)
    found = await access.tq.list_events(given.prefix, limit + 1, given.cursor)
    page = [_view(each, False) for each in found[:limit]]
    return EventPage(page, page[-1].key if len(found) > limit else None)


@events(thing="key")
async def get(access: Access, key: EventKey) -> EventView:
    """Show one event, and its value where that is allowed; not found if it was not emitted, or has expired."""
    event = await access.tq.get_event(key)
    if event is None:
        raise NotFound(f"there is no event {printable(key)}")
    return _view(event, access.show_args)


@events(changes=True, thing="key", may_change_nothing=True)
async def emit(
    access: Access,
    key: EventKey,
    value: Annotated[Any, about("The value, as JSON")] = None,
    expires: Nullable[Annotated[float, about("After how many seconds it is deleted; default 30 days", gt=0)]] = UNSET,
) -> Emitted:
    """Emit an event: the tasks that wait for it go on. The first value of a key stays."""
    options = {} if expires is UNSET else {"expires": expires}
    emitted = await access.tq.emit(key, value, **options)
    access.changed.extend([key] if emitted else [])
    return Emitted(key, emitted)


def _view(event: EventValue, show: bool) -> EventView:
    return view_of(EventView, event, value=plain(event.value) if show and event.undecodable is None else UNSET)
