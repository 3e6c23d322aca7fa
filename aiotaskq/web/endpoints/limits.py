"""Operations on the gates of limits, rates and fair shares: list, show, set, close, open, reset."""

from __future__ import annotations

from typing import Any

from aiotaskq.core.limits import Rate
from aiotaskq.core.validation import MAX_KEY, check_key
from aiotaskq.errors import ValidationError
from aiotaskq.web.operation import ApiResponse, Call, Operations, Success, respond
from aiotaskq.web.schemas.fields import MAX_PAGE
from aiotaskq.web.schemas.limits import CloseBody, LimitBody, LimitPage, LimitQuery, LimitView
from aiotaskq.web.views import body_options, limit_view

limits = Operations("aiotaskq limits")

EXAMPLE: dict[str, Any] = {
    "key": "tenant:42",
    "cap": 5,
    "window": None,
    "rate": None,
    "burst": None,
    "max_waiting": None,
    "held": 5,
    "waiting": 17,
    "fixed": False,
    "closed_until": None,
    "next_at": None,
    "budget_of": None,
}


def _key(call: Call) -> str:
    return check_key("key", call.path["key"], MAX_KEY)


@limits("GET", "/limits", Success(200, "By their keys", LimitPage, {"limits": [EXAMPLE]}), query=LimitQuery)
async def list_limits(call: Call) -> ApiResponse:
    """List the limits, rates and fair shares that are in use or were set."""
    query: LimitQuery = call.query
    return respond(LimitPage([limit_view(each) for each in await call.tq.limits.list(min(query.limit, MAX_PAGE))]))


@limits("GET", "/limits/{key}", Success(200, "The limit", LimitView, EXAMPLE), problems=(404,))
async def get_limit(call: Call) -> ApiResponse:
    """Show one limit, and how many tasks hold a slot of it or wait; 404 where no task has passed."""
    return respond(limit_view(await call.tq.limits.get(_key(call))))


@limits(
    "PUT",
    "/limits/{key}",
    Success(200, "Set, in every process", LimitView, EXAMPLE),
    body=LimitBody,
    example={"cap": 5},
)
async def set_limit(call: Call) -> ApiResponse:
    """Set bounds of a limit until it is reset, whatever pushes declare.

    What is left out stays, null takes a bound away. `rate` is tokens in `per` seconds.
    """
    given = body_options(call.body)
    per, burst = given.pop("per", 1.0), given.pop("burst", None)
    if given.get("rate") is not None:
        given["rate"] = Rate(given["rate"], per, burst=burst)
    elif burst is not None or "per" in body_options(call.body):
        raise ValidationError("per, burst: they are about rate; give that, too")
    return respond(limit_view(await call.tq.limits.set(_key(call), **given)))


@limits(
    "POST",
    "/limits/{key}/close",
    Success(200, "Closed, for every process", LimitView, EXAMPLE),
    body=CloseBody,
    example={"seconds": 60},
    problems=(404,),
)
async def close_limit(call: Call) -> ApiResponse:
    """Let no task pass for some seconds, or until the limit is opened."""
    return respond(limit_view(await call.tq.limits.close(_key(call), call.body.seconds)))


@limits("POST", "/limits/{key}/open", Success(200, "Open", LimitView, EXAMPLE), problems=(404,))
async def open_limit(call: Call) -> ApiResponse:
    """Open a closed limit."""
    return respond(limit_view(await call.tq.limits.open(_key(call))))


@limits("POST", "/limits/{key}/reset", Success(200, "Reset", LimitView, EXAMPLE), problems=(404,))
async def reset_limit(call: Call) -> ApiResponse:
    """Take the bounds that pushes declare again: now those of a task that waits, then those of each push."""
    return respond(limit_view(await call.tq.limits.reset(_key(call))))
