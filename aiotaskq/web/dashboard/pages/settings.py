"""Settings and doctor: versions, the store with its latency and clock, what is wrong, and the registered tasks."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

from aiotaskq.app.internal import internal
from aiotaskq.core.masking import mask, without_passwords
from aiotaskq.errors import AiotaskqError
from aiotaskq.runtime.health import Distance, examine, measure, version_of
from aiotaskq.web.dashboard.view import View, page
from aiotaskq.web.dashboard.words import marked

LIBRARIES = ("sqlalchemy", "aiosqlite", "asyncpg", "asyncmy", "redis", "msgspec", "croniter", "starlette", "jinja2")
ROUNDS = 3  # of a measured round trip


@page("settings", marked("Settings"))
async def settings(view: View) -> dict[str, Any]:
    """Examine the store and list what is registered."""
    tq = view.tq
    distance, problems = await view.keep("doctor", lambda: _examined(view), 10.0)
    handlers = sorted(view.handlers.items())
    return {
        "version": version_of("aiotaskq") or "",
        "python": platform.python_version(),
        "libraries": {name: known for name in LIBRARIES if (known := version_of(name)) is not None},
        "stores": [mask(url) for url in internal(tq).backends],
        "latency": None if distance is None else distance.median,
        "ahead": None if distance is None else distance.ahead,
        "problems": [without_passwords(each) for each in problems],
        "invalid": len(tq.invalid_rows),
        "types": [{"name": name, "where": _where(handler.function)} for name, handler in handlers],
    }


async def _examined(view: View) -> tuple[Distance | None, list[str]]:
    tq, clock = view.tq, view.tq.queue.clock
    distance: Distance | None = None
    try:
        distance = await measure(tq.queue.backend, clock, ROUNDS)
        counts = (await view.shared.counts.get()).stats
        found = await examine(tq.queue.backend, clock, schedules=internal(tq).open_schedules(), known=counts)
        return distance, found.problems
    except AiotaskqError as error:
        return distance, [str(error)]


def _where(function: Callable[..., Any]) -> str:
    name = getattr(function, "__qualname__", type(function).__name__)
    return f"{getattr(function, '__module__', '')}.{name}".lstrip(".")
