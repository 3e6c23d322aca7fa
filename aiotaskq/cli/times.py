"""Durations and instants: how they are printed, and how the values of options are read."""

from __future__ import annotations

import re
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Annotated

import typer

from aiotaskq.cli.i18n import chinese, marked, tr
from aiotaskq.cli.options import option
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.instants import from_iso, from_now, seconds_of, to_datetime, to_iso
from aiotaskq.core.task import SECOND

Utc = Annotated[bool, option("Times are in UTC, not in the local time zone.", "--utc")]
in_utc = ContextVar("in_utc", default=False)
"""Whether the command was given ``--utc``."""

_UNITS = ((86_400, marked("{count}d")), (3_600, marked("{count}h")), (60, marked("{count}m")), (1, marked("{count}s")))
_NUMBER = re.compile(r"(\d+)(?:\.\d+)?")


def duration(microseconds: int) -> str:
    """Return a duration in days, hours, minutes and seconds, of which the two largest are printed.

    Below ten seconds it has a decimal, below one second it is in milliseconds. A negative one is printed as 0.
    """
    if microseconds < SECOND:
        whole = max(0, microseconds) // 1000
        return tr("{count}ms", count=whole) if whole else tr("{count}s", count=0)
    if microseconds < 10 * SECOND:
        tenths = microseconds // (SECOND // 10)
        return tr("{count}s", count=f"{tenths / 10:g}")
    parts, rest = list[str](), microseconds // SECOND
    for size, unit in _UNITS:
        count, rest = divmod(rest, size)
        if count or parts:
            parts.append(tr(unit, count=str(count)) if count else "")
    return ("" if chinese() else " ").join(filter(None, parts[:2]))


def ago(text: str | None) -> str:
    """Return for how long it has been since a time of an answer; "" for none."""
    return "" if text is None else duration(SystemClock().now() - from_iso(text))


def local_time(text: str | None) -> str | None:
    return None if text is None else local(from_iso(text), in_utc.get())


def local(microseconds: int | None, utc: bool, *, short: bool = False) -> str | None:
    """Return an instant in the local time zone, or in UTC; one that is in no calendar as the number.

    ``short``, for tables, is to the second and without the offset from UTC.
    """
    if microseconds is None:
        return None
    if to_iso(microseconds) is None:
        return str(microseconds)
    try:
        time = to_datetime(microseconds) if utc else to_datetime(microseconds).astimezone()
    except (OverflowError, OSError, ValueError):  # the local time of the first or the last day of the calendar
        time = to_datetime(microseconds)
    if short:
        return f"{time:%Y-%m-%d %H:%M:%S}" + ("Z" if utc else "")
    shown = time.isoformat(sep=" ", timespec="milliseconds" if time.microsecond else "seconds")
    return shown.removesuffix("+00:00") + "Z" if utc else shown


def shown(text: str | None) -> str:
    """Return a time of an answer as tables show it; "" for none."""
    return "" if text is None else local(from_iso(text), in_utc.get(), short=True) or ""


def read_time(name: str, text: str, now: int, utc: bool) -> datetime | float:
    """Return the instant of an option: a duration from now, as 2h or 1d12h, epoch seconds, or a time of ISO 8601.

    The duration is one before now if ``name`` is about the past. For ``expires`` seconds are returned. A time without
    an offset is local, or in UTC with ``utc``. Raises BadParameter.
    """
    try:
        # As epoch seconds, fewer digits are a date, or a duration without its unit.
        if (number := _NUMBER.fullmatch(text)) and (name == "expires" or len(number[1]) > 8):
            return float(text)
        if (seconds := seconds_of(text)) is not None:
            return seconds if name == "expires" else from_now(name, seconds, now)
        time = datetime.fromisoformat(text)
        return time if time.tzinfo else time.replace(tzinfo=UTC) if utc else time.astimezone()
    except (ValueError, OverflowError, OSError):
        said = tr("{text} is no duration, as 2h, 30m or 1d12h, and no time, as 2026-03-28T12:00", text=repr(text))
        raise typer.BadParameter(said, param_hint=f"--{name}") from None
