"""``aiotaskq db``: creates, checks, prints and copies the tables.

``cli.tables`` is imported when a command runs, because it imports SQLAlchemy: a help page does not need it.
"""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
import typer

from aiotaskq.app.internal import internal
from aiotaskq.app.taskq import TaskQ
from aiotaskq.backends.base import InvalidRow
from aiotaskq.backends.url import scheme_of
from aiotaskq.cli.i18n import marked, tr, translated
from aiotaskq.cli.options import DEFAULT_DB, App, Db, Json, Target, argument, check_target, command, option
from aiotaskq.cli.output import Column, ProgressBar, echo, echo_json, echo_table, say, say_stderr
from aiotaskq.cli.store_access import load_quietly, opened, refuse_unready
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.gate import GateState
from aiotaskq.core.masking import mask
from aiotaskq.errors import NotSupported, ValidationError
from aiotaskq.log import printable
from aiotaskq.runtime.copy import Copied
from aiotaskq.runtime.copy import copy as copy_all
from aiotaskq.runtime.recode import Recoded, recode_schedules
from aiotaskq.runtime.recode import recode as recode_all

SHOWN = 5  # ids in a message
INVALID = (
    Column("TABLE", "table"),
    Column("ID", "id"),
    Column("COLUMN", "column"),
    Column("PROBLEM", lambda row: translated(row.problem), least=20),
    Column("ACTION", lambda row: translated(row.action), least=20),
)
UNCOPIED = (
    Column("KIND", "kind"),
    Column("ID", lambda row: translated(row.id)),
    Column("PROBLEM", lambda row: translated(row.problem), least=20),
)


@command("db upgrade", "Create the tables, or upgrade them to this version. Safe to repeat.")
def upgrade(db: Db = DEFAULT_DB, json: Json = False) -> None:
    from aiotaskq.cli.tables import HEAD, create_missing, version_of

    before = version_of(db)

    async def work() -> tuple[list[str], list[InvalidRow]]:
        made = await create_missing(db) if before == HEAD else []
        async with TaskQ(db) as tq:
            return made, tq.invalid_rows

    with ProgressBar(tr("upgrade"), None, quiet=json):
        made, invalid = asyncio.run(work())
    url = mask(db)
    if json:
        rows = msgspec.to_builtins(invalid)
        echo_json({"database": url, "before": before, "version": HEAD, "created_again": made, "invalid_rows": rows})
        return
    if made:
        names = tr(", ").join(made)
        say("{url}: dropped tables were created again, empty: {names}", url=url, names=names)
    elif before == HEAD:
        say("{url}: the tables are up to date, version {version}", url=url, version=HEAD)
    elif before is None:
        say("{url}: the tables were created, version {version}", url=url, version=HEAD)
    else:
        upgraded = marked("{url}: the tables were upgraded from version {before} to {version}")
        say(upgraded, url=url, before=before, version=HEAD)
    if invalid:
        say("invalid values, which are kept as they are: {count}", count=len(invalid))
        echo_table(invalid, INVALID)


@command(
    "db check",
    "Print the version of the tables, and the rows with invalid values, which stay as they are. Count groups anew, "
    "and let limits be looked at where tasks wait though there is room, after rows were changed by SQL.",
    "Check the tables; mend counts of groups.",
)
def check(db: Db = DEFAULT_DB, json: Json = False) -> None:
    from aiotaskq.cli.tables import HEAD, version_and_invalid_rows

    version, invalid = version_and_invalid_rows(db)
    mended = asyncio.run(_mend(db)) if version == HEAD else None
    url = mask(db)
    if json:
        rows = msgspec.to_builtins(invalid)
        said = {"database": url, "version": version, "newest": HEAD, "invalid_rows": rows}
        echo_json(said | {"mended": msgspec.to_builtins(mended)})
        return
    found = version or tr("none yet")
    say("{url}: version {version}; this aiotaskq uses {newest}", url=url, version=found, newest=HEAD)
    if invalid:
        echo_table(invalid, INVALID)
    else:
        say("no invalid rows")
    if mended is not None and mended.counts:
        say("counts mended: {count}", count=mended.counts)
    if mended is not None and mended.limits:
        keys = tr(", ").join(printable(key) for key in mended.limits[:SHOWN])
        say("limits at which tasks waited though there was room: {count} ({keys})", count=len(mended.limits), keys=keys)


@command("db sql", "Print the SQL that creates the tables in a database of this kind, to be run by an administrator.")
def sql(db: Db = DEFAULT_DB) -> None:
    from aiotaskq.cli.tables import sql_of

    echo(sql_of(db).rstrip())


@command(
    "db copy",
    "Copy tasks, groups, limits, schedules and paused queues from one store to another. An interrupted copy "
    "continues when it is run again; it is safe to repeat. FROM is not changed; stop its workers first. Public "
    "values are not copied.",
    "Copy tasks and schedules to another store.",
)
def copy(
    source: Annotated[str, argument("URL of the store to copy from.", "FROM")],
    target: Annotated[str, argument("URL of the store to copy to.", "TO")],
    running: Annotated[
        bool,
        option(
            "Also copy running tasks, as pending: they will run again. "
            "Without it, the copy is refused while tasks run.",
            "--running-as-pending",
        ),
    ] = False,
    app_target: App = None,
    json: Json = False,
) -> None:
    if "memory" in (scheme_of(source), scheme_of(target)):
        raise NotSupported(tr("memory:// exists only inside one process; copy between stores that processes share"))
    if source == target:
        raise ValidationError(tr("FROM and TO are the same store"))
    refuse_unready(source)
    codec = None if app_target is None else internal(load_quietly(app_target)).codec

    async def work(bar: ProgressBar) -> Copied:
        async with opened(source, target, codec=codec) as (here, there):
            return await copy_all(here, there, SystemClock().now(), running=running, progress=bar.update)

    with ProgressBar(tr("copy"), 0, quiet=json) as bar:
        done = asyncio.run(work(bar))
    if json:
        echo_json({"from": mask(source), "to": mask(target), **msgspec.to_builtins(done)})
    else:
        _say_copied(done)
    raise typer.Exit(int(bool(done.uncopied)))


def _say_copied(done: Copied) -> None:
    counts = msgspec.structs.asdict(done)
    there = marked(
        "copied: tasks {tasks}, schedules {schedules}; there already: tasks {tasks_there}, schedules {schedules_there}"
    )
    say(there, **counts)
    if done.groups or done.groups_there or done.limits:
        say("copied: groups {groups}, limits {limits}; there already: groups {groups_there}", **counts)
    if done.released:
        say("of these, running tasks that are pending now: {count}", count=done.released)
    if done.uncopied:
        say("not copied: {count}", count=len(done.uncopied))
        echo_table(done.uncopied, UNCOPIED)
    say_stderr("FROM is unchanged; do not run workers on it any more, or its tasks run twice")


@command(
    "db recode",
    "Write the params, progress, results, attempts and steps of all tasks, the callbacks of groups, the "
    "events, and the params of schedules, anew with the codec of your application, as after a new key. "
    "Workers may go on. It is safe to repeat.",
    "Write all rows anew with the application's codec.",
)
def recode(
    target: Target,
    after: Annotated[str | None, option("Continue an interrupted run after this task.", metavar="TASK_ID")] = None,
    json: Json = False,
) -> None:
    check_target(target)
    tq = load_quietly(target)
    refuse_unready(tq.url)
    done = Recoded(last=after)

    async def work(bar: ProgressBar) -> None:
        _ = internal(tq).scheduler()  # it may have a store of its own
        async with tq:
            await recode_all(tq.queue.backend, SystemClock(), done, bar.update)
            for backend in internal(tq).backends.values():
                if backend is not tq.queue.backend:
                    await recode_schedules(backend.schedules, SystemClock(), done)

    try:
        with ProgressBar(tr("recode"), 0, quiet=json) as bar:
            asyncio.run(work(bar))
    except BaseException:
        if done.last not in (None, after):
            say_stderr("to continue: --after {task_id}", task_id=str(done.last))
        raise
    if json:
        echo_json({"database": mask(tq.url), **msgspec.to_builtins(done)})
    else:
        _say_recoded(done)
    raise typer.Exit(int(bool(done.undecodable or done.locked)))


def _say_recoded(done: Recoded) -> None:
    counts = {name: getattr(done, name) for name in ("tasks", "steps", "groups", "events", "schedules")}
    said = marked("written anew: tasks {tasks}, steps {steps}, groups {groups}, events {events}, schedules {schedules}")
    say(said, **counts)
    for ids, said in (
        (done.undecodable, marked("not decodable, kept as they are: {count} ({ids})")),
        (done.locked, marked("in use all the time, run it again: {count} ({ids})")),
    ):
        if ids:
            shown = tr(", ").join(map(printable, ids[:SHOWN])) + ("…" if len(ids) > SHOWN else "")
            say(said, count=len(ids), ids=shown)


MOST_GATES = 100_000


class Mended(msgspec.Struct, frozen=True):
    """What was mended: how many counts of groups and children, and the keys of limits at which tasks waited in vain."""

    counts: int
    limits: list[str]


async def _mend(db: str) -> Mended:
    """Count groups anew, and make the limits due that have room for tasks that wait, and that no sweep would look at.

    None while a queue is paused, whose tasks wait at limits with room.
    """
    now = SystemClock().now()
    async with opened(db) as (backend,):
        counts = await backend.groups.mend(now)
        states = [] if await backend.paused() else await backend.gates.find(limit=MOST_GATES)
        stuck = sorted(state.gate.key for state in states if _is_stuck(state))
        if stuck:
            await backend.gates.mend(now)
        return Mended(counts, stuck)


def _is_stuck(state: GateState) -> bool:
    bounds = state.gate.bounds
    full = any(bound is not None and state.held >= bound for bound in (bounds.cap, bounds.window))
    return state.waiting > 0 and state.gate.next_at is None and not full
