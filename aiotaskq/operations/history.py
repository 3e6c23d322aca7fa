"""The operation that reads what workers did."""

from __future__ import annotations

from typing import Annotated

from msgspec import Struct, structs

from aiotaskq.core.history import KEEP_DAYS, Period, added_up
from aiotaskq.operations.fields import Instant, Name, S, Time, about, view_of
from aiotaskq.operations.table import Access, Operations

history = Operations("history")
MOST_PERIODS = 20_000
Percentile = Annotated[float | None, about("Seconds, off by at most a sixteenth")]


class Listed(Struct, forbid_unknown_fields=True):
    """Which periods are wanted."""

    since: Annotated[Instant, about("From then on; default an hour ago")] | None = None
    until: Annotated[Instant, about("Until then; default now")] | None = None
    type: Annotated[Name, about("Only this type")] | None = None
    queue: Annotated[Name, about("Only this queue")] | None = None
    tag: Annotated[str, about("Only tasks with this tag of history_tags: name=value, or a name")] | None = None
    step: Annotated[int, about("Seconds of the periods; shorter ones are added up", ge=1, le=KEEP_DAYS)] | None = None


class TotalView(Struct):
    """What workers did with the tasks of one queue, one type and one kind of outcome."""

    queue: str
    type: str
    kind: str
    tag: Annotated[str, about("name=value; empty for the sums of all tasks")]
    n: int
    run_seconds: float
    wait_seconds: float
    run_p50: Percentile
    run_p95: Percentile
    run_p99: Percentile
    wait_p50: Percentile
    wait_p95: Percentile
    wait_p99: Percentile
    usage: Annotated[dict[str, float], about("What tasks have used up, by name; of the kind used only")]


class PeriodView(TotalView):
    """The same in one period."""

    at: Time
    seconds: int


class HistoryPage(Struct):
    """Periods of the history, the earliest first; ``more`` where there are too many for one answer."""

    totals: Annotated[list[TotalView], about("The sums of these periods")]
    periods: list[PeriodView]
    more: bool


@history()
async def list_(access: Access, given: Listed) -> HistoryPage:
    """Show what workers did: counts, percentiles of run times and waits, by period, queue, type and outcome."""
    found = await access.tq.history(**structs.asdict(given))
    kept = found[:MOST_PERIODS]
    totals = added_up(structs.replace(each, at=0, seconds=0) for each in kept)
    periods = [_view(PeriodView, each) for each in kept]
    return HistoryPage([_view(TotalView, each) for each in totals], periods, len(found) > MOST_PERIODS)


def _view(kind: type[S], period: Period) -> S:
    percents = {
        f"{what}_p{percent}": getattr(period, f"{what}_percentile")(percent)
        for what in ("run", "wait")
        for percent in (50, 95, 99)
    }
    return view_of(kind, period, **percents)
