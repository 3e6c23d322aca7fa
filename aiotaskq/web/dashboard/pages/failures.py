"""Failures: one row for each type and error of the tasks that have failed, and a button that retries all of a row."""

from __future__ import annotations

import functools
import re
from typing import Any

from aiotaskq.operations.failures import FailureList
from aiotaskq.operations.failures import failures as operations
from aiotaskq.web.dashboard.view import View, page
from aiotaskq.web.dashboard.words import marked

ROWS = 100
READ = 5_000
"""Failed tasks that are read: to read more takes too long for a page."""


@page("failures", marked("Failures"), "type", "queue", "sort")
async def failures(view: View) -> dict[str, Any]:
    """Read the newest tasks that have failed, grouped by type and error."""
    given = {name: text for name in ("type", "queue") if (text := view.text(name)) is not None}
    read = functools.partial(view.perform, operations["list"], given | {"limit": READ})
    found: FailureList = await view.keep(f"failures {sorted(given.items())}", read, 10.0)
    counted = await view.shared.counts.get()
    by_end = view.text("sort") == "ended"
    rows = sorted(found.failures, key=lambda each: each.last_at, reverse=True) if by_end else found.failures
    rows = rows[:ROWS]
    return {
        "failures": rows,
        "searches": {each.error: searched(each.error) for each in rows},
        "errors": found.errors,
        "read": found.read,
        "more": found.more,
        "begin": found.begin,
        "by_end": by_end,
        "filters": {"type": given.get("type", ""), "queue": given.get("queue", "")},
        "queues": sorted(counted.stats.queues),
        "types": sorted({each.type for each in rows}),
    }


def searched(error: str) -> str:
    """Return the longest part of an error that is the same in all tasks of its row, and as it is stored."""
    return max((part.strip() for part in re.split(r"#|\*\*\*", error)), key=len)
