"""``aiotaskq stats``: how many tasks there are by queue and status, once or each second."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec

from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli.i18n import marked, tr, wrapped
from aiotaskq.cli.layout import Column, plain_lines, width_of_output
from aiotaskq.cli.options import DEFAULT_DB, Db, Json, command, option
from aiotaskq.cli.output import LiveText, echo, echo_json, echo_table, json_text
from aiotaskq.cli.store_access import with_tq
from aiotaskq.cli.times import duration
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.task import FINAL, SECOND, Status
from aiotaskq.log import printable
from aiotaskq.operations.fields import Nothing
from aiotaskq.operations.stats import StatsView, get
from aiotaskq.operations.table import Access
from aiotaskq.runtime.limits import MOST_LISTED

STATE = marked("STATE")
INTERVAL = 1.0  # seconds between two refreshes
HEADERS = ("QUEUE", *(str(status).upper() for status in Status))
PENDING, RUNNING, COMPLETED, FAILED, CANCELLED, EXPIRED = map(
    marked, ("PENDING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED", "EXPIRED")
)


@command("stats", tr("Count tasks by queue and status."))
def stats(
    db: Db = DEFAULT_DB,
    watch: Annotated[bool, option("--watch", help=tr("Refresh every second, until Ctrl-C."))] = False,
    count: Annotated[
        int | None, option(min=1, metavar="N", help=tr("With --watch: end after N refreshes."), show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    if watch:
        with_tq(db, lambda tq: _watch(tq, count, json))
        return
    found, waiting = with_tq(db, lambda tq: _read(tq, json))
    if json:
        echo_json(msgspec.to_builtins(found))
        return
    echo_table(_columns(found))
    for line in _below(found, waiting):
        echo(line)


async def _read(tq: TaskQ, as_json: bool) -> tuple[StatsView, int]:
    """Count the tasks; for a table also those of them that wait at limits, which reads each limit."""
    waiting = 0 if as_json else sum(each.waiting for each in await tq.limits.list(MOST_LISTED))
    return await get(Access(tq), Nothing()), waiting


async def _watch(tq: TaskQ, count: int | None, as_json: bool) -> None:
    clock = SystemClock()
    before: tuple[int, StatsView] | None = None
    left = count
    with LiveText() as board:
        while True:
            (found, waiting), at = await _read(tq, as_json), clock.ticks()
            if as_json:
                echo(json_text(msgspec.to_builtins(found)))
            else:
                lines = plain_lines(_columns(found), width_of_output())
                board.show([*lines, *_below(found, waiting, _speed(before, at, found))])
            before = at, found
            left = None if left is None else left - 1
            if left == 0:
                return
            await asyncio.sleep(INTERVAL)


def _speed(before: tuple[int, StatsView] | None, at: int, now: StatsView) -> str | None:
    if before is None or at <= before[0]:
        return None
    ended = [sum(stats.counts.get(str(status), 0) for status in FINAL) for stats in (before[1], now)]
    rate = max(0.0, (ended[1] - ended[0]) * 1_000_000 / (at - before[0]))  # a purge makes fewer
    return tr("{rate} ended per second", rate=f"{rate:,.0f}")


def _columns(found: StatsView) -> list[Column]:
    names = sorted(found.queues)
    counts = [*(found.queues[name] for name in names), found.counts]
    states = [tr("paused") if name in found.paused else None for name in names]
    return [
        Column(header=HEADERS[0], cells=[*names, tr("all queues")], least=10),
        Column(header=STATE, cells=[*states, None], rank=1),
        *(
            Column(header=header, cells=[count.get(str(status), 0) for count in counts])
            for header, status in zip(HEADERS[1:], Status, strict=True)
        ),
    ]


def _below(found: StatsView, waiting: int, speed: str | None = None) -> list[str]:
    parts = [tr("{count} ready to run", count=f"{found.ready:,}")]
    if found.oldest_age is not None:
        parts.append(tr("the oldest for {time}", time=duration(int(found.oldest_age * SECOND))))
    if waiting:
        parts.append(tr("{count} wait at limits", count=f"{waiting:,}"))
    if speed is not None:
        parts.append(speed)
    lines = [tr(", ").join(parts)]
    if other := [queue for queue in found.paused if queue not in found.queues]:
        lines.append(tr("paused, and empty: {queues}", queues=printable(", ".join(other))))
    room = width_of_output()
    return lines if room is None else [piece for line in lines for piece in wrapped(line, room)]
