"""Operations on limits, rates and fair shares: list, get, set, pause, resume, reset."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Struct, UnsetType

from aiotaskq.core.errors import INT32
from aiotaskq.core.limits import Rate
from aiotaskq.errors import ValidationError
from aiotaskq.operations.fields import Key, Maybe, Nullable, Time, about, view_of
from aiotaskq.operations.table import Access, Operations

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


LimitKey = Annotated[Key, about("As limits list shows it: tenant:42, openai")]


@limits()
async def list_(
    access: Access,
    limit: Annotated[int, about("The most limits to list", ge=1, le=10_000)] = 100,
    prefix: Annotated[str, about("Only those whose keys begin so", max_length=255)] = "",
) -> LimitPage:
    """List the limits, rates and fair shares that are in use or were set, and how many tasks wait for them."""
    found = await access.tq.limits.list(limit + 1, prefix=prefix)
    return LimitPage([view_of(LimitView, each) for each in found[:limit]], len(found) > limit)


@limits(thing="key")
async def get(access: Access, key: LimitKey) -> LimitView:
    """Show one limit, and how many tasks hold a slot of it or wait; not found where no task has passed."""
    return view_of(LimitView, await access.tq.limits.get(key))


@limits(changes=True, thing="key")
async def set_(
    access: Access,
    key: LimitKey,
    cap: Nullable[Annotated[int, about("The most tasks at a time; 0 is none", ge=0, le=INT32)]] = UNSET,
    rate: Nullable[Annotated[int, about("Tokens in the seconds of per", ge=1, le=INT32)]] = UNSET,
    per: Maybe[Annotated[float, about("The seconds of the rate; default 1", gt=0)]] = UNSET,
    burst: Maybe[Annotated[int, about("The most saved tokens of the rate", ge=1, le=INT32)]] = UNSET,
    window: Nullable[Annotated[int, about("The window of a fair share", ge=1, le=INT32)]] = UNSET,
    max_waiting: Nullable[
        Annotated[int, about("The most tasks that may wait; a push of more fails", ge=0, le=INT32)]
    ] = UNSET,
) -> LimitView:
    """Set bounds of a limit in all processes, whatever pushes declare, until it is reset.

    What is left out stays, null takes a bound away. `rate` is tokens in `per` seconds.
    """
    whole: Rate | UnsetType | None = UNSET if rate is UNSET else None
    if isinstance(rate, int):
        whole = Rate(rate, 1.0 if per is UNSET else per, burst=None if burst is UNSET else burst)
    elif burst is not UNSET or per is not UNSET:
        raise ValidationError("per, burst: they are about rate; give that, too")
    return view_of(
        LimitView, await access.tq.limits.set(key, cap=cap, rate=whole, window=window, max_waiting=max_waiting)
    )


@limits(changes=True, thing="key")
async def pause(
    access: Access,
    key: LimitKey,
    seconds: Annotated[float, about("For how many seconds; until it is resumed if left out", ge=0)] | None = None,
) -> LimitView:
    """Let no more tasks pass, for some seconds or until the limit is resumed; those that have passed go on."""
    return view_of(LimitView, await access.tq.limits.pause(key, seconds))


@limits(changes=True, thing="key")
async def resume(access: Access, key: LimitKey) -> LimitView:
    """Let tasks pass a paused limit again."""
    return view_of(LimitView, await access.tq.limits.resume(key))


@limits(changes=True, thing="key")
async def reset(access: Access, key: LimitKey) -> LimitView:
    """Take the bounds that pushes declare again: now those of a task that waits, then those of each push."""
    return view_of(LimitView, await access.tq.limits.reset(key))
