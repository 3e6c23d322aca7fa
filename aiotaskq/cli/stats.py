"""``aiotaskq stats``: how many tasks there are by queue and status, once or each second."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec
import typer

from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli.i18n import marked, tr
from aiotaskq.cli.options import DEFAULT_DB, Command, Db, Json, option
from aiotaskq.cli.output import LiveText, echo, echo_json, echo_table, json_text, table_lines
from aiotaskq.cli.store_access import with_tq
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.task import FINAL, Status
from aiotaskq.log import printable
from aiotaskq.runtime.queue.operations import Stats

app = typer.Typer()
INTERVAL = 1.0  # seconds between two refreshes
HEADERS = ("QUEUE", *(str(status).upper() for status in Status))
PENDING, RUNNING, COMPLETED, FAILED, CANCELLED, EXPIRED = map(
    marked, ("PENDING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED", "EXPIRED")
)


@app.command("stats", cls=Command, help=tr("Count tasks by queue and status."))
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
    found = with_tq(db, lambda tq: tq.stats())
    if json:
        echo_json(msgspec.to_builtins(found))
        return
    echo_table(HEADERS, _rows(found))
    for line in _below(found):
        echo(line)


async def _watch(tq: TaskQ, count: int | None, as_json: bool) -> None:
    clock = SystemClock()
    before: tuple[int, Stats] | None = None
    left = count
    with LiveText() as board:
        while True:
            found, at = await tq.stats(), clock.ticks()
            if as_json:
                echo(json_text(msgspec.to_builtins(found)))
            else:
                board.show([*table_lines(HEADERS, _rows(found)), *_below(found, _speed(before, at, found))])
            before = at, found
            left = None if left is None else left - 1
            if left == 0:
                return
            await asyncio.sleep(INTERVAL)


def _speed(before: tuple[int, Stats] | None, at: int, now: Stats) -> str | None:
    if before is None or at <= before[0]:
        return None
    ended = [sum(stats.counts.get(str(status), 0) for status in FINAL) for stats in (before[1], now)]
    rate = max(0.0, (ended[1] - ended[0]) * 1_000_000 / (at - before[0]))  # a purge makes fewer
    return tr("{rate} ended per second", rate=f"{rate:,.0f}")


def _rows(found: Stats) -> list[list[Any]]:
    names = [str(status) for status in Status]
    rows: list[list[Any]] = [
        [
            tr("{queue} (paused)", queue=queue) if queue in found.paused else queue,
            *(counts.get(name, 0) for name in names),
        ]
        for queue, counts in sorted(found.queues.items())
    ]
    rows.append([tr("all queues"), *(found.counts.get(name, 0) for name in names)])
    return rows


def _below(found: Stats, speed: str | None = None) -> list[str]:
    parts = [tr("{count} ready to run", count=f"{found.ready:,}")]
    if found.oldest_age is not None:
        parts.append(tr("the oldest for {seconds} s", seconds=f"{found.oldest_age:,.1f}"))
    if speed is not None:
        parts.append(speed)
    lines = [tr(", ").join(parts)]
    if other := [queue for queue in found.paused if queue not in found.queues]:
        lines.append(tr("paused, and empty: {queues}", queues=printable(", ".join(other))))
    return lines
