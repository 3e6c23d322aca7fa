"""``aiotaskq run``: finds the application's TaskQ, lets its log be seen, and runs workers until a signal."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import sys
from collections.abc import Coroutine, Sequence
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, Literal

from loguru import logger

from aiotaskq.app.run_options import RunOptions
from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli.application import load
from aiotaskq.cli.i18n import marked, tr
from aiotaskq.cli.output import note
from aiotaskq.cli.shutdown import Deadline, Lifeline, Signals
from aiotaskq.cli.waiting import Waiting
from aiotaskq.cli.web import Site, beside
from aiotaskq.core.masking import mask
from aiotaskq.errors import ValidationError
from aiotaskq.integrations.logging import NOWHERE, bind_task
from aiotaskq.log import log, output, printable
from aiotaskq.runtime.events import Event
from aiotaskq.runtime.task_log import log_completed
from aiotaskq.runtime.worker.worker import ExitCode

if TYPE_CHECKING:
    from loguru import Record

FORMAT = "<green>{time:YYYY-MM-DD HH:mm:ss.SSS}</green> | <level>{level:<8}</level> | {name} - <level>{message}</level>"
HOW_TO_STOP = marked("Ctrl-C or SIGTERM stops it, a second time without waiting for what runs.")
STOPPED = {
    ExitCode.DRAINED: marked("stopped; all that ran has ended"),
    ExitCode.GIVEN_BACK: marked("stopped; some tasks were given back"),
    ExitCode.ABANDONED: marked(
        "stopped; some handlers did not end and were abandoned, their tasks come back when their lease is over"
    ),
}


def run_workers(
    target: str,
    *,
    concurrency: int,
    queues: Sequence[str] | None,
    drain: float,
    grace: float,
    level: str,
    lifeline: Lifeline | None = None,
    site: Site | None = None,
) -> int:
    """Run the workers and the scheduler of ``target``, MODULE:TQ, until a signal; return the exit code.

    With a ``site`` the operations API is served, too. With a ``lifeline`` this is one of a supervisor's processes, and
    stops when the supervisor has ended. Raises ValidationError when there is no such TaskQ. Does not return when a
    handler had to be abandoned, or what the application started does not end in time: the process ends there, or what
    does not stop would keep it.
    """
    prefix = "" if lifeline is None else f"[{lifeline.number}] "
    deadline = Deadline(functools.partial(_force, prefix))
    signals = Signals(deadline, drain, grace)
    if lifeline is not None:
        lifeline.watch(signals)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # what handlers print is wanted now, also in a container's log
    show_log(level, prefix)  # before the import, so that what the application says about logging comes last and counts
    tq = load(target)
    if lifeline is not None and not tq.queue.backend.shared:
        raise ValidationError(
            tr(
                "--processes: {url} is the memory of one process, so each would have tasks of its own; "
                "use a store that processes share, as sqlite:///app.db, or --processes 1",
                url=mask(tq.url),
            )
        )
    tq.on("stalled", _watched)
    if level == "INFO":  # below it the library's own line is shown
        tq.on("completed", _completed)
    where = tr("every queue") if queues is None else tr("queues {names}", names=", ".join(queues))
    what = tr(
        "{target} on {url}: {concurrency} at a time from {where}; handlers: {types}",
        target=target,
        url=mask(tq.url),
        concurrency=concurrency,
        where=where,
        types=", ".join(sorted(tq.registered.handlers)) or tr("none"),
    )
    note(prefix + printable(what, 1_000))
    if lifeline is None:
        note(tr(HOW_TO_STOP))
    return _to_the_end(_run(tq, concurrency, queues, drain, grace, signals, lifeline, prefix, site))


def _to_the_end(work: Coroutine[Any, Any, int]) -> int:
    """Run it in a loop that no sys.exit() of another task or of a timer ends, such as one that a handler has made."""
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


async def _run(
    tq: TaskQ,
    concurrency: int,
    queues: Sequence[str] | None,
    drain: float,
    grace: float,
    signals: Signals,
    lifeline: Lifeline | None,
    prefix: str,
    site: Site | None,
) -> int:
    code: int = 1
    stop = _Stop(lifeline)
    waiting = Waiting(tq, drain, grace, prefix)

    def begin() -> None:
        stop.set()
        waiting.begin()

    def hurry() -> None:
        waiting.hurry()
        if tq.worker is not None:
            tq.worker.hurry()

    signals.attach(begin, hurry)
    try:
        # The store is opened before any worker is made: one that cannot be opened is one line.
        async with tq, beside(tq, site, stop):
            options = RunOptions(concurrency, queues, drain=drain, grace=grace)
            code = ended = await tq.run_until(stop, options)
    finally:
        waiting.end()
        signals.detach(code)
    note(prefix + tr(STOPPED[ended]))
    if ended is ExitCode.ABANDONED:  # from in here: the end of the loop would wait for what does not stop
        await logger.complete()
        _end_now(ended)
    return int(ended)


class _Stop(asyncio.Event):
    """The event of ``run_until``, which awaits it when everything has started: what a supervisor wants to know."""

    def __init__(self, lifeline: Lifeline | None) -> None:
        super().__init__()
        self._lifeline = lifeline

    async def wait(self) -> Literal[True]:
        if self._lifeline is not None:
            self._lifeline.ready()
        return await super().wait()


def show_log(level: str, prefix: str = "") -> None:
    """Write what aiotaskq logs to standard error, each line behind the prefix."""

    def line(record: Record) -> str:
        where = " <dim>[{extra[type]} {extra[task_id]}]</dim>" if record["extra"]["task_id"] != NOWHERE else ""
        return f"{prefix}{FORMAT}{where}\n{{exception}}"

    logger.remove()
    logger.configure(patcher=bind_task)  # what a handler logs says which task it is
    logger.add(sys.stderr, level=level, format=line, diagnose=False)
    output("DEBUG", to="loguru")  # of which the sink takes what has its level


def _force(prefix: str, code: int) -> None:
    note(prefix + tr("ended by force: something in here did not stop in time"))
    _end_now(code)


def _end_now(code: int) -> None:
    if "multiprocessing" in sys.modules:
        for child in sys.modules["multiprocessing"].active_children():
            child.kill()  # else it would wait for ever for work from us
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # nobody reads it any more
            stream.flush()
    os._exit(code)


def _completed(event: Event) -> None:
    if event.task is not None:
        log_completed(event.task)


def _watched(_event: Event) -> None:
    """Listening to this event sets the watch over the loop going, which logs what it sees."""
