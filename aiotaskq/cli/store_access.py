"""How commands reach a store, the times that they read and print, and one verb for many ids."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from aiotaskq.app.taskq import DEFAULT_URL, TaskQ
from aiotaskq.cli.i18n import tr
from aiotaskq.cli.output import say, say_error, say_json
from aiotaskq.cli.tables import refuse_unready
from aiotaskq.core.cron import check_timezone, local_timezone
from aiotaskq.core.instants import to_iso
from aiotaskq.errors import AiotaskqError, ValidationError
from aiotaskq.log import printable

T = TypeVar("T")


def with_tq(
    url: str | None, work: Callable[[TaskQ], Awaitable[T]], schedules: str | None = None, app: TaskQ | None = None
) -> T:
    """Open the store, which must be there already, and do the work.

    Args:
        url: the store; None for that of ``app``.
        schedules: where schedules live, if apart.
        app: the application's TaskQ, whose handlers, defaults and middleware then apply.
    """
    for place in (app.url if app is not None and url is None else url, schedules):
        if place is not None:
            refuse_unready(place)
    if app is not None and schedules is None and url in (None, app.url):
        tq = app
    else:
        tq = TaskQ(url or (DEFAULT_URL if app is None else app.url), schedules=schedules)
        if app is not None:
            tq.adopt(app)

    async def main() -> T:
        async with tq:
            return await work(tq)

    return asyncio.run(main())


def each(
    url: str,
    ids: Sequence[str],
    verb: Callable[[TaskQ, str], Awaitable[str]],
    *,
    key: str = "task_id",
    schedules: str | None = None,
    as_json: bool,
) -> int:
    """Do the same with each id, also when one fails; print what came of each; return the exit code."""

    async def work(tq: TaskQ) -> list[dict[str, str]]:
        answers = []
        for name in ids:
            try:
                answers.append({key: name, "outcome": await verb(tq, name)})
            except AiotaskqError as error:  # the others are still to be done
                answers.append({key: name, "error": str(error)})
        return answers

    answers = with_tq(url, work, schedules)
    if as_json:
        say_json(answers)
    for answer in answers:
        if "error" in answer:
            say_error(answer["error"])
        elif not as_json:
            say(f"{printable(answer[key])}  {answer['outcome']}")
    return int(any("error" in answer for answer in answers))


def read_json(field: str, text: str) -> Any:
    """Return the value of a JSON text, - for what is on standard input. Raises ValidationError."""
    source = sys.stdin.read() if text == "-" else text
    try:
        return json.loads(source)
    except (json.JSONDecodeError, RecursionError) as error:
        # Where it is wrong, not what it says: it may hold secrets.
        where = tr("nested too deep")
        if isinstance(error, json.JSONDecodeError):
            where = tr("line {line}, column {column}", line=error.lineno, column=error.colno)
        said = tr(
            "{field}: is not JSON ({where}); quote it for the shell, as '{{\"name\": 1}}'", field=field, where=where
        )
        raise ValidationError(said) from None


def read_params(text: str) -> dict[str, Any]:
    """Return the params in a JSON text, - for what is on standard input. Raises ValidationError for no JSON object."""
    values = read_json("params", text)
    if not isinstance(values, dict):
        kind = type(values).__name__
        raise ValidationError(tr("params: a JSON object is needed, as '{{\"name\": 1}}' (got {kind})", kind=kind))
    return values


def read_time(field: str, text: str, timezone: str | None) -> datetime:
    """Return the aware datetime of an ISO 8601 text; without an offset it is in that zone. Raises ValidationError."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        said = tr(
            "{field}: {text} is no time; write it as 2026-03-28T12:00 or with +01:00", field=field, text=repr(text)
        )
        raise ValidationError(said) from None
    if time.tzinfo is None:
        time = time.replace(tzinfo=ZoneInfo(check_timezone(timezone or local_timezone()).key))
    return time


def instant(microseconds: int | None) -> str | None:
    """Return an instant as ISO 8601 in UTC; what no calendar has is returned as the number."""
    return None if microseconds is None else to_iso(microseconds) or str(microseconds)


def age(seconds: int) -> str:
    """Return a time span in the largest unit that it fills twice."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if abs(seconds) >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def hidden(value: Any) -> str:
    """Return what is shown instead of params: how many there are, and how to see them."""
    return tr("{count} hidden; --params shows them", count=len(value) if isinstance(value, dict) else 1)
