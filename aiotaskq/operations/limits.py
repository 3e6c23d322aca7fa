"""Operations on limits, rates and fair shares: list, get, set, pause, resume, reset."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from aiotaskq.core.limits import Rate
from aiotaskq.core.validation import INT32
from aiotaskq.errors import ValidationError
from aiotaskq.operations.fields import Key, Time, view_of
from aiotaskq.operations.table import Access, Operations
from aiotaskq.runtime.limits import LimitState

limits = Operations("limits")


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
    state: Annotated[
        Literal["open", "paused", "used_up"], Meta(description="`used_up`: the budget of its group is used up")
    ]
    paused_until: Annotated[Time | None, Meta(description="null also where it is paused until it is resumed")]
    next_at: Time | None
    budget_of: Annotated[str | None, Meta(description="The group whose budget it keeps; null for others")]


class LimitPage(Struct):
    """Limits, sorted by their keys."""

    limits: list[LimitView]
    more: Annotated[bool, Meta(description="Whether there are more than these")]


def limit_view(limit: LimitState) -> LimitView:
    """Return the view of a limit."""
    return view_of(LimitView, limit)


class Listed(Struct, forbid_unknown_fields=True):
    """Which limits to list."""

    limit: Annotated[int, Meta(ge=1, le=10_000, description="The most limits to list")] = 100
    prefix: Annotated[str, Meta(max_length=255, description="Only those whose keys begin so")] = ""


LimitKey = Annotated[Key, Meta(description="As limits list shows it: tenant:42, openai")]


class Named(Struct, forbid_unknown_fields=True):
    """A limit."""

    key: LimitKey


class Bounds(Struct, forbid_unknown_fields=True):
    """Bounds to be set; what is left out stays, null takes a bound away."""

    key: LimitKey
    cap: Annotated[int, Meta(ge=0, le=INT32, description="The most tasks at a time; 0 is none")] | UnsetType | None = (
        UNSET
    )
    rate: Annotated[int, Meta(ge=1, le=INT32, description="Tokens in the seconds of per")] | UnsetType | None = UNSET
    per: Annotated[float, Meta(gt=0, description="The seconds of the rate; default 1")] | UnsetType = UNSET
    burst: Annotated[int, Meta(ge=1, le=INT32, description="The most saved tokens of the rate")] | UnsetType = UNSET
    window: Annotated[int, Meta(ge=1, le=INT32, description="The window of a fair share")] | UnsetType | None = UNSET
    max_waiting: (
        Annotated[int, Meta(ge=0, le=INT32, description="The most tasks that may wait; a push of more fails")]
        | UnsetType
        | None
    ) = UNSET


class Paused(Struct, forbid_unknown_fields=True):
    """For how long a limit is paused; null until it is resumed."""

    key: LimitKey
    seconds: (
        Annotated[float, Meta(ge=0, description="For how many seconds; until it is resumed if left out")] | None
    ) = None


@limits()
async def list_(access: Access, given: Listed) -> LimitPage:
    """List the limits, rates and fair shares that are in use or were set, and how many tasks wait for them."""
    found = await access.tq.limits.list(given.limit + 1, prefix=given.prefix)
    return LimitPage([limit_view(each) for each in found[: given.limit]], len(found) > given.limit)


@limits(thing="key")
async def get(access: Access, given: Named) -> LimitView:
    """Show one limit, and how many tasks hold a slot of it or wait; not found where no task has passed."""
    return limit_view(await access.tq.limits.get(given.key))


@limits(changes=True, thing="key")
async def set_(access: Access, given: Bounds) -> LimitView:
    """Set bounds of a limit in all processes, whatever pushes declare, until it is reset.

    What is left out stays, null takes a bound away. `rate` is tokens in `per` seconds.
    """
    rate: Rate | UnsetType | None = UNSET if given.rate is UNSET else None
    if isinstance(given.rate, int):
        per = 1.0 if given.per is UNSET else given.per
        rate = Rate(given.rate, per, burst=None if given.burst is UNSET else given.burst)
    elif given.burst is not UNSET or given.per is not UNSET:
        raise ValidationError("per, burst: they are about rate; give that, too")
    bounds = {"cap": given.cap, "window": given.window, "max_waiting": given.max_waiting}
    return limit_view(await access.tq.limits.set(given.key, rate=rate, **bounds))


@limits(changes=True, thing="key")
async def pause(access: Access, given: Paused) -> LimitView:
    """Let no more tasks pass, for some seconds or until the limit is resumed; those that have passed go on."""
    return limit_view(await access.tq.limits.pause(given.key, given.seconds))


@limits(changes=True, thing="key")
async def resume(access: Access, given: Named) -> LimitView:
    """Let tasks pass a paused limit again."""
    return limit_view(await access.tq.limits.resume(given.key))


@limits(changes=True, thing="key")
async def reset(access: Access, given: Named) -> LimitView:
    """Take the bounds that pushes declare again: now those of a task that waits, then those of each push."""
    return limit_view(await access.tq.limits.reset(given.key))
