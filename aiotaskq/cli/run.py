"""``aiotaskq run``: runs the workers and the scheduler of an application, in this process or in several."""

from __future__ import annotations

from typing import Annotated

import typer

from aiotaskq.cli.i18n import tr
from aiotaskq.cli.options import (
    Host,
    Port,
    ReadOnly,
    ShowArgs,
    Target,
    TokenEnv,
    TokenFile,
    check_target,
    command,
    option,
)
from aiotaskq.cli.shutdown import Lifeline, WorkerOptions
from aiotaskq.cli.supervisor import supervise
from aiotaskq.cli.web import Site, token_of
from aiotaskq.cli.worker_process import run_workers, show_log

LEVELS = ("TRACE", "DEBUG", "INFO", "SUCCESS", "WARNING", "ERROR", "CRITICAL")


@command(
    "run",
    tr("Run workers and the scheduler of your application until SIGINT or SIGTERM; a second signal skips the drain."),
)
def run(
    target: Target,
    concurrency: Annotated[
        int, option(tr("Number of tasks that run concurrently."), min=1, max=10_000, envvar="AIOTASKQ_CONCURRENCY")
    ] = 10,
    queues: Annotated[
        str | None,
        option(tr("Process only these queues."), metavar="A,B", envvar="AIOTASKQ_QUEUES", show_default=False),
    ] = None,
    drain: Annotated[
        float,
        option(
            tr("Seconds that running tasks have to end after a signal."),
            metavar="SECONDS",
            min=0.0,
            envvar="AIOTASKQ_DRAIN",
        ),
    ] = 25.0,
    grace: Annotated[
        float,
        option(
            tr("Seconds that they have after their cancellation."), metavar="SECONDS", min=0.0, envvar="AIOTASKQ_GRACE"
        ),
    ] = 5.0,
    processes: Annotated[
        int,
        option(
            tr("Number of worker processes; one that ends is started again."),
            min=1,
            max=1_000,
            metavar="N",
            envvar="AIOTASKQ_PROCESSES",
        ),
    ] = 1,
    log_level: Annotated[
        str, option(tr("TRACE, DEBUG, INFO, SUCCESS, WARNING, ERROR or CRITICAL."), envvar="AIOTASKQ_LOG_LEVEL")
    ] = "INFO",
    web: Annotated[bool, option(tr("Also serve the dashboard and the operations API."), "--web")] = False,
    host: Host = "127.0.0.1",
    port: Port = 8765,
    token_env: TokenEnv = None,
    token_file: TokenFile = None,
    read_only: ReadOnly = False,
    show_args: ShowArgs = False,
    number: Annotated[int, option("Which of a supervisor's processes this is.", hidden=True)] = 0,
    lifeline: Annotated[int, option("The descriptor of the socket to the supervisor.", hidden=True)] = -1,
) -> None:
    check_target(target)
    if log_level.upper() not in LEVELS:
        raise typer.BadParameter(tr("{level} is not a log level", level=repr(log_level)), param_hint="--log-level")
    names = None if queues is None else [part.strip() for part in queues.split(",") if part.strip()]
    options = WorkerOptions(
        target=target, concurrency=concurrency, queues=names, drain=drain, grace=grace, level=log_level.upper()
    )
    if processes > 1 and not number:  # a supervisor's processes find --processes in the environment, too
        if web:
            wrong = tr("cannot be used with --processes; start 'aiotaskq web' beside the workers")
            raise typer.BadParameter(wrong, param_hint="--web")
        show_log(options.level)
        raise typer.Exit(supervise(options, processes))
    site = Site(host, port, token_of(token_env, token_file), read_only, show_args) if web else None
    line = Lifeline(number, lifeline) if number else None
    raise typer.Exit(run_workers(options, lifeline=line, site=site))
