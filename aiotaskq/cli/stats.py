"""``aiotaskq stats`` and ``queues``: how many tasks there are, once or each second, and which queues are paused."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli.i18n import marked, tr
from aiotaskq.cli.output import Board, json_text, say, say_json, say_table, table_lines
from aiotaskq.cli.store_access import with_tq
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.task import FINAL, Status
from aiotaskq.log import printable
from aiotaskq.runtime.queue.operations import Stats

EVERY = 1.0  # seconds between two looks
HEADERS = ("QUEUE", *(str(status).upper() for status in Status))
PENDING, RUNNING, COMPLETED, FAILED, CANCELLED, EXPIRED = map(
    marked, ("PENDING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED", "EXPIRED")
)


def show(url: str, *, as_json: bool) -> None:
    """Print how many tasks there are, by queue and status."""
    found = with_tq(url, lambda tq: tq.stats())
    if as_json:
        say_json(msgspec.to_builtins(found))
        return
    say_table(HEADERS, _rows(found))
    for line in _below(found):
        say(line)


def watching(url: str, *, count: int | None, as_json: bool) -> None:
    """Show it anew each second, until Ctrl-C or so many times; as JSON one line for each look."""

    async def work(tq: TaskQ) -> None:
        clock = SystemClock()
        before: tuple[int, Stats] | None = None
        left = count
        with Board() as board:
            while True:
                found, at = await tq.stats(), clock.ticks()
                if as_json:
                    say(json_text(msgspec.to_builtins(found)))
                else:
                    board.show([*table_lines(HEADERS, _rows(found)), *_below(found, _speed(before, at, found))])
                before = at, found
                left = None if left is None else left - 1
                if left == 0:
                    return
                await asyncio.sleep(EVERY)

    with_tq(url, work)


def _speed(before: tuple[int, Stats] | None, at: int, now: Stats) -> str | None:
    if before is None or at <= before[0]:
        return None
    ended = [sum(stats.counts.get(str(status), 0) for status in FINAL) for stats in (before[1], now)]
    rate = max(0.0, (ended[1] - ended[0]) * 1_000_000 / (at - before[0]))  # a purge makes fewer
    return tr("{rate} ended a second", rate=f"{rate:,.0f}")


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


def list_queues(url: str, *, as_json: bool) -> None:
    """Print the queues that have tasks or are paused."""
    found = with_tq(url, lambda tq: tq.stats())
    queues = [
        {
            "queue": name,
            "paused": name in found.paused,
            "pending": found.queues.get(name, {}).get("pending", 0),
            "running": found.queues.get(name, {}).get("running", 0),
        }
        for name in sorted({*found.queues, *found.paused})
    ]
    if as_json:
        say_json(queues)
        return
    if not queues:
        say(tr("no queues"))
        return
    rows = [
        [queue["queue"], tr("paused") if queue["paused"] else tr("open"), queue["pending"], queue["running"]]
        for queue in queues
    ]
    say_table([marked("QUEUE"), marked("STATE"), "PENDING", "RUNNING"], rows)


def set_paused(url: str, queue: str, paused: bool, *, as_json: bool) -> None:
    """Pause or resume a queue."""
    with_tq(url, lambda tq: tq.pause(queue) if paused else tq.resume(queue))
    if as_json:
        say_json({"queue": queue, "paused": paused})
        return
    name = printable(queue)
    say(tr("queue {queue} is paused", queue=name) if paused else tr("queue {queue} is open", queue=name))
