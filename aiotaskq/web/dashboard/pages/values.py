"""Public values: their keys, and one value where values may be shown; they are set and deleted here."""

from __future__ import annotations

import math
from typing import Any

from aiotaskq.core.errors import check_json
from aiotaskq.core.instants import to_iso
from aiotaskq.core.task import SECOND
from aiotaskq.errors import ValidationError
from aiotaskq.operations.values import look
from aiotaskq.operations.values import values as operations
from aiotaskq.web.dashboard.rows import json_text
from aiotaskq.web.dashboard.view import View, action, json_of, number, page
from aiotaskq.web.dashboard.words import marked

ROWS = 100


@page("values", marked("Public values"), "prefix", "after")
async def values(view: View) -> dict[str, Any]:
    """Read one page of the live keys."""
    prefix, after = view.text("prefix") or "", view.text("after")
    found = await view.tq.queue.backend.values.page(view.now, ROWS + 1, prefix=prefix, after=after)
    return {
        "keys": [{"key": key, "expires": to_iso(until)} for key, until in found[:ROWS]],
        "total": await view.tq.values.get_store_size(),
        "prefix": prefix,
        "more": found[ROWS - 1][0] if len(found) > ROWS else None,
    }


@page("value", marked("Value"), "key", section="values")
async def value(view: View) -> dict[str, Any]:
    """Read one value."""
    key = view.needed("key")
    there, found = await look(view.tq, key)
    left = await view.tq.values.get_ttl(key)
    until = None if left is None else view.now + round(left * SECOND)
    return {
        "key": key,
        "there": there,
        "value": json_text(found) if view.show_args else None,
        "exact": view.show_args and _is_json(found),
        "ttl": "" if left is None else str(math.ceil(left)),  # as a form takes it
        "until": until,
        "expires": to_iso(until),
    }


def _is_json(value: Any) -> bool:
    """Return whether the text of a value is all of it; a store in memory may hold other objects."""
    try:
        check_json("value", value)
    except ValidationError:
        return False
    return True


def _given(view: View) -> dict[str, Any]:
    """Return a value and its time to live; where the seconds were not edited it expires when it would have."""
    text, until = view.text("ttl"), view.text("until")
    ttl = None if text is None else number("ttl", text)
    if until is not None and text is not None and text == view.text("shown"):
        ttl = (number("until", until) - view.now) / SECOND
        if ttl <= 0:
            raise ValidationError("ttl: the value has expired meanwhile; give another time to live, or none")
    return {"key": view.needed("key"), "value": json_of("value", view.needed("value")), "ttl": ttl}


action(operations["set"], marked("The value of {key} is stored."), form="value", values=_given)
action(operations["delete"], marked("The value of {key} is deleted."), asks=True)
