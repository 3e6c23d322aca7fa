"""The JSON schemas of workers and of the history."""

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


class ResizeBody(Struct, forbid_unknown_fields=True):
    """How many slots a worker is to have."""

    concurrency: Annotated[int, Meta(ge=1, le=10_000)]


class HistoryQuery(Struct, forbid_unknown_fields=True):
    """Which periods are wanted."""

    since: Moment | None = None
    until: Moment | None = None
    type: Name | None = None
    queue: Name | None = None
    step: Step | None = None


class WorkerView(Struct):
    """A worker as it was at its last heartbeat, and what it is asked for."""

    id: str
    host: str
    pid: int
    version: str
    started_at: Time | None
    seen_at: Time | None
    lease_until: Time | None
    queues: list[str] | None
    concurrency: int
    busy: int
    quiet: bool
    wanted_concurrency: int | None
    types: Annotated[list[str] | None, Meta(description="What it can run; null where that is not known")]
    limits: Annotated[list[str] | None, Meta(description="What its handlers declare; null where that is not known")]


class WorkerPage(Struct):
    """The workers of the store."""

    workers: list[WorkerView]


class RunView(Struct):
    """A task that a worker runs."""

    task_id: str
    type: str
    began_at: Time | None


class WorkerDetail(WorkerView):
    """A worker and what it runs."""

    tasks: list[RunView] = []


class SteeredView(Struct):
    """How many workers were asked."""

    workers: int


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
