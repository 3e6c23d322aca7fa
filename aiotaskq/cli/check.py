"""``aiotaskq check``: whether all is well, in one line, for health probes."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from aiotaskq.backends.base import Backend, Schedules
from aiotaskq.cli.i18n import tr, translated
from aiotaskq.cli.options import DEFAULT_DB, Db, Json, SchedulesUrl, command, option
from aiotaskq.cli.output import echo, echo_error, echo_json
from aiotaskq.cli.store_access import with_backend
from aiotaskq.cli.times import duration
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.masking import without_passwords
from aiotaskq.core.task import SECOND
from aiotaskq.errors import AiotaskqError
from aiotaskq.log import printable
from aiotaskq.runtime.health import Health, examine, named_types

CLAIM_DELAY = 5.0  # seconds within which an idle worker claims a ready task


@command(
    "check",
    tr(
        "Check that the store answers, and that tasks and schedules are processed. Prints one line; the "
        "exit code is 0 if all is well, else 1. For health probes."
    ),
)
def check(
    db: Db = DEFAULT_DB,
    schedules: SchedulesUrl = None,
    late: Annotated[
        float,
        option(
            min=1.0,
            metavar="SECONDS",
            help=tr("How long a dead worker's task, a due schedule, or a task of a type that no worker has may wait."),
        ),
    ] = 120.0,
    max_age: Annotated[
        float | None,
        option(min=0.0, metavar="SECONDS", help=tr("How long a ready task may wait; default no limit.")),
    ] = None,
    json: Json = False,
) -> None:
    async def work(backend: Backend, found: Schedules | None) -> Health:
        return await examine(backend, SystemClock(), schedules=found, late=late, max_age=max_age)

    try:
        health = with_backend(db, work, schedules)
    except AiotaskqError as error:
        if not json:
            raise
        echo_json({"ok": False, "problems": [without_passwords(error)]})
        raise typer.Exit(1) from None
    if json:
        echo_json(msgspec.to_builtins(health))
    elif health.ok:
        running = health.counts.get("running", 0)
        said = tr("ok: {ready} ready, {running} running", ready=f"{health.ready:,}", running=f"{running:,}")
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
