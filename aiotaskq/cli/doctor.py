"""``aiotaskq doctor``: versions, store and settings for a bug report; ``aiotaskq check``: health in one line."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import Distribution, distributions, packages_distributions
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

import msgspec
import typer

from aiotaskq.app.internal import internal
from aiotaskq.app.taskq import TaskQ
from aiotaskq.backends.url import scheme_of
from aiotaskq.cli.i18n import marked, tr, translated, wrapped
from aiotaskq.cli.options import DEFAULT_DB, Db, Json, SchedulesUrl, command, option
from aiotaskq.cli.output import echo, echo_check, echo_error, echo_json, echo_title, say, width_of_output
from aiotaskq.cli.store_access import with_tq
from aiotaskq.cli.tables import describe
from aiotaskq.cli.times import duration
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.masking import mask, without_passwords
from aiotaskq.core.task import SECOND
from aiotaskq.errors import AiotaskqError
from aiotaskq.log import printable
from aiotaskq.runtime.health import Distance, Health, examine, measure, named_types, version_of

LIBRARIES = (
    *("sqlalchemy", "aiosqlite", "asyncpg", "alembic", "croniter", "msgspec", "loguru", "typer", "rich", "tzdata"),
    *("redis", "asyncmy", "psycopg", "starlette", "uvicorn", "uvloop", "prometheus-client", "opentelemetry-api"),
)
LABELS = {"server": marked("server"), "version": marked("schema"), "newest": marked("newest schema")}
MAX_AHEAD = 1_000.0  # milliseconds by which the store's clock may differ from that of this host


@command(
    "doctor",
    "Print versions, settings, and the store's latency, clock and health, for a bug report. Passwords are left out.",
)
def doctor(db: Db = DEFAULT_DB, schedules: SchedulesUrl = None, json: Json = False) -> None:
    found: dict[str, Any] = {
        "aiotaskq": sys.modules["aiotaskq"].__version__,
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "libraries": {name: known for name in LIBRARIES if (known := version_of(name)) is not None},
        "other_distributions": _other_distributions(),
        "settings": _settings(),
        "database": mask(db),
        "problem": None,
    }
    health = None
    try:
        found["store"], health = _store(db, schedules)
    except AiotaskqError as error:
        found["problem"] = without_passwords(error)
    if json:
        echo_json(found)
    else:
        _say(found, health)
    raise typer.Exit(int(found["problem"] is not None))


def _other_distributions() -> list[dict[str, str]]:
    """Return the installed distributions, but the one that runs, that have this name or provide a package of it.

    The public index has another project of this name: either one may overwrite files of the other, or hide it.
    """
    names = {"aiotaskq", *packages_distributions().get("aiotaskq", ())}
    found = {
        (one.name, one.version, str(_folder(one))): one.name.lower() == "aiotaskq" and _is_running(one)
        for name in names
        for one in distributions(name=name)
    }
    # An update that was broken off leaves two in one folder.
    known = sys.modules["aiotaskq"].__version__
    own = sorted((one for one, runs in found.items() if runs), key=lambda one: one[1] != known)[:1]
    return [dict(zip(("name", "version", "folder"), one, strict=True)) for one in sorted(found.keys() - set(own))]


def _folder(one: Distribution) -> Path:
    return Path(str(one.locate_file(""))).resolve()


def _is_running(one: Distribution) -> bool:
    """Return whether the imported package is in the folder of the distribution, or of the checkout that it names."""
    origin = msgspec.json.decode(one.read_text("direct_url.json") or "{}").get("url", "")
    folders = (_folder(one), Path(unquote(urlsplit(origin).path)))
    running = Path(str(sys.modules["aiotaskq"].__file__)).parent.resolve()
    return running in [(folder / "aiotaskq").resolve() for folder in folders]


def _settings() -> dict[str, str]:
    """Return the environment variables of aiotaskq, with stars for those that may be secret."""
    found = {}
    for name, value in sorted(os.environ.items()):
        if name.startswith("AIOTASKQ_"):
            secret = any(word in name for word in ("TOKEN", "SECRET", "PASS", "KEY"))
            found[name] = "***" if secret else mask(value) if name.endswith("URL") or "@" in value else value
    return found


def _store(url: str, schedules: str | None) -> tuple[dict[str, Any], Health]:
    facts = describe(url)

    async def work(tq: TaskQ) -> tuple[Distance, Health]:
        return await measure(tq.queue.backend, SystemClock()), await _health(tq)

    distance, health = with_tq(url, work, schedules)
    store = {
        "scheme": scheme_of(url),
        **facts,
        "latency_ms": {"median": round(distance.median, 3), "worst": round(distance.worst, 3)},
        "clock_ahead_ms": None if distance.ahead is None else round(distance.ahead, 3),
        "health": msgspec.to_builtins(health),
    }
    return store, health


async def _health(tq: TaskQ, **options: Any) -> Health:
    return await examine(tq.queue.backend, SystemClock(), schedules=internal(tq).open_schedules(), **options)


def _say(found: dict[str, Any], health: Health | None) -> None:
    echo_title(f"aiotaskq {found['aiotaskq']}, Python {found['python']}, {found['platform']}")
    libraries = tr(", ").join(f"{name} {known}" for name, known in found["libraries"].items())
    room = width_of_output()
    for line in [libraries] if room is None else wrapped(libraries, room):
        echo(line)
    for other in found["other_distributions"]:
        echo_check(
            False,
            tr(
                "another distribution provides the package aiotaskq: {name} {version} in {folder}; "
                "uninstall it, then install aiotaskq again",
                **other,
            ),
        )
    for name, value in found["settings"].items():
        echo(f"{name}={printable(value, 1_000)}")
    echo()
    echo_title(found["database"])
    if health is None:
        echo_check(False, translated(found["problem"]))
        return
    store = found["store"]
    for name, label in LABELS.items():
        if store.get(name) is not None and (name != "newest" or store["newest"] != store["version"]):
            echo(f"  {tr(label)}{tr(': ')}{printable(store[name])}")
    latency = store["latency_ms"]
    say("  latency: median {median} ms, maximum {worst} ms", median=latency["median"], worst=latency["worst"])
    ahead = store["clock_ahead_ms"]
    if ahead is None:
        say("  clock: that of this host")
    else:
        echo_check(
            abs(ahead) < MAX_AHEAD,
            tr("clock: {ahead} ms ahead of this host's", ahead=f"{ahead + 0.0:+.1f}".replace("-0.0", "+0.0")),
        )
    for problem in health.problems:
        echo_check(False, translated(problem))
    if health.ok:
        said = tr("{ready} ready, {running} running", ready=health.ready, running=health.counts.get("running", 0))
        echo_check(not health.unknown_types, said + unclaimed(health))


# ---- in one line ----------------------------------------------------------------------------------------------------

CLAIM_DELAY = 5.0  # seconds within which an idle worker claims a ready task


@command(
    "check",
    "Check that the store answers, and that tasks and schedules are processed. Prints one line; the "
    "exit code is 0 if all is well, else 1. For health probes.",
)
def check(
    db: Db = DEFAULT_DB,
    schedules: SchedulesUrl = None,
    late: Annotated[
        float,
        option(
            "How long a dead worker's task, a due schedule, or a task of a type that no worker has may wait.",
            min=1.0,
            metavar="SECONDS",
        ),
    ] = 120.0,
    max_age: Annotated[
        float | None,
        option("How long a ready task may wait; default no limit.", min=0.0, metavar="SECONDS"),
    ] = None,
    json: Json = False,
) -> None:
    try:
        health = with_tq(db, lambda tq: _health(tq, late=late, max_age=max_age), schedules)
    except AiotaskqError as error:
        if not json:
            raise
        echo_json({"ok": False, "problems": [without_passwords(error)]})
        raise typer.Exit(1) from None
    if json:
        echo_json(msgspec.to_builtins(health))
    elif health.ok:
        running = health.counts.get("running", 0)
        said = tr("ok: {ready} ready, {running} running", ready=health.ready, running=running)
        echo(said + unclaimed(health))
    else:
        echo_error(tr("; ").join(map(translated, health.problems)))
    raise typer.Exit(int(not health.ok))


def unclaimed(health: Health) -> str:
    """Return what keeps tasks waiting, or an empty text: no worker that seems to run, none of a type, paused queues."""
    said = ""
    if health.ready and not health.counts.get("running") and (health.oldest_age or 0.0) >= CLAIM_DELAY:
        said = tr(
            "; no worker works on them, the oldest has waited for {time}: start one with 'aiotaskq run'",
            time=duration(int((health.oldest_age or 0.0) * SECOND)),
        )
    if health.unknown_types:
        said += tr("; no worker has these types: {types}", types=named_types(health.unknown_types))
    if health.paused:
        said += tr("; paused queues: {queues}", queues=printable(", ".join(health.paused)))
    return said
