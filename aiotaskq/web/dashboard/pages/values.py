"""Public values: their keys, and one value where values may be shown; they are set and deleted here."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from aiotaskq.core.instants import to_iso
from aiotaskq.core.task import SECOND
from aiotaskq.errors import ValidationError
from aiotaskq.operations.values import look
from aiotaskq.operations.values import values as operations
from aiotaskq.web.dashboard.door import action
from aiotaskq.web.dashboard.fields import json_of, number
from aiotaskq.web.dashboard.rows import json_text
from aiotaskq.web.dashboard.view import Change, View, link, pages
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


@pages("values", marked("Public values"), "prefix", "after")
async def values(view: View) -> Values:
    """Read one page of the live keys."""
    prefix, after = view.text("prefix") or "", view.text("after")
    found = await view.tq.values.find_keys(prefix, after=after, limit=ROWS + 1)
    page = found[:ROWS]
    total = await view.tq.values.get_store_size()
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
    there, found = await look(view.tq, key)
    left = await view.tq.values.get_ttl(key)
    until = None if left is None else view.now + round(left * SECOND)
    return Value(
        key=key,
        there=there,
        value=json_text(found) if view.show_args else None,
        ttl="" if left is None else str(math.ceil(left)),
        until=until,
        expires=to_iso(until),
    )


def _given(change: Change) -> dict[str, Any]:
    """Return a value and its time to live; where the seconds were not edited it expires when it would have."""
    text, until = change.text("ttl"), change.text("until")
    ttl = None if text is None else number("ttl", text)
    if until is not None and text is not None and text == change.text("shown"):
        ttl = (number("until", until) - change.now) / SECOND
        if ttl <= 0:
            raise ValidationError("ttl: the value has expired meanwhile; give another time to live, or none")
    return {"key": change.needed("key"), "value": json_of("value", change.needed("value")), "ttl": ttl}


action(
    operations["set"],
    lambda _, key: link("value", key=key),
    marked("The value of {key} is stored."),
    form="value",
    values=_given,
)
action(
    operations["delete"],
    lambda change, key: "values" if change.sure else link("value", key=key),
    marked("The value of {key} is deleted."),
    question=marked("Delete the value of {key}? This cannot be undone."),
    button=marked("Delete the value"),
)
