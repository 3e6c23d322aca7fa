"""Operations on the public store: its keys, and where the host allows it the values."""

from __future__ import annotations

from bisect import bisect_right

from aiotaskq.core.task import MAX_KEY, check_json, check_key
from aiotaskq.errors import NotFound
from aiotaskq.web.operation import Answer, Call, Good, Operations, say
from aiotaskq.web.schemas import MAX_PAGE, KeyPage, PageQuery, Value, ValueBody, plain

values = Operations("store")


def _key(call: Call) -> str:
    return check_key("key", call.path["key"], MAX_KEY)


@values(
    "GET",
    "/store",
    Good(200, "One page, sorted", KeyPage, {"keys": ["cookie", "rate:eur"], "next": None}),
    query=PageQuery,
)
async def list_keys(call: Call) -> Answer:
    """List the live keys of the public store, sorted; values are never listed."""
    query: PageQuery = call.query
    keys = sorted(str(key) for key in await call.tq.store.list_keys())  # in memory a key need not be a string
    start = 0 if query.cursor is None else bisect_right(keys, query.cursor)
    limit = min(query.limit, MAX_PAGE)
    page = keys[start : start + limit]
    return say(KeyPage(page, page[-1] if len(keys) > start + limit else None))


@values("GET", "/store/{key}", Good(200, "The value", Value, {"key": "rate:eur", "value": 1.08}), refuses=(403, 404))
async def get_value(call: Call) -> Answer:
    """Read a public value, where the host allows it; 404 if it is missing, expired or null."""
    key = _key(call)
    call.may_show(True)
    value = await call.tq.store.get_public(key)
    if value is None:
        raise NotFound(f"there is no value under {key}")
    return say(Value(key, plain(value)))


@values(
    "PUT",
    "/store/{key}",
    Good(204, "It is stored"),
    body=ValueBody,
    example={"value": 1.08, "ttl": 3600},
)
async def set_value(call: Call) -> Answer:
    """Store a public value, for ever or for `ttl` seconds."""
    body: ValueBody = call.body
    check_json("value", body.value)
    await call.tq.store.set_public(_key(call), body.value, body.ttl)
    return say(status=204)


@values("DELETE", "/store/{key}", Good(204, "It is gone"), refuses=(404,))
async def delete_value(call: Call) -> Answer:
    """Delete a public value."""
    if not await call.tq.store.delete_public(_key(call)):
        raise NotFound(f"there is no value under {_key(call)}")
    return say(status=204)
