"""``aiotaskq run``: loads the application's TaskQ, and runs its workers and its scheduler until a signal.

That is in this process, or in several, which the supervisor starts as this command again.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import sys
from collections.abc import Coroutine
from io import TextIOWrapper
from typing import TYPE_CHECKING, Annotated, Any

import typer
from loguru import logger
from msgspec import Struct

from aiotaskq.app.internal import RunOptions, internal
from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli.i18n import marked, tr
from aiotaskq.cli.options import check_target
from aiotaskq.cli.output import begin_lines, say_stderr
from aiotaskq.cli.parameters import given_to, keyword, options_from, register
from aiotaskq.cli.shutdown import HOW_TO_STOP, STOPPED, Deadline, Lifeline, Signals, WorkerOptions
from aiotaskq.cli.store_access import load
from aiotaskq.cli.supervisor import Supervisor, words_of
from aiotaskq.cli.web import SITE, Site, serving
from aiotaskq.core.masking import mask
from aiotaskq.core.stopping import ExitCode
from aiotaskq.core.task import SECOND, Task
from aiotaskq.errors import ValidationError
from aiotaskq.integrations.logging import NOWHERE, bind_task
from aiotaskq.log import log, output
from aiotaskq.operations.fields import about
from aiotaskq.runtime.hooks import HookCall
from aiotaskq.runtime.task_log import log_completed

if TYPE_CHECKING:
    from loguru import Record

LEVELS = ("TRACE", "DEBUG", "INFO", "SUCCESS", "WARNING", "ERROR", "CRITICAL")


class Own(Struct):
    """The options of ``run`` that a supervisor does not pass on."""

    processes: Annotated[int, about("Number of worker processes; one that ends is started again.", ge=1, le=1_000)] = 1
    web: Annotated[bool, about("Also serve the dashboard and the operations API.")] = False
    reload: Annotated[
        bool, about("Start again when a Python file below this folder has changed. Needs the extra reload.")
    ] = False


Number = Annotated[int, typer.Option(help="Which of a supervisor's processes this is.", hidden=True)]
Descriptor = Annotated[int, typer.Option(help="The descriptor of the socket to the supervisor.", hidden=True)]


def _run(processes: int, web: bool, reload: bool, number: int, lifeline: int, **given: Any) -> None:
    options: WorkerOptions = given_to(WorkerOptions, given | {"log_level": given["log_level"].upper()})
    check_target(options.target)
    if options.log_level not in LEVELS:
        wrong = tr("{level} is not a log level", level=repr(given["log_level"]))
        raise typer.BadParameter(wrong, param_hint="--log-level")
    site: Site = given_to(Site, given)
    if (processes > 1 or reload) and lifeline < 0:  # a supervisor's processes find --processes in the environment, too
        if web and processes > 1:
            wrong = tr("cannot be used with --processes; start 'aiotaskq web' beside the workers")
            raise typer.BadParameter(wrong, param_hint="--web")
        show_log(options.log_level)
        served = ["--web", *words_of(site)] if web else []
        raise typer.Exit(asyncio.run(Supervisor(options, processes, reload=reload, served=served).run()))
    line = Lifeline(number, lifeline) if lifeline >= 0 else None
    raise typer.Exit(run_workers(options, lifeline=line, served=site.arguments() if web else None))


_OPTIONS = options_from(WorkerOptions, ["target"], WorkerOptions.__struct_fields__)
_OWN = options_from(Own, environment=["processes"])
_HIDDEN = [keyword("number", Number, 0), keyword("lifeline", Descriptor, -1)]
register(
    "run",
    _run,
    [*_OPTIONS, *_OWN, *SITE, *_HIDDEN],
    "Run workers and the scheduler of your application until SIGINT or SIGTERM; a second signal skips the drain.",
)


# ---- one process -----------------------------------------------------------------------------------------------------

SHOWN = 5  # tasks that are listed


class DrainReport:
    """Reports the two stages of a stop: the drain, in which handlers may end, and the grace after their cancel."""

    def __init__(self, tq: TaskQ, drain: float, grace: float) -> None:
        """``drain`` and ``grace`` in seconds."""
        self._tq = tq
        self._drain = drain
        self._grace = grace
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Report that the drain begins. Called in the event loop."""
        if not self._running:
            say_stderr("stopping: no task is running")
            return
        said = marked(
            "stopping: waiting up to {seconds} s for running tasks ({count}): {tasks}; a second signal does not wait"
        )
        self._say(said, seconds=f"{self._drain:g}")
        why = tr("after {seconds} s", seconds=f"{self._drain:g}")
        self._timer = asyncio.get_running_loop().call_later(self._drain, self.cancelled, why)

    def cancelled(self, why: str) -> None:
        """Report that the drain is over, and why."""
        self.end()
        if self._running:
            said = marked("{why}: cancelling running tasks ({count}), which have {seconds} s to end: {tasks}")
            self._say(said, why=why, seconds=f"{self._grace:g}")

    def end(self) -> None:
        """Report nothing any more."""
        if self._timer is not None:
            self._timer.cancel()

    @property
    def _running(self) -> list[Task]:
        return [] if self._tq.worker is None else self._tq.worker.tasks

    def _say(self, text: str, **values: str) -> None:
        now = self._tq.queue.clock.now() // SECOND
        names = []
        for task in self._running[:SHOWN]:
            since = tr("for {seconds} s", seconds=max(0, now - (task.started_at or now)))
            names.append(f"{task.type} {task.task_id} ({since})")
        names += ["…"] if len(self._running) > SHOWN else []
        say_stderr(text, **values, count=len(self._running), tasks=tr(", ").join(names))


FORMAT = "<green>{time:YYYY-MM-DD HH:mm:ss.SSS}</green> | <level>{level:<8}</level> | {name} - <level>{message}</level>"


def run_workers(
    options: WorkerOptions, *, lifeline: Lifeline | None = None, served: dict[str, Any] | None = None
) -> int:
    """Run the workers and the scheduler of an application until a signal; return the exit code.

    ``served`` are the arguments of the operations API, None where it is not served as well; with a ``lifeline`` this
    process ends after its supervisor.
    Raises ValidationError if there is no such TaskQ. Does not return if a handler had to be abandoned, or if something
    that the application started does not end in time: then it ends the process.
    """
    prefix = f"[{lifeline.number}] " if lifeline is not None and lifeline.number else ""
    signals = Signals(Deadline(_force), options.drain, options.grace)
    if lifeline is not None:
        lifeline.watch(signals)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # output of handlers appears at once, also in a container's log
    # Before the import, so that what the application configures about logging comes last and counts.
    show_log(options.log_level, prefix)
    tq = load(options.target)
    if lifeline is not None and lifeline.number and not tq.queue.backend.shared:
        raise ValidationError(
            tr(
                "--processes: {url} exists only inside one process; use a store that processes share, as "
                "sqlite:///app.db, or --processes 1",
                url=mask(tq.url),
            )
        )
    tq.on("stalled", lambda _event: None)  # a hook starts the watchdog of the event loop, which writes to the log
    if options.log_level == "INFO":  # at lower levels the library logs it itself
        tq.on("completed", _completed)
    names = None if options.queues is None else [name for part in options.queues.split(",") if (name := part.strip())]
    where = tr("all queues") if names is None else tr("queues {names}", names=", ".join(names))
    say_stderr(
        "{target} on {url}: concurrency {concurrency}; {where}; handlers: {types}",
        target=options.target,
        url=mask(tq.url),
        concurrency=options.concurrency,
        where=where,
        types=", ".join(sorted(internal(tq).registered.handlers)) or tr("none"),
    )
    run = RunOptions(options.concurrency, names, drain=options.drain, grace=options.grace)
    return _run_until_done(_work(tq, run, signals, lifeline, served))


def _run_until_done(work: Coroutine[Any, Any, int]) -> int:
    """Run the work in a loop that a sys.exit() in another task or timer, such as a handler's, does not end."""
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        main = loop.create_task(work)
        while True:
            try:
                return loop.run_until_complete(main)
            except SystemExit as error:
                if main.done():
                    raise
                log.error(
                    "a task or a timer that a handler may have left called sys.exit(); "
                    "the worker goes on: stop it by SIGTERM",
                    cause=error,
                )


async def _work(
    tq: TaskQ,
    options: RunOptions,
    signals: Signals,
    lifeline: Lifeline | None,
    served: dict[str, Any] | None,
) -> int:
    code: int = 1
    started = functools.partial(say_stderr, HOW_TO_STOP) if lifeline is None else lifeline.ready
    stop = asyncio.Event()
    report = DrainReport(tq, *options.times)

    def begin() -> None:
        stop.set()
        report.begin()

    def hurry() -> None:
        report.cancelled(tr("second signal"))
        if tq.worker is not None:
            tq.worker.hurry()

    signals.attach(begin, hurry)
    try:
        # The store is opened before the workers start, so that a failure is one line.
        async with tq, serving(tq, served, stop):
            code = ended = await internal(tq).run_until(stop, options, started)
    finally:
        report.end()
        signals.detach(code)
    say_stderr(STOPPED[ended])
    if ended is ExitCode.ABANDONED:  # the end of the loop would wait for the handlers
        await logger.complete()
        _end_now(ended)
    return int(ended)


def show_log(level: str, prefix: str = "") -> None:
    """Write the log of aiotaskq to standard error; each line begins with the prefix, also those of the command."""
    begin_lines(prefix)

    def line(record: Record) -> str:
        where = " <dim>[{extra[type]} {extra[task_id]}]</dim>" if record["extra"]["task_id"] != NOWHERE else ""
        return f"{prefix}{FORMAT}{where}\n{{exception}}"

    logger.remove()
    logger.configure(patcher=bind_task)  # a handler's log lines name its task
    logger.add(sys.stderr, level=level, format=line, diagnose=False)
    output("DEBUG", to="loguru")  # the sink filters by its level


def _force(code: int) -> None:
    say_stderr("terminated: the process did not stop in time")
    _end_now(code)


def _end_now(code: int) -> None:
    if "multiprocessing" in sys.modules:
        for child in sys.modules["multiprocessing"].active_children():
            child.kill()  # it would wait for work for ever
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # it is closed
            stream.flush()
    os._exit(code)


def _completed(event: HookCall) -> None:
    if event.task is not None:
        log_completed(event.task)
