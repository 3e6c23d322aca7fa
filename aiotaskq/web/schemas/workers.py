"""The JSON schemas of the history."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

from aiotaskq.core.history import KEEP_DAYS
from aiotaskq.operations.fields import Name, Time

Moment = Annotated[
    float | Annotated[datetime, Meta(tz=True)],
    Meta(description="Epoch seconds, or RFC 3339 with an offset; default the last hour"),
]
Step = Annotated[int, Meta(ge=1, le=KEEP_DAYS, description="Seconds of the periods; shorter ones are added up")]
Percentile = Annotated[float | None, Meta(description="Seconds, off by at most a sixteenth")]


class HistoryQuery(Struct, forbid_unknown_fields=True):
    """Which periods are wanted."""

    since: Moment | None = None
    until: Moment | None = None
    type: Name | None = None
    queue: Name | None = None
    step: Step | None = None


class PeriodView(Struct):
    """What workers did in one period with the tasks of one queue, one type and one kind of outcome."""

    at: Time
    seconds: int
    queue: str
    type: str
    kind: str
    n: int
    run_seconds: float
    wait_seconds: float
    run_p50: Percentile
    run_p95: Percentile
    run_p99: Percentile
    wait_p50: Percentile
    wait_p95: Percentile
    wait_p99: Percentile
    usage: Annotated[dict[str, float], Meta(description="What tasks have used up, by name; of the kind used only")]


class HistoryPage(Struct):
    """Periods of the history; ``more`` where there are too many for one answer."""

    periods: list[PeriodView]
    more: bool
