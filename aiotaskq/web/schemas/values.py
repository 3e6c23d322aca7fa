"""The JSON schemas of the public store."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from aiotaskq.web.schemas.fields import Cursor, Limit


class ValueBody(Struct, forbid_unknown_fields=True):
    """A public value to be stored."""

    value: Any
    ttl: Annotated[float, Meta(gt=0, description="Seconds; null: for ever; left out: as before")] | UnsetType | None = (
        UNSET
    )


class PageQuery(Struct):
    """Which page of a list is wanted."""

    limit: Limit = 100
    cursor: Cursor | None = None


class KeyPage(Struct):
    """One page of the keys of the public store, sorted."""

    keys: list[str]
    next: str | None


class Value(Struct):
    """A public value."""

    key: str
    value: Any
    ttl: Annotated[float | None, Meta(description="The seconds that it has left; null: for ever")] = None
