"""``aiotaskq history``: how it is shown what workers did, with percentiles and a line of the counts."""

from __future__ import annotations

import math

import typer

from aiotaskq.cli.door import command
from aiotaskq.cli.i18n import marked, tr
from aiotaskq.cli.layout import Column
from aiotaskq.cli.output import echo, echo_table, json_text
from aiotaskq.cli.times import duration
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.instants import from_iso
from aiotaskq.core.task import SECOND
from aiotaskq.operations.history import HistoryPage, TotalView, history

app = typer.Typer()
QUEUE, TYPE, OUTCOME, COUNT, P50, P95, P99, WAIT95, TIME = map(
    marked, ("QUEUE", "TYPE", "OUTCOME", "COUNT", "RUN P50", "RUN P95", "RUN P99", "WAIT P95", "OVER TIME")
)
USED = marked("USED UP")
BARS = "▁▂▃▄▅▆▇█"
POINTS = 24  # columns of the line of counts


def _show(page: HistoryPage, utc: bool) -> None:
    totals = page.totals
    if not totals:
        echo(tr("nothing has ended since then, or it was not written yet: workers write once a minute"))
        return
    columns = [
        Column(header=QUEUE, cells=[each.queue for each in totals], least=8, rank=1),
        Column(header=TYPE, cells=[each.type for each in totals], least=12),
        Column(header=OUTCOME, cells=[each.kind for each in totals]),
        Column(header=COUNT, cells=[each.n for each in totals]),
        Column(header=P50, cells=[_time(each.run_p50) for each in totals]),
        Column(header=P95, cells=[_time(each.run_p95) for each in totals]),
        Column(header=P99, cells=[_time(each.run_p99) for each in totals], rank=2),
        Column(header=WAIT95, cells=[_time(each.wait_p95) for each in totals]),
    ]
    if any(each.usage for each in totals):
        columns.append(Column(header=USED, cells=list(map(_used, totals))))
    echo_table([*columns, Column(header=TIME, cells=_lines(page), rank=3)])


def _used(total: TotalView) -> str:
    return ", ".join(f"{name} {json_text(amount)}" for name, amount in sorted(total.usage.items()))


def _time(seconds: float | None) -> str:
    return "" if seconds is None else "< 1ms" if seconds < 0.001 else duration(int(seconds * SECOND))


def _lines(page: HistoryPage) -> list[str]:
    """Return the counts over time, the latest at the right, each as a bar; a line for each total."""
    now = SystemClock().now()
    ages = [now - from_iso(each.at) for each in page.periods]
    step = max(max(each.seconds for each in page.periods), math.ceil(max(ages) / SECOND / POINTS))
    counts = {_key(total): [0] * POINTS for total in page.totals}
    for period, age in zip(page.periods, ages, strict=True):
        counts[_key(period)][max(0, POINTS - 1 - age // (step * SECOND))] += period.n
    return ["".join(" " if not n else BARS[(len(BARS) - 1) * n // max(line)] for n in line) for line in counts.values()]


def _key(total: TotalView) -> tuple[str, str, str]:
    return total.queue, total.type, total.kind


command(app, history["list"], _show, name="history", utc=True)
