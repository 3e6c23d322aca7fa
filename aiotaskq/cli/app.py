"""The commands and their options, each handed to the sibling that does it; the one file that knows typer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

CODES = (
    "Exit codes: 0 ok, 1 error, 2 wrong usage; of run: 0 drained, 3 some tasks given back, 4 some abandoned; "
    "130 stopped by Ctrl-C."
)


def _group(help: str) -> typer.Typer:
    # Help in plain text: drawing it with rich would double the time it takes.
    return typer.Typer(
        help=help,
        epilog=CODES,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )


app = _group("aiotaskq: a task queue and scheduler inside your asyncio application; no broker needed.")
db_app = _group("Make, check or print the tables.")
schedules_app = _group("Look at schedules.")
tasks_app = _group("Look at tasks, and operate on them.")
app.add_typer(db_app, name="db")
app.add_typer(schedules_app, name="schedules")
app.add_typer(tasks_app, name="tasks")

Db = Annotated[
    str, typer.Option("--db", metavar="URL", envvar="AIOTASKQ_DATABASE_URL", help="The database, as sqlite:///app.db.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on standard output.")]
Ids = Annotated[list[str], typer.Argument(metavar="TASK_ID...", help="One or more task ids.", show_default=False)]
StatusNames = Annotated[
    list[str] | None,
    typer.Option("--status", help="pending, running, completed, failed, cancelled or expired; may be repeated."),
]
TypeName = Annotated[str | None, typer.Option("--type", help="Only tasks of this type.")]
QueueName = Annotated[str | None, typer.Option("--queue", help="Only tasks of this queue.")]
DEFAULT_DB = "sqlite:///aiotaskq.db"


def _version(wanted: bool) -> None:
    if wanted:
        # Taken where the interpreter keeps it: nothing in here imports the package root.
        print(f"aiotaskq {sys.modules['aiotaskq'].__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command(short_help="See it work, on the files of a folder.")
def demo(
    folder: Annotated[
        Path,
        typer.Argument(
            exists=True,
            file_okay=False,
            metavar="[FOLDER]",
            help="Whose files are worked on; default the current folder.",
            show_default=False,
        ),
    ] = Path(),
    db: Annotated[
        str | None,
        typer.Option("--db", metavar="URL", help="Default: a file in your cache folder, one for each FOLDER."),
    ] = None,
    max_files: Annotated[int, typer.Option(min=1, max=50_000, help="At most so many files.")] = 2_000,
    max_mb: Annotated[
        int, typer.Option(min=1, help="At most so many megabytes in all; larger files are left out.")
    ] = 512,
    concurrency: Annotated[int, typer.Option(min=1, max=1_000, help="Tasks that run at a time.")] = 32,
    pause: Annotated[
        float, typer.Option(min=0.0, max=60.0, help="Seconds that each file takes longer: time to press Ctrl-C.")
    ] = 0.0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget a run that was stopped, instead of going on.")] = False,
    json: Json = False,
) -> None:
    """See it work: one task per file of a folder, schedules, retries, a dead letter; every claim is checked.

    Reads the files (each is hashed and compressed in memory) and changes none. Hidden files and folders are left out,
    symbolic links are not followed. Stop it with Ctrl-C and run it again: it goes on where it was.
    """
    from aiotaskq.demo import Options, run_demo

    raise typer.Exit(
        run_demo(
            Options(
                folder=folder,
                url=db,
                max_files=max_files,
                max_bytes=max_mb * 1_000_000,
                concurrency=concurrency,
                pause=pause,
                fresh=fresh,
                as_json=json,
            )
        )
    )


@app.command(short_help="Run workers and the scheduler of your application.")
def run(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:TQ", help="Where your TaskQ is, as app:tq for 'tq' in app.py.", show_default=False
        ),
    ],
    concurrency: Annotated[int, typer.Option(min=1, max=10_000, help="Tasks that run at a time.")] = 10,
    queues: Annotated[str | None, typer.Option(metavar="A,B", help="Only these queues.", show_default=False)] = None,
    drain: Annotated[
        float, typer.Option(min=0.0, help="Seconds that running tasks may take to end at a signal.")
    ] = 25.0,
    grace: Annotated[float, typer.Option(min=0.0, help="Seconds more after they were cancelled.")] = 5.0,
    processes: Annotated[
        int,
        typer.Option(min=1, max=1_000, metavar="N", help="So many worker processes; one that dies is started again."),
    ] = 1,
    log_level: Annotated[str, typer.Option(help="TRACE, DEBUG, INFO, WARNING or ERROR.")] = "INFO",
    number: Annotated[int, typer.Option(hidden=True, help="Which of a supervisor's processes this is.")] = 0,
    lifeline: Annotated[int, typer.Option(hidden=True, help="The descriptor of the socket to the supervisor.")] = -1,
) -> None:
    """Run workers and the scheduler of your application until SIGINT or SIGTERM; a second signal skips the drain."""
    module, colon, name = target.partition(":")
    if not (module and colon and name):
        raise typer.BadParameter(f"{target!r} names no object; write app:tq for 'tq' in app.py", param_hint="MODULE:TQ")
    if log_level.upper() not in ("TRACE", "DEBUG", "INFO", "SUCCESS", "WARNING", "ERROR", "CRITICAL"):
        raise typer.BadParameter(f"{log_level!r} is no level", param_hint="--log-level")
    names = None if queues is None else [part.strip() for part in queues.split(",") if part.strip()]
    options: dict[str, Any] = {"concurrency": concurrency, "drain": drain, "grace": grace, "level": log_level.upper()}
    if processes > 1:
        from aiotaskq.cli.processes import supervise

        raise typer.Exit(supervise(target, processes, queues=names, **options))
    from aiotaskq.cli.run import run_workers
    from aiotaskq.cli.stopping import Lifeline

    line = Lifeline(number, lifeline) if number else None
    raise typer.Exit(run_workers(module, name, queues=names, lifeline=line, **options))


@app.command()
def stats(db: Db = DEFAULT_DB, json: Json = False) -> None:
    """Count tasks by queue and status."""
    from aiotaskq.cli.operate import stats

    stats(db, as_json=json)


@app.command(
    short_help="Measure it beside its peers; needs a checkout.",
    # All that follows goes to the benchmarks, --help too.
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def bench(context: typer.Context) -> None:
    """Run ``python -m benchmarks`` of the checkout that this was installed from; options are handed on to it."""
    from aiotaskq.cli.bench import bench

    raise typer.Exit(bench(context.args))


# ---- tasks ----


@tasks_app.command("list")
def tasks_list(
    db: Db = DEFAULT_DB,
    status: StatusNames = None,
    type: TypeName = None,
    queue: QueueName = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many.")] = 20,
    after: Annotated[str | None, typer.Option(metavar="TASK_ID", help="Go on behind this one.")] = None,
    json: Json = False,
) -> None:
    """List tasks, the newest first."""
    from aiotaskq.cli.operate import list_tasks

    list_tasks(db, status=status, type=type, queue=queue, limit=limit, after=after, as_json=json)


@tasks_app.command("show")
def tasks_show(
    task_id: Annotated[str, typer.Argument(metavar="TASK_ID", show_default=False)],
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Show one task, with its params, result and error."""
    from aiotaskq.cli.operate import show_task

    show_task(db, task_id, as_json=json)


@tasks_app.command("retry")
def tasks_retry(ids: Ids, db: Db = DEFAULT_DB, json: Json = False) -> None:
    """Put failed, cancelled or expired tasks back, their retries unused."""
    from aiotaskq.cli.operate import retry_tasks

    raise typer.Exit(retry_tasks(db, ids, as_json=json))


@tasks_app.command("cancel")
def tasks_cancel(ids: Ids, db: Db = DEFAULT_DB, json: Json = False) -> None:
    """Cancel pending tasks; ask running ones to stop."""
    from aiotaskq.cli.operate import cancel_tasks

    raise typer.Exit(cancel_tasks(db, ids, as_json=json))


@tasks_app.command("purge", short_help="Delete ended tasks for good.")
def tasks_purge(
    db: Db = DEFAULT_DB,
    status: StatusNames = None,
    type: TypeName = None,
    queue: QueueName = None,
    older_than: Annotated[
        float | None, typer.Option(min=0.0, metavar="SECONDS", help="Only those that ended longer ago.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Delete ended tasks for good: all of them, or those that the options name."""
    if not yes:
        if json or not sys.stdin.isatty():
            raise typer.BadParameter("deleting is for good; say --yes", param_hint="--yes")
        typer.confirm("Delete them for good?", abort=True, err=True)
    from aiotaskq.cli.operate import purge_tasks

    purge_tasks(db, status=status, type=type, queue=queue, older_than=older_than, as_json=json)


# ---- schedules ----


@schedules_app.command("preview", short_help="Print the next times of a cron expression.")
def schedules_preview(
    expression: Annotated[
        str, typer.Argument(metavar="EXPR", help="Cron: 5 fields, or 6 with the seconds first.", show_default=False)
    ],
    timezone: Annotated[str | None, typer.Option(help="IANA name, as Europe/Berlin; default the system's.")] = None,
    count: Annotated[int, typer.Option(min=1, max=1_000, help="How many.")] = 5,
    after: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Start there, as 2026-03-28T12:00; without an offset in that zone."),
    ] = None,
    json: Json = False,
) -> None:
    """Print the next times of a cron expression, quoted as "0 2 * * *"."""
    from aiotaskq.cli.operate import preview

    preview(expression, timezone=timezone, count=count, after=after, as_json=json)


# ---- db ----


@db_app.command("upgrade")
def db_upgrade(db: Db = DEFAULT_DB) -> None:
    """Make the tables, or bring existing ones to this version; harmless when repeated."""
    from aiotaskq.cli.tables import upgrade

    upgrade(db)


@db_app.command("check")
def db_check(db: Db = DEFAULT_DB, json: Json = False) -> None:
    """Tell the tables' version, and which rows do not mean what their columns say; changes nothing."""
    from aiotaskq.cli.tables import check

    check(db, as_json=json)


@db_app.command("sql")
def db_sql(db: Db = DEFAULT_DB) -> None:
    """Print the SQL that makes the tables in such a database, for who may not let a program do it."""
    from aiotaskq.cli.tables import sql

    sql(db)
