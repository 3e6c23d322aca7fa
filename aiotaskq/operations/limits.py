"""Operations on limits, rates and fair shares: list, get, set, pause, resume, reset."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Struct, UnsetType

from aiotaskq.core.limits import Rate
from aiotaskq.core.validation import INT32
from aiotaskq.errors import ValidationError
from aiotaskq.operations.fields import Key, Maybe, Nullable, Time, about, view_of
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
    fixed: Annotated[bool, about("Whether it was set by an operator")]
    state: Annotated[Literal["open", "paused", "used_up"], about("`used_up`: the budget of its group is used up")]
    paused_until: Annotated[Time | None, about("null also where it is paused until it is resumed")]
    next_at: Time | None
    budget_of: Annotated[str | None, about("The group whose budget it keeps; null for others")]


class LimitPage(Struct):
    """Limits, sorted by their keys."""

    limits: list[LimitView]
    more: Annotated[bool, about("Whether there are more than these")]


def limit_view(limit: LimitState) -> LimitView:
    """Return the view of a limit."""
    return view_of(LimitView, limit)


class Listed(Struct, forbid_unknown_fields=True):
    """Which limits to list."""

    limit: Annotated[int, about("The most limits to list", ge=1, le=10_000)] = 100
    prefix: Annotated[str, about("Only those whose keys begin so", max_length=255)] = ""


LimitKey = Annotated[Key, about("As limits list shows it: tenant:42, openai")]


class Named(Struct, forbid_unknown_fields=True):
    """A limit."""

    key: LimitKey


class Bounds(Struct, forbid_unknown_fields=True):
    """Bounds to be set; what is left out stays, null takes a bound away."""

    key: LimitKey
    cap: Nullable[Annotated[int, about("The most tasks at a time; 0 is none", ge=0, le=INT32)]] = UNSET
    rate: Nullable[Annotated[int, about("Tokens in the seconds of per", ge=1, le=INT32)]] = UNSET
    per: Maybe[Annotated[float, about("The seconds of the rate; default 1", gt=0)]] = UNSET
    burst: Maybe[Annotated[int, about("The most saved tokens of the rate", ge=1, le=INT32)]] = UNSET
    window: Nullable[Annotated[int, about("The window of a fair share", ge=1, le=INT32)]] = UNSET
    max_waiting: Nullable[Annotated[int, about("The most that may wait; a push of more fails", ge=0, le=INT32)]] = UNSET


class Paused(Struct, forbid_unknown_fields=True):
    """For how long a limit is paused; null until it is resumed."""

    key: LimitKey
    seconds: Annotated[float, about("For how many seconds; until it is resumed if left out", ge=0)] | None = None


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
