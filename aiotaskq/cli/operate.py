"""What an operator asks of a database: count, list, show, retry, cancel and purge tasks, and preview schedules."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import msgspec

from aiotaskq.cli.screen import say, say_error, say_json, say_table
from aiotaskq.cli.tables import refuse_unready
from aiotaskq.clock import SystemClock
from aiotaskq.cron import check_timezone, local_timezone
from aiotaskq.errors import AiotaskqError, ValidationError
from aiotaskq.log import printable
from aiotaskq.task import SECOND, Status, Task
from aiotaskq.taskq import TaskQ
from aiotaskq.upcoming import preview as next_times

T = TypeVar("T")
LISTED = ("TASK_ID", "TYPE", "STATUS", "QUEUE", "RETRIES", "CREATED", "ERROR")


def _with(url: str, work: Callable[[TaskQ], Awaitable[T]]) -> T:
    """Open the database, which must be there already, and do the work."""
    refuse_unready(url)

    async def main() -> T:
        async with TaskQ(url) as tq:
            return await work(tq)

    return asyncio.run(main())


def stats(url: str, *, as_json: bool) -> None:
    """Print how many tasks there are, by queue and status."""
    found = _with(url, lambda tq: tq.stats())
    if as_json:
        say_json(msgspec.to_builtins(found))
        return
    names = [str(status) for status in Status]
    rows = [
        [f"{queue} (paused)" if queue in found.paused else queue, *(counts.get(name, 0) for name in names)]
        for queue, counts in sorted(found.queues.items())
    ]
    rows.append(["all queues", *(found.counts.get(name, 0) for name in names)])
    say_table(["QUEUE", *(name.upper() for name in names)], rows)
    age = "" if found.oldest_age is None else f", the oldest for {found.oldest_age:.1f} s"
    say(f"{found.ready:,} ready to run{age}")
    if other := [queue for queue in found.paused if queue not in found.queues]:
        say(f"paused, and empty: {printable(', '.join(other))}")


def list_tasks(
    url: str,
    *,
    status: Sequence[str] | None,
    type: str | None,
    queue: str | None,
    limit: int,
    after: str | None,
    as_json: bool,
) -> None:
    """Print tasks, the newest first."""
    tasks = _with(url, lambda tq: tq.find(status=status or None, type=type, queue=queue, limit=limit + 1, after=after))
    more, tasks = len(tasks) > limit, tasks[:limit]
    if as_json:
        say_json([_as_dict(task) for task in tasks])
        return
    if not tasks:
        say("no tasks")
        return
    rows = [
        (
            task.task_id,
            task.type,
            task.status,
            task.queue,
            f"{task.retry_count}/{task.max_retries}",
            _instant(task.created_at * SECOND),
            _first_line(task.error_message),
        )
        for task in tasks
    ]
    say_table(LISTED, rows, cut_last=True)
    if more:
        say(f"there are more: --after {tasks[-1].task_id}")


def show_task(url: str, task_id: str, *, as_json: bool) -> None:
    """Print all that is known of one task."""
    task = _with(url, lambda tq: tq.get(task_id))
    values = _as_dict(task)
    if as_json:
        say_json(values)
        return
    width = max(len(name) for name in values)
    for name, value in values.items():
        if value is None or value == {} or value is False:
            continue
        if name in ("params", "result", "progress", "extra"):
            shown = json.dumps(value, ensure_ascii=False, default=str)
        else:
            shown = str(value)
        # An error has many lines; each is made harmless by itself.
        for number, line in enumerate(shown.splitlines() or [""]):
            say(f"{name if not number else '':<{width}}  {printable(line, 20_000)}".rstrip())


def retry_tasks(url: str, ids: Sequence[str], *, as_json: bool) -> int:
    """Put ended tasks back; return the exit code."""

    async def retry(tq: TaskQ, task_id: str) -> str:
        await tq.retry(task_id)
        return "pending again"

    return _each(url, ids, retry, as_json)


def cancel_tasks(url: str, ids: Sequence[str], *, as_json: bool) -> int:
    """Cancel tasks; return the exit code."""

    async def cancel(tq: TaskQ, task_id: str) -> str:
        if not await tq.cancel(task_id):
            return f"has ended already: {await tq.handle(task_id).status()}"
        status = await tq.handle(task_id).status()
        return "cancelled" if status is Status.CANCELLED else "asked to stop"

    return _each(url, ids, cancel, as_json)


def _each(url: str, ids: Sequence[str], verb: Callable[[TaskQ, str], Awaitable[str]], as_json: bool) -> int:
    async def work(tq: TaskQ) -> list[dict[str, str]]:
        answers = []
        for task_id in ids:
            try:
                answers.append({"task_id": task_id, "outcome": await verb(tq, task_id)})
            except AiotaskqError as error:  # the others are still to be done
                answers.append({"task_id": task_id, "error": str(error)})
        return answers

    answers = _with(url, work)
    if as_json:
        say_json(answers)
    for answer in answers:
        if "error" in answer:
            say_error(answer["error"])
        elif not as_json:
            say(f"{printable(answer['task_id'])}  {answer['outcome']}")
    return int(any("error" in answer for answer in answers))


def purge_tasks(
    url: str,
    *,
    status: Sequence[str] | None,
    type: str | None,
    queue: str | None,
    older_than: float | None,
    as_json: bool,
) -> None:
    """Delete ended tasks that match."""
    count = _with(url, lambda tq: tq.purge(status=status or None, type=type, queue=queue, older_than=older_than))
    say_json({"deleted": count}) if as_json else say(f"{count:,} tasks deleted")


def preview(expression: str, *, timezone: str | None, count: int, after: str | None, as_json: bool) -> None:
    """Print the next times of a cron expression."""
    start = None if after is None else _parse_time(after, timezone)
    now = SystemClock().now()
    times = next_times(cron=expression, timezone=timezone, after=start, count=count, now=now)
    if as_json:
        say_json([time.isoformat() for time in times])
        return
    for time in times:
        say(f"{time:%a} {time.isoformat(sep=' ')}")


def _parse_time(text: str, timezone: str | None) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ValidationError(f"after: {text!r:.60} is no time; write it as 2026-03-28T12:00 or with +01:00") from None
    if time.tzinfo is None:
        time = time.replace(tzinfo=ZoneInfo(check_timezone(timezone or local_timezone()).key))
    return time


def _as_dict(task: Task) -> dict[str, Any]:
    values: dict[str, Any] = msgspec.to_builtins(task, enc_hook=str)
    values.pop("seq")
    for name in ("run_at", "lease_until", "expires_at"):
        values[name] = _instant(values[name])
    for name in ("created_at", "started_at", "completed_at"):
        values[name] = _instant(None if values[name] is None else values[name] * SECOND)
    return values


def _instant(microseconds: int | None) -> str | None:
    if microseconds is None:
        return None
    seconds, rest = divmod(microseconds, SECOND)
    try:
        time = datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest)
    except (ValueError, OverflowError, OSError):  # a stored number may be anything
        return str(microseconds)
    return time.isoformat(timespec="milliseconds" if rest else "seconds").replace("+00:00", "Z")


def _first_line(error: str | None) -> str:
    lines = (error or "").strip().splitlines()
    return lines[0] if lines else ""
