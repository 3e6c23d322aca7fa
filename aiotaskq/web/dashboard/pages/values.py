"""The public key-value store: its keys, and one value where values may be shown; they are set and deleted here."""

from __future__ import annotations

import math

import msgspec

from aiotaskq.core.instants import to_iso
from aiotaskq.core.task import SECOND
from aiotaskq.core.validation import check_json
from aiotaskq.errors import NotFound, ValidationError
from aiotaskq.web.dashboard.fields import json_of, number
from aiotaskq.web.dashboard.rows import json_text
from aiotaskq.web.dashboard.view import Change, Done, Question, View, actions, done, link, pages
from aiotaskq.web.dashboard.words import marked

ROWS = 100


class Values(msgspec.Struct, kw_only=True):
    """The data of the page."""

    keys: list[str]
    total: int
    prefix: str
    """The filter: only keys that begin so."""
    more: str | None
    """The last key where there are more behind it."""


@pages("values", marked("Public store"), "prefix", "after")
async def values(view: View) -> Values:
    """Read one page of the live keys."""
    prefix, after = view.text("prefix") or "", view.text("after")
    found = await view.tq.store.find_keys(prefix, after=after, limit=ROWS + 1)
    page = found[:ROWS]
    total = await view.tq.store.get_store_size()
    return Values(keys=page, total=total, prefix=prefix, more=page[-1] if len(found) > ROWS else None)


class Value(msgspec.Struct, kw_only=True):
    """The data of one value's page."""

    key: str
    there: bool
    """Whether there is a live value, which may also be null."""
    value: str | None
    """As JSON; None where it is not shown."""
    ttl: str
    """The seconds that it has left, as a form takes them; "" for ever."""
    until: int | None
    """When it expires, in microseconds UTC; None for never."""
    expires: str | None
    """The same, RFC 3339."""


@pages("value", marked("Value"), "key", section="values")
async def value(view: View) -> Value:
    """Read one value."""
    key = view.needed("key")
    found = await view.tq.store.get_public(key)
    left = await view.tq.store.get_ttl(key)
    until = None if left is None else view.now + round(left * SECOND)
    return Value(
        key=key,
        there=found is not None,
        value=json_text(found) if view.show_args else None,
        ttl="" if left is None else str(math.ceil(left)),
        until=until,
        expires=to_iso(until),
    )


@actions("set-value", form="value")
async def set_value(change: Change) -> Done:
    """Store a value, for ever or for some seconds; where the seconds were not edited it expires when it would have."""
    key, text, until = change.needed("key"), change.text("ttl"), change.text("until")
    found = json_of("value", change.needed("value"))
    ttl = None if text is None else number("ttl", text)
    if until is not None and text is not None and text == change.text("shown"):
        ttl = (number("until", until) - change.now) / SECOND
        if ttl <= 0:
            raise ValidationError("ttl: the value has expired meanwhile; give another time to live, or none")
    check_json("value", found)
    await change.tq.store.set_public(key, found, ttl)
    return done(marked("The value of {key} is stored."), link("value", key=key), key=key)


@actions("delete-value")
async def delete_value(change: Change) -> Question | Done:
    """Delete a value."""
    key = change.needed("key")
    if not change.sure:
        text = marked("Delete the value of {key}? This cannot be undone.")
        return Question(text, {"key": key}, marked("Delete the value"), link("value", key=key))
    if not await change.tq.store.delete_public(key):
        raise NotFound(f"there is no value under {key}")
    return done(marked("The value of {key} is deleted."), "values", key=key)
