"""The history of what workers did."""

from __future__ import annotations

from typing import Any

from aiotaskq.core.instants import to_iso
from aiotaskq.core.task import SECOND
from aiotaskq.web.endpoint import ApiResponse, Call, Endpoints, Success, respond
from aiotaskq.web.schemas.workers import (
    HistoryPage,
    HistoryQuery,
    PeriodView,
)

history = Endpoints("aiotaskq history")

MOST_PERIODS = 20_000
PERIOD: dict[str, Any] = {
    "at": "2026-01-05T08:59:00Z",
    "seconds": 60,
    "queue": "default",
    "type": "send",
    "kind": "completed",
    "n": 120,
    "run_seconds": 14.2,
    "wait_seconds": 3.9,
    "run_p50": 0.11,
    "run_p95": 0.3,
    "run_p99": 0.42,
    "wait_p50": 0.02,
    "wait_p95": 0.08,
    "wait_p99": 0.3,
    "usage": {},
}


@history(
    "GET",
    "/history",
    Success(200, "The earliest first", HistoryPage, {"periods": [PERIOD], "more": False}),
    query=HistoryQuery,
)
async def get_history(call: Call) -> ApiResponse:
    """Show what workers did, by period, queue, type and kind of outcome; by default in the last hour."""
    query: HistoryQuery = call.query
    found = await call.tq.history(
        since=query.since, until=query.until, type=query.type, queue=query.queue, step=query.step
    )
    return respond(HistoryPage([_period(each) for each in found[:MOST_PERIODS]], len(found) > MOST_PERIODS))


def _period(period: Any) -> PeriodView:
    percents = {
        f"{what}_p{percent}": getattr(period, f"{what}_percentile")(percent)
        for what in ("run", "wait")
        for percent in (50, 95, 99)
    }
    return PeriodView(
        at=to_iso(period.at) or "",
        seconds=period.seconds,
        queue=period.queue,
        type=period.type,
        kind=period.kind,
        n=period.n,
        run_seconds=period.run_us / SECOND,
        wait_seconds=period.wait_us / SECOND,
        usage=period.usage,
        **percents,
    )
