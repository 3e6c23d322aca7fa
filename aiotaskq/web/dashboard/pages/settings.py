"""Settings and doctor: versions, the store with its latency and clock, what is wrong, and the registered tasks."""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import msgspec

from aiotaskq.backends.url import scheme_of
from aiotaskq.core.masking import mask, without_passwords
from aiotaskq.errors import AiotaskqError
from aiotaskq.runtime.health import Distance, examine, measure
from aiotaskq.web.dashboard.view import View, pages
from aiotaskq.web.dashboard.words import marked

LIBRARIES = ("sqlalchemy", "aiosqlite", "asyncpg", "asyncmy", "redis", "msgspec", "croniter", "starlette", "jinja2")
ROUNDS = 3  # of a measured round trip
KEEP = 10.0  # seconds for which an open page does not examine the store anew


class TaskType(msgspec.Struct):
    """A registered handler."""

    name: str
    where: str
    """Its function, as ``module.name``."""


class Settings(msgspec.Struct, kw_only=True):
    """The data of the page."""

    version: str
    python: str
    libraries: dict[str, str]
    stores: list[str]
    """The URLs of the stores, without passwords."""
    scheme: str
    latency: float | None
    """Median milliseconds of a round trip."""
    ahead: float | None
    """Milliseconds by which the store's clock is ahead of this host's; None where it has none."""
    problems: list[str]
    """What keeps work from going on."""
    invalid: int
    """Rows of an adopted database that are kept though they cannot be read."""
    types: list[TaskType]


@pages("settings", marked("Settings"))
async def settings(view: View) -> Settings:
    """Examine the store and list what is registered."""
    tq = view.tq
    distance, problems = await view.keep("doctor", KEEP, lambda: _examined(view))
    return Settings(
        version=_version("aiotaskq") or "",
        python=platform.python_version(),
        libraries={name: known for name in LIBRARIES if (known := _version(name)) is not None},
        stores=[mask(url) for url in tq._backends],
        scheme=scheme_of(tq.url),
        latency=None if distance is None else distance.median,
        ahead=None if distance is None else distance.ahead,
        problems=[without_passwords(each) for each in problems],
        invalid=len(tq.invalid_rows),
        types=[TaskType(name, _where(handler.function)) for name, handler in sorted(tq._registered.handlers.items())],
    )


async def _examined(view: View) -> tuple[Distance | None, list[str]]:
    tq, clock = view.tq, view.tq.queue.clock
    distance: Distance | None = None
    try:
        distance = await measure(tq.queue.backend, clock, ROUNDS)
        counts = (await view.counts.get()).stats
        return distance, (await examine(tq.queue.backend, clock, schedules=tq._open_schedules, known=counts)).problems
    except AiotaskqError as error:
        return distance, [str(error)]


def _where(function: Callable[..., Any]) -> str:
    name = getattr(function, "__qualname__", type(function).__name__)
    return f"{getattr(function, '__module__', '')}.{name}".lstrip(".")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
