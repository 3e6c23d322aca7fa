"""Operations on events, for which handlers wait: list, get, emit."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Struct

from aiotaskq.core.steps import EventValue
from aiotaskq.core.validation import MAX_KEY, check_key
from aiotaskq.errors import NotFound
from aiotaskq.log import printable
from aiotaskq.operations.fields import MAX_PAGE, ByKey, Key, Nullable, Time, about, view_of
from aiotaskq.operations.hidden import plain
from aiotaskq.operations.table import Access, Operations

events = Operations("events")
EventKey = Annotated[Key, about("The key of an event")]


class Named(Struct, forbid_unknown_fields=True):
    """An event."""

    key: EventKey


class Given(Struct, forbid_unknown_fields=True):
    """An event to be stored."""

    key: EventKey
    value: Annotated[Any, about("The value, as JSON")] = None
    expires: Nullable[Annotated[float, about("After how many seconds it is deleted; default 30 days", gt=0)]] = UNSET


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
async def get(access: Access, given: Named) -> EventView:
    """Show one event, and its value where that is allowed; not found if it was not emitted, or has expired."""
    event = await access.tq.get_event(check_key("key", given.key, MAX_KEY))
    if event is None:
        raise NotFound(f"there is no event {printable(given.key)}")
    return _view(event, access.show_args)


@events(changes=True, thing="key", may_change_nothing=True)
async def emit(access: Access, given: Given) -> Emitted:
    """Emit an event: the tasks that wait for it go on. The first value of a key stays."""
    options = {} if given.expires is UNSET else {"expires": given.expires}
    emitted = await access.tq.emit(check_key("key", given.key, MAX_KEY), given.value, **options)
    access.changed.extend([given.key] if emitted else [])
    return Emitted(given.key, emitted)


def _view(event: EventValue, show: bool) -> EventView:
    return view_of(EventView, event, value=plain(event.value) if show and event.undecodable is None else UNSET)
