"""Types of fields that several schemas have, and of the pages of lists."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

from aiotaskq.core.validation import MAX_ID, MAX_KEY, MAX_NAME

MAX_PAGE = 1_000
NO_NUL = "^[^\\u0000]*$"
Id = Annotated[str, Meta(min_length=1, max_length=MAX_ID)]
Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
Key = Annotated[str, Meta(min_length=1, max_length=MAX_KEY)]
Seconds = Annotated[float, Meta(ge=0, description="Seconds")]
Time = Annotated[str, Meta(description="RFC 3339, UTC")]
Instant = Annotated[
    float | Annotated[datetime, Meta(tz=True)], Meta(description="Epoch seconds, or RFC 3339 with an offset")
]
Count = Annotated[int, Meta(ge=0)]
Limit = Annotated[int, Meta(ge=1, description=f"Of one page; more than {MAX_PAGE} are {MAX_PAGE}")]
Cursor = Annotated[str, Meta(min_length=1, max_length=MAX_KEY, description="`next` of the page before")]


class ByKey(Struct, forbid_unknown_fields=True):
    """Which things are listed, sorted by their keys."""

    limit: Limit = 100
    prefix: Annotated[str, Meta(max_length=MAX_KEY, description="Only keys that begin so")] = ""
    cursor: Cursor | None = None


class Nothing(Struct, forbid_unknown_fields=True):
    """No parameters."""
