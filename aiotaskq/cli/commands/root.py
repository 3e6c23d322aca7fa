"""The commands that stand alone: demo, init, run, push, stats, web, check, doctor, bench and completion."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from aiotaskq.cli.commands.options import (
    DEFAULT_DB,
    App,
    Command,
    Db,
    Host,
    Json,
    Port,
    ReadOnly,
    SchedulesUrl,
    TokenEnv,
    TokenFile,
    check_target,
    group,
    option,
    store_of,
)
from aiotaskq.cli.i18n import tr

HELP = tr("aiotaskq: a task queue and scheduler inside your asyncio application; no broker needed.")
app = group(HELP)
LEVELS = ("TRACE", "DEBUG", "INFO", "SUCCESS", "WARNING", "ERROR", "CRITICAL")
SHELLS = ("bash", "zsh", "fish")


def _version(wanted: bool) -> None:
    if wanted:
        # Taken where the interpreter keeps it: nothing in here imports the package root.
        print(f"aiotaskq {sys.modules['aiotaskq'].__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, option("--version", callback=_version, is_eager=True, help=tr("Print the version."))
    ] = False,
) -> None:
    pass


@app.command(
    cls=Command,
    short_help=tr("See it work, on the files of a folder."),
    help=tr(
        "See it work: one task per file of a folder, schedules, retries, a dead letter; every claim is checked.\n\n"
        "Reads the files (each is hashed and compressed in memory) and changes none. Hidden files and folders are left "
        "out, symbolic links are not followed. Stop it with Ctrl-C and run it again: it goes on where it was."
    ),
)
def demo(
    folder: Annotated[
        Path,
        typer.Argument(
            exists=True,
            file_okay=False,
            metavar="[FOLDER]",
            help=tr("Whose files are worked on; default the current folder."),
            show_default=False,
        ),
    ] = Path(),
    db: Annotated[
        str | None, option("--db", metavar="URL", help=tr("Default: a file in your cache folder, one for each FOLDER."))
    ] = None,
    max_files: Annotated[int, option(min=1, max=50_000, help=tr("At most so many files."))] = 2_000,
    max_mb: Annotated[
        int, option(min=1, help=tr("At most so many megabytes in all; larger files are left out."))
    ] = 512,
    concurrency: Annotated[int, option(min=1, max=1_000, help=tr("Tasks that run at a time."))] = 32,
    pause: Annotated[
        float, option(min=0.0, max=60.0, help=tr("Seconds that each file takes longer: time to press Ctrl-C."))
    ] = 0.0,
    fresh: Annotated[bool, option("--fresh", help=tr("Forget a run that was stopped, instead of going on."))] = False,
    json: Json = False,
) -> None:
    from aiotaskq.cli.demo import Options, run_demo

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


@app.command(
    cls=Command,
    help=tr("Write a starter application into a folder; it runs as it is, and no file is overwritten."),
    short_help=tr("Write a starter application."),
)
def init(
    folder: Annotated[
        Path, typer.Argument(metavar="[FOLDER]", help=tr("Default the current one."), show_default=False)
    ] = Path(),
) -> None:
    from aiotaskq.cli.init import write

    write(folder)


@app.command(
    cls=Command,
    short_help=tr("Run workers and the scheduler of your application."),
    help=tr(
        "Run workers and the scheduler of your application until SIGINT or SIGTERM; a second signal skips the drain."
    ),
)
def run(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:TQ",
            envvar="AIOTASKQ_APP",
            help=tr("Where your TaskQ is, as app:tq for 'tq' in app.py."),
            show_default=False,
        ),
    ],
    concurrency: Annotated[
        int, option(min=1, max=10_000, envvar="AIOTASKQ_CONCURRENCY", help=tr("Tasks that run at a time."))
    ] = 10,
    queues: Annotated[
        str | None,
        option(metavar="A,B", envvar="AIOTASKQ_QUEUES", help=tr("Only these queues."), show_default=False),
    ] = None,
    drain: Annotated[
        float,
        option(min=0.0, envvar="AIOTASKQ_DRAIN", help=tr("Seconds that running tasks may take to end at a signal.")),
    ] = 25.0,
    grace: Annotated[
        float, option(min=0.0, envvar="AIOTASKQ_GRACE", help=tr("Seconds more after they were cancelled."))
    ] = 5.0,
    processes: Annotated[
        int,
        option(
            min=1,
            max=1_000,
            metavar="N",
            envvar="AIOTASKQ_PROCESSES",
            help=tr("So many worker processes; one that dies is started again."),
        ),
    ] = 1,
    log_level: Annotated[
        str, option(envvar="AIOTASKQ_LOG_LEVEL", help=tr("TRACE, DEBUG, INFO, WARNING or ERROR."))
    ] = "INFO",
    web: Annotated[bool, option("--web", help=tr("Serve the operations API, too."))] = False,
    host: Host = "127.0.0.1",
    port: Port = 8765,
    token_env: TokenEnv = None,
    token_file: TokenFile = None,
    read_only: ReadOnly = False,
    number: Annotated[int, option(hidden=True, help="Which of a supervisor's processes this is.")] = 0,
    lifeline: Annotated[int, option(hidden=True, help="The descriptor of the socket to the supervisor.")] = -1,
) -> None:
    check_target(target)
    if log_level.upper() not in LEVELS:
        raise typer.BadParameter(tr("{level} is no level", level=repr(log_level)), param_hint="--log-level")
    names = None if queues is None else [part.strip() for part in queues.split(",") if part.strip()]
    options: dict[str, Any] = {"concurrency": concurrency, "drain": drain, "grace": grace, "level": log_level.upper()}
    if processes > 1 and not number:  # the environment says it to a supervisor's processes, too
        if web:
            wrong = tr("not with --processes: start 'aiotaskq web' beside them")
            raise typer.BadParameter(wrong, param_hint="--web")
        from aiotaskq.cli.supervisor import supervise

        raise typer.Exit(supervise(target, processes, queues=names, **options))
    from aiotaskq.cli.run import run_workers
    from aiotaskq.cli.shutdown import Lifeline

    serving = None
    if web:
        from aiotaskq.cli.web import Site

        serving = Site.of(host, port, token_env, token_file, read_only)
    line = Lifeline(number, lifeline) if number else None
    raise typer.Exit(run_workers(target, queues=names, lifeline=line, site=serving, **options))


@app.command(
    cls=Command,
    help=tr(
        "Push one task by the name of its type; prints its id. With --app the type and the params are checked by your "
        "handlers, whose defaults apply; the store is that of your TaskQ unless --db is given."
    ),
    short_help=tr("Push one task."),
)
def push(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help=tr("The task type."), show_default=False)],
    params: Annotated[
        str,
        typer.Argument(
            metavar="[JSON]",
            help=tr("Its params as a JSON object; - reads them from standard input, out of the shell's history."),
            show_default=False,
        ),
    ] = "{}",
    db: Db = DEFAULT_DB,
    target: App = None,
    delay: Annotated[float | None, option(min=0.0, metavar="SECONDS", help=tr("Not before that."))] = None,
    priority: Annotated[int | None, option(help=tr("Smaller numbers go first; default 0."))] = None,
    queue: Annotated[str | None, option(help=tr("Default the queue 'default'."))] = None,
    unique_key: Annotated[str | None, option(help=tr("One pending or running task with this key."))] = None,
    idempotency_key: Annotated[str | None, option(help=tr("One task with this key while its row is kept."))] = None,
    max_retries: Annotated[int | None, option(min=0, help=tr("Default 3."))] = None,
    timeout: Annotated[float | None, option(min=0.0, metavar="SECONDS", help=tr("That one run may take."))] = None,
    wait: Annotated[
        float | None,
        option(min=0.0, metavar="SECONDS", help=tr("Wait so long for its end, and print the result.")),
    ] = None,
    json: Json = False,
) -> None:
    from aiotaskq.cli.tasks import push_task

    options = {
        "delay": delay,
        "priority": priority,
        "queue": queue,
        "unique_key": unique_key,
        "idempotency_key": idempotency_key,
        "max_retries": max_retries,
        "timeout": timeout,
    }
    place = store_of(context, db, target)
    raise typer.Exit(push_task(place, name, params, options, target=target, wait=wait, as_json=json))


@app.command(
    cls=Command,
    help=tr("Count tasks by queue and status; with --watch each second, until Ctrl-C."),
    short_help=tr("Count tasks by queue and status."),
)
def stats(
    db: Db = DEFAULT_DB,
    watch: Annotated[bool, option("--watch", help=tr("Look again each second."))] = False,
    count: Annotated[
        int | None, option(min=1, metavar="N", help=tr("With --watch: end after so many looks."), show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    from aiotaskq.cli.stats import show, watching

    if watch:
        watching(db, count=count, as_json=json)
    else:
        show(db, as_json=json)


@app.command(
    cls=Command,
    help=tr("Serve the operations API of a store until Ctrl-C."),
    short_help=tr("Serve the operations API."),
)
def web(
    db: Db = DEFAULT_DB,
    schedules: SchedulesUrl = None,
    host: Host = "127.0.0.1",
    port: Port = 8765,
    token_env: TokenEnv = None,
    token_file: TokenFile = None,
    read_only: ReadOnly = False,
) -> None:
    from aiotaskq.cli.web import Site, serve

    serve(db, schedules, Site.of(host, port, token_env, token_file, read_only))


@app.command(
    cls=Command,
    help=tr("Say in one line whether the store answers and work goes on in it: 0 if so, 1 if not. For health probes."),
    short_help=tr("For health probes: is all well?"),
)
def check(
    db: Db = DEFAULT_DB,
    schedules: SchedulesUrl = None,
    late: Annotated[
        float,
        option(min=1.0, metavar="SECONDS", help=tr("How long a dead worker's task, or a due schedule, may lie there.")),
    ] = 120.0,
    max_age: Annotated[
        float | None,
        option(min=0.0, metavar="SECONDS", help=tr("How long a ready task may wait; default for ever.")),
    ] = None,
    json: Json = False,
) -> None:
    from aiotaskq.cli.health import check

    raise typer.Exit(check(db, schedules, late=late, max_age=max_age, as_json=json))


@app.command(
    cls=Command,
    help=tr("Tell versions, store, latency, clock and settings (without passwords): what a bug report needs."),
    short_help=tr("Tell what a bug report needs."),
)
def doctor(db: Db = DEFAULT_DB, schedules: SchedulesUrl = None, json: Json = False) -> None:
    from aiotaskq.cli.health import doctor

    raise typer.Exit(doctor(db, schedules, as_json=json))


@app.command(
    cls=Command,
    short_help=tr("Measure it beside its peers; needs a checkout."),
    help=tr("Run the benchmarks of the checkout that this was installed from; all options are theirs."),
    # All that follows goes to the benchmarks, --help too.
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def bench(context: typer.Context) -> None:
    from aiotaskq.cli.bench import bench

    raise typer.Exit(bench(context.args))


@app.command(
    cls=Command,
    help=tr("Print the script that completes words of this command: source <(aiotaskq completion bash)."),
    short_help=tr("Print the script that completes words."),
)
def completion(
    shell: Annotated[str, typer.Argument(metavar="bash|zsh|fish", help=tr("Your shell."), show_default=False)],
) -> None:
    if shell not in SHELLS:
        wrong = tr("use {names} (got {shell})", names=", ".join(SHELLS), shell=repr(shell))
        raise typer.BadParameter(wrong, param_hint="SHELL")
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    print(get_completion_script(prog_name="aiotaskq", complete_var="_AIOTASKQ_COMPLETE", shell=shell))
