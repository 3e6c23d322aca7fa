"""``aiotaskq history``: what workers did, by queue, type and outcome, with percentiles and a line of the counts."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Annotated, Any

import msgspec
import typer

from aiotaskq.cli import names
from aiotaskq.cli.i18n import marked, tr
from aiotaskq.cli.layout import Column
from aiotaskq.cli.options import DEFAULT_DB, Command, Db, Json, option
from aiotaskq.cli.output import echo, echo_json, echo_table, json_text
from aiotaskq.cli.store_access import instant, with_tq
from aiotaskq.cli.times import Utc, duration, read_since
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.history import Period, Sums
from aiotaskq.core.instants import to_datetime
from aiotaskq.core.task import SECOND

app = typer.Typer()
QUEUE, TYPE, OUTCOME, COUNT, P50, P95, P99, WAIT95, TIME = map(
    marked, ("QUEUE", "TYPE", "OUTCOME", "COUNT", "RUN P50", "RUN P95", "RUN P99", "WAIT P95", "OVER TIME")
)
USED = marked("USED UP")
BARS = "▁▂▃▄▅▆▇█"
POINTS = 24  # columns of the line of counts


@app.command("history", cls=Command, help=tr("Show what workers did: counts, percentiles of run times and waits."))
def history(
    since: Annotated[
        str, option("--since", metavar="TIME", help=tr("From then on: 2h, 1d12h, or 2026-03-28T12:00."))
    ] = "1h",
    type: Annotated[str | None, option("--type", help=tr("Only this type."), autocompletion=names.types)] = None,
    queue: Annotated[str | None, option("--queue", help=tr("Only this queue."), autocompletion=names.queues)] = None,
    utc: Utc = False,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    now = SystemClock().now()
    begin = read_since(since, now, utc)
    found = with_tq(db, lambda tq: tq.history(since=begin, type=type, queue=queue))
    if json:
        echo_json([_as_dict(period) for period in found])
    elif found:
        echo_table(_columns(found, begin, now))
    else:
        echo(tr("nothing has ended since then, or it was not written yet: workers write once a minute"))


def _as_dict(period: Period) -> dict[str, Any]:
    known: dict[str, Any] = msgspec.to_builtins(period)
    percents = {
        f"{what}_p{n}": getattr(period, f"{what}_percentile")(n) for what in ("run", "wait") for n in (50, 95, 99)
    }
    sums = {"run_seconds": period.run_seconds, "wait_seconds": period.wait_seconds}
    kept = {name: known[name] for name in ("seconds", "queue", "type", "kind", "n")}
    kept["usage"] = known["usage"]
    return {"at": instant(period.at), **kept, **sums, **percents}


def _columns(found: list[Period], begin: datetime, now: int) -> list[Column]:
    rows: dict[tuple[str, str, str], list[Period]] = {}
    for period in found:
        rows.setdefault((period.queue, period.type, period.kind), []).append(period)
    keys = sorted(rows)
    totals = [_total(rows[key]) for key in keys]
    span = (to_datetime(now) - begin).total_seconds()
    step = max(max(period.seconds for period in found), math.ceil(span / POINTS))
    return [
        Column(header=QUEUE, cells=[key[0] for key in keys], least=8, rank=1),
        Column(header=TYPE, cells=[key[1] for key in keys], least=12),
        Column(header=OUTCOME, cells=[key[2] for key in keys]),
        Column(header=COUNT, cells=[total.n for total in totals]),
        *(
            Column(header=header, cells=[_time(total.run_percentile(percent)) for total in totals], rank=rank)
            for header, percent, rank in ((P50, 50, 0), (P95, 95, 0), (P99, 99, 2))
        ),
        Column(header=WAIT95, cells=[_time(total.wait_percentile(95)) for total in totals]),
        *([] if not any(total.usage for total in totals) else [Column(header=USED, cells=list(map(_used, totals)))]),
        Column(header=TIME, cells=[_line(rows[key], now, step) for key in keys], rank=3),
    ]


def _total(periods: list[Period]) -> Period:
    sums = Sums()
    for period in periods:
        sums.add(period)
    return sums.period((0, 0, "", "", ""))


def _used(total: Period) -> str:
    return ", ".join(f"{name} {json_text(amount)}" for name, amount in sorted(total.usage.items()))


def _time(seconds: float | None) -> str:
    return "" if seconds is None else "< 1ms" if seconds < 0.001 else duration(int(seconds * SECOND))


def _line(periods: list[Period], now: int, step: int) -> str:
    """Return the counts over time, the latest at the right, each as a bar."""
    counts = [0] * POINTS
    for period in periods:
        counts[max(0, POINTS - 1 - (now - period.at) // (step * SECOND))] += period.n
    top = max(counts)
    return "".join(" " if not count else BARS[(len(BARS) - 1) * count // top] for count in counts)
