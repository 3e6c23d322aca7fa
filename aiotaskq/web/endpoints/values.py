"""Operations on the public store: its keys, and its values where the host allows that."""

from __future__ import annotations

from bisect import bisect_right
from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from aiotaskq.core.validation import MAX_KEY, check_json, check_key
from aiotaskq.errors import NotFound
from aiotaskq.operations.fields import MAX_PAGE, Cursor, Limit
from aiotaskq.operations.hidden import plain
from aiotaskq.web.endpoint import ApiResponse, Call, Endpoints, Success, respond


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


values = Endpoints("aiotaskq store")


def _key(call: Call) -> str:
    return check_key("key", call.path["key"], MAX_KEY)


@values(
    "GET",
    "/store",
    Success(200, "One page, sorted", KeyPage, {"keys": ["cookie", "rate:eur"], "next": None}),
    query=PageQuery,
)
async def list_keys(call: Call) -> ApiResponse:
    """List the live keys of the public store, sorted; values are never listed."""
    query: PageQuery = call.query
    keys = sorted(str(key) for key in await call.tq.store.list_keys())  # in memory a key need not be a string
    start = 0 if query.cursor is None else bisect_right(keys, query.cursor)
    limit = min(query.limit, MAX_PAGE)
    page = keys[start : start + limit]
    return respond(KeyPage(page, page[-1] if len(keys) > start + limit else None))


@values(
    "GET",
    "/store/{key}",
    Success(200, "The value", Value, {"key": "rate:eur", "value": 1.08, "ttl": 3600.0}),
    problems=(403, 404),
)
async def get_value(call: Call) -> ApiResponse:
    """Read a public value, where the host allows it; 404 if it is missing, expired or null."""
    key = _key(call)
    call.may_show(True)
    value = await call.tq.store.get_public(key)
    if value is None:
        raise NotFound(f"there is no value under {key}")
    return respond(Value(key, plain(value), await call.tq.store.get_ttl(key)))


@values(
    "PUT",
    "/store/{key}",
    Success(204, "Stored"),
    body=ValueBody,
    example={"value": 1.08, "ttl": 3600},
)
async def set_value(call: Call) -> ApiResponse:
    """Store a public value for `ttl` seconds, or for ever; without `ttl` one that is there keeps its time to live."""
    body: ValueBody = call.body
    check_json("value", body.value)
    if body.ttl is UNSET:
        await call.tq.store.edit_public(_key(call), body.value)
    else:
        await call.tq.store.set_public(_key(call), body.value, body.ttl)
    return respond(status=204)


@values("DELETE", "/store/{key}", Success(204, "Deleted"), problems=(404,))
async def delete_value(call: Call) -> ApiResponse:
    """Delete a public value."""
    if not await call.tq.store.delete_public(_key(call)):
        raise NotFound(f"there is no value under {_key(call)}")
    return respond(status=204)
