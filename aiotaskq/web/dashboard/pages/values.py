"""The public key-value store: its keys, and one value where values may be shown."""

from __future__ import annotations

from bisect import bisect_left

import msgspec

from aiotaskq.web.dashboard.pages.task import json_text
from aiotaskq.web.dashboard.view import View, pages
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
    found = [str(key) for key in await view.tq.store.list_keys()]
    prefix, after = view.text("prefix") or "", view.text("after")
    known = sorted(key for key in found if key.startswith(prefix))
    start = 0 if after is None else bisect_left(known, after + "\0")
    page = known[start : start + ROWS]
    more = page[-1] if len(known) > start + ROWS else None
    return Values(keys=page, total=len(found), prefix=prefix, more=more)


class Value(msgspec.Struct, kw_only=True):
    """The data of one value's page."""

    key: str
    there: bool
    """Whether there is a live value, which may also be null."""
    value: str | None
    """As JSON; None where it is not shown."""


@pages("value", marked("Value"), "key", section="values")
async def value(view: View) -> Value:
    """Read one value."""
    key = view.needed("key")
    found = await view.tq.store.get_public(key)
    return Value(key=key, there=found is not None, value=json_text(found) if view.show_args else None)
