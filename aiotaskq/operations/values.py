"""Operations on public values: list their keys, get, set, delete."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from msgspec import UNSET, Struct

from aiotaskq.core.errors import MAX_KEY, check_json, check_key
from aiotaskq.errors import NotFound
from aiotaskq.log import printable
from aiotaskq.operations.fields import MAX_PAGE, ByKey, Key, Nullable, about
from aiotaskq.operations.hidden import plain
from aiotaskq.operations.table import Access, NotShown, Operations

if TYPE_CHECKING:
    from aiotaskq.app.taskq import TaskQ

values = Operations("values")
ValueKey = Annotated[Key, about("The key of a value")]


class KeyPage(Struct):
    """One page of the keys, sorted."""

    keys: list[str]
    next: str | None


class Value(Struct):
    """A public value."""

    key: str
    value: Any
    ttl: Annotated[float | None, about("The seconds that it has left; null: for ever")] = None


class ValueName(Struct):
    """The key of the value that was changed."""

    key: str


@values()
async def list_(access: Access, given: ByKey) -> KeyPage:
    """List the keys of the values that have not expired, sorted; values are never listed."""
    limit = min(given.limit, MAX_PAGE)
    keys = await access.tq.values.find_keys(given.prefix, after=given.cursor, limit=limit + 1)
    return KeyPage(keys[:limit], keys[limit - 1] if len(keys) > limit else None)


@values(thing="key", raises=(NotShown,))
async def get(access: Access, key: ValueKey) -> Value:
    """Read a public value, where that is allowed; not found if it is missing or has expired."""
    access.may_show(True)
    check_key("key", key, MAX_KEY)
    there, value = await look(access.tq, key)
    if not there:
        raise _not_found(key)
    return Value(key, plain(value), await access.tq.values.get_ttl(key))


@values(changes=True, thing="key")
async def set_(
    access: Access,
    key: ValueKey,
    value: Annotated[Any, about("The value, as JSON")],
    ttl: Nullable[Annotated[float, about("Seconds that it lives; default as before, or for ever", gt=0)]] = UNSET,
) -> ValueName:
    """Store a public value, for some seconds or for ever; one that is there keeps its time to live if none is given."""
    check_key("key", key, MAX_KEY)
    check_json("value", value)
    if ttl is UNSET:
        await access.tq.values.edit_public(key, value)
    else:
        await access.tq.values.set_public(key, value, ttl)
    return ValueName(key)


@values(changes=True, thing="key")
async def delete(access: Access, key: ValueKey) -> ValueName:
    """Delete a public value."""
    check_key("key", key, MAX_KEY)
    if not await access.tq.values.delete_public(key):
        raise _not_found(key)
    return ValueName(key)


async def look(tq: TaskQ, key: str) -> tuple[bool, Any]:
    """Return whether there is a live value, which may also be null, and the value."""
    value = await tq.values.get_public(key)
    return value is not None or await tq.values.find_keys(key, limit=1) == [key], value


def _not_found(key: str) -> NotFound:
    return NotFound(f"there is no value {printable(key)}")
