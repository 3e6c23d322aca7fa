"""``aiotaskq check`` and ``doctor``: is all well, in one line; and all that a bug report needs."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import msgspec

from aiotaskq.app.taskq import TaskQ
from aiotaskq.backends.url import scheme_of
from aiotaskq.cli.i18n import marked, tr, translated
from aiotaskq.cli.output import say, say_error, say_held, say_json, say_title
from aiotaskq.cli.store_access import with_tq
from aiotaskq.cli.tables import describe
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.masking import mask, without_passwords
from aiotaskq.errors import AiotaskqError
from aiotaskq.log import printable
from aiotaskq.runtime.health import Distance, Health, examine, measure

LIBRARIES = (
    *("sqlalchemy", "aiosqlite", "asyncpg", "alembic", "croniter", "msgspec", "loguru", "typer", "rich", "tzdata"),
    *("redis", "asyncmy", "psycopg", "starlette", "uvicorn", "uvloop", "prometheus-client", "opentelemetry-api"),
)
LABELS = {"server": marked("server"), "version": marked("schema"), "newest": marked("newest schema")}
SOON = 5.0  # seconds in which a worker that has nothing to do claims what is ready
FAR = 1_000.0  # milliseconds by which a store's clock may be off before it is told: the log's times do not match its


def check(url: str, place: str | None, *, late: float, max_age: float | None, as_json: bool) -> int:
    """Print one line, and return 0 if all is well, else 1."""

    async def work(tq: TaskQ) -> Health:
        has = place is not None or tq.queue.backend.schedules is not None
        schedules = tq.scheduler._schedules if has else None
        return await examine(tq.queue.backend, SystemClock(), schedules=schedules, late=late, max_age=max_age)

    try:
        found = with_tq(url, work, place)
    except AiotaskqError as error:
        if not as_json:
            raise
        say_json({"ok": False, "problems": [without_passwords(error)]})
        return 1
    if as_json:
        say_json(msgspec.to_builtins(found))
    elif found.ok:
        running = found.counts.get("running", 0)
        said = tr("ok: {ready} ready, {running} running", ready=f"{found.ready:,}", running=f"{running:,}")
        say(said + _unclaimed(found.ready, running, found.oldest_age))
    else:
        say_error(tr("; ").join(map(translated, found.problems)))
    return int(not found.ok)


def _unclaimed(ready: int, running: int, age: float | None) -> str:
    """What is said where tasks wait and none runs: a worker would have claimed them."""
    if not ready or running or age is None or age < SOON:
        return ""
    return tr(
        "; no worker has claimed the oldest for {seconds} s: start one with 'aiotaskq run'", seconds=f"{age:,.0f}"
    )


def doctor(url: str, place: str | None, *, as_json: bool) -> int:
    """Print versions, store, latency, clocks and settings; return 1 if the store is no good, else 0."""
    found: dict[str, Any] = {
        "aiotaskq": sys.modules["aiotaskq"].__version__,
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "libraries": {name: known for name in LIBRARIES if (known := _version(name)) is not None},
        "settings": _settings(),
        "database": mask(url),
    }
    try:
        found["store"] = _store(url, place)
        problem = None
    except AiotaskqError as error:
        problem = without_passwords(error)
    found["problem"] = problem
    if as_json:
        say_json(found)
    else:
        _say(found)
    return int(problem is not None)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _settings() -> dict[str, str]:
    """What the environment sets, with stars for what may be secret."""
    found = {}
    for name, value in sorted(os.environ.items()):
        if name.startswith("AIOTASKQ_"):
            secret = any(word in name for word in ("TOKEN", "SECRET", "PASS", "KEY"))
            found[name] = "***" if secret else mask(value) if name.endswith("URL") or "@" in value else value
    return found


def _store(url: str, place: str | None) -> dict[str, Any]:
    facts = describe(url)

    async def work(tq: TaskQ) -> tuple[Distance, Health]:
        has = place is not None or tq.queue.backend.schedules is not None
        schedules = tq.scheduler._schedules if has else None
        distance = await measure(tq.queue.backend, SystemClock())
        return distance, await examine(tq.queue.backend, SystemClock(), schedules=schedules)

    distance, health = with_tq(url, work, place)
    return {
        "scheme": scheme_of(url),
        **facts,
        "latency_ms": {"median": round(distance.median, 3), "worst": round(distance.worst, 3)},
        "clock_ahead_ms": None if distance.ahead is None else round(distance.ahead, 3),
        "health": msgspec.to_builtins(health),
    }


def _say(found: dict[str, Any]) -> None:
    say_title(f"aiotaskq {found['aiotaskq']}, Python {found['python']}, {found['platform']}")
    say(tr(", ").join(f"{name} {known}" for name, known in found["libraries"].items()))
    for name, value in found["settings"].items():
        say(f"{name}={printable(value, 1_000)}")
    say()
    say_title(printable(found["database"], 1_000))
    if found["problem"] is not None:
        say_held(False, translated(found["problem"]))
        return
    store = found["store"]
    for name in ("server", "version", "newest"):
        if store.get(name) is not None and (name != "newest" or store["newest"] != store["version"]):
            say(f"  {tr(LABELS[name])}{tr(': ')}{printable(store[name])}")
    latency = store["latency_ms"]
    say(tr("  latency: {median} ms, at most {worst} ms", median=latency["median"], worst=latency["worst"]))
    ahead = store["clock_ahead_ms"]
    if ahead is None:
        say(tr("  clock: the host's"))
    else:
        say_held(
            abs(ahead) < FAR,
            tr("clock: {ahead} ms ahead of this host's", ahead=f"{ahead + 0.0:+.1f}".replace("-0.0", "+0.0")),
        )
    health = store["health"]
    for problem in health["problems"]:
        say_held(False, translated(problem))
    if health["ok"]:
        running = health["counts"].get("running", 0)
        said = tr("{ready} ready, {running} running", ready=health["ready"], running=running)
        said += _unclaimed(health["ready"], running, health["oldest_age"]) or tr(", work goes on")
        say_held(True, said)
