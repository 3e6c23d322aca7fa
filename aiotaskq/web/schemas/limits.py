"""The JSON schemas of limits, rates and fair shares."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from aiotaskq.core.validation import INT32
from aiotaskq.web.schemas.fields import Limit, Seconds, Time


class LimitBody(Struct, forbid_unknown_fields=True):
    """Bounds to be set; what is left out stays, null takes a bound away."""

    cap: Annotated[int, Meta(ge=0, le=INT32)] | UnsetType | None = UNSET
    window: Annotated[int, Meta(ge=1, le=INT32)] | UnsetType | None = UNSET
    max_waiting: Annotated[int, Meta(ge=0, le=INT32)] | UnsetType | None = UNSET
    rate: Annotated[int, Meta(ge=1, le=INT32, description="Tokens in `per` seconds")] | UnsetType | None = UNSET
    per: Annotated[float, Meta(gt=0, description="Seconds")] | UnsetType = UNSET
    burst: Annotated[int, Meta(ge=1, le=INT32)] | UnsetType = UNSET


class CloseBody(Struct, forbid_unknown_fields=True):
    """For how long a limit is closed; null until it is opened."""

    seconds: Seconds | None = None


class LimitQuery(Struct):
    """How many limits to list."""

    limit: Limit = 100


class LimitView(Struct):
    """A limit, a rate or a fair share, and the tasks at it. ``rate`` in tokens per second."""

    key: str
    cap: int | None
    window: int | None
    rate: float | None
    burst: int | None
    max_waiting: int | None
    held: int
    waiting: int
    fixed: Annotated[bool, Meta(description="Whether it was set by an operator")]
    closed_until: Time | None
    next_at: Time | None
    budget_of: Annotated[str | None, Meta(description="The group whose budget it keeps; null for other gates")]


class LimitPage(Struct):
    """Limits, sorted by their keys."""

    limits: list[LimitView]
