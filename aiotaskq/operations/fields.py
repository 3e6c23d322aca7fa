"""Types of fields that several schemas have, and of the pages of lists; how a record becomes an answer."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import cache
from typing import Annotated, Any, TypeAlias, TypeVar, get_args

from msgspec import UNSET, Meta, Struct, UnsetType, structs

from aiotaskq.core.errors import MAX_ID, MAX_KEY, MAX_NAME
from aiotaskq.core.instants import to_iso


def about(description: str, **bounds: Any) -> Meta:
    """Return what a field is about, and its bounds as ``Meta`` takes them."""
    return Meta(description=description, **bounds)


S = TypeVar("S", bound=Struct)
T = TypeVar("T")
Maybe: TypeAlias = T | UnsetType
"""A parameter that may be left out."""
Nullable: TypeAlias = T | UnsetType | None
"""A parameter that may be left out, or be null, which says something else."""
MAX_PAGE = 1_000
NO_NUL = "^[^\\u0000]*$"
Id = Annotated[str, Meta(min_length=1, max_length=MAX_ID)]
Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
Key = Annotated[str, Meta(min_length=1, max_length=MAX_KEY)]
Seconds = Annotated[float, about("Seconds", ge=0)]
TIME = about("RFC 3339, UTC")
Time = Annotated[str, TIME]
Instant = Annotated[float | Annotated[datetime, Meta(tz=True)], about("Epoch seconds, or RFC 3339 with an offset")]
Count = Annotated[int, Meta(ge=0)]
Limit = Annotated[int, about(f"Of one page; more than {MAX_PAGE} are {MAX_PAGE}", ge=1)]
Cursor = Annotated[str, about("`next` of the page before", min_length=1, max_length=MAX_KEY)]


class ByKey(Struct, forbid_unknown_fields=True):
    """Which things are listed, sorted by their keys."""

    limit: Limit = 100
    prefix: Annotated[str, about("Only keys that begin so", max_length=MAX_KEY)] = ""
    cursor: Cursor | None = None


def view_of(kind: type[S], record: object, /, **known: Any) -> S:
    """Return an answer with what a record has under the same names, microseconds as times; ``known`` is not read."""
    for name, read in _readers(kind):
        if name not in known and (value := getattr(record, name, UNSET)) is not UNSET:
            known[name] = read(value)
    return kind(**known)


@cache
def _readers(kind: type[Struct]) -> list[tuple[str, Callable[[Any], Any]]]:
    return [(each.name, _reader(each.type)) for each in structs.fields(kind)]


def _reader(kind: Any) -> Callable[[Any], Any]:
    if kind == Time:
        return lambda instant: to_iso(instant) or ""
    return to_iso if _is_time(kind) else _plain


def _is_time(kind: Any) -> bool:
    return TIME in getattr(kind, "__metadata__", ()) or any(map(_is_time, get_args(kind)))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
