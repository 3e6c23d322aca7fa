"""``aiotaskq run``: finds the application's TaskQ, lets its log be seen, and runs workers until a signal."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from io import TextIOWrapper
from typing import Any

from aiotaskq.backends import mask
from aiotaskq.cli.screen import note
from aiotaskq.errors import AiotaskqError, ValidationError
from aiotaskq.events import Event
from aiotaskq.log import logger, printable
from aiotaskq.taskq import TaskQ
from aiotaskq.worker import ExitCode

SIGNALS = (signal.SIGINT, signal.SIGTERM)
FORMAT = "<green>{time:YYYY-MM-DD HH:mm:ss.SSS}</green> | <level>{level:<8}</level> | {name} - <level>{message}</level>"


def run_workers(
    module: str,
    name: str,
    *,
    concurrency: int,
    queues: Sequence[str] | None,
    drain: float,
    grace: float,
    level: str,
) -> int:
    """Run the workers and the scheduler of ``module:name`` until a signal; return the exit code.

    Raises ValidationError when there is no such TaskQ. Does not return when a handler had to be abandoned: the process
    ends there, or what does not stop would keep it.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # what handlers print is wanted now, also in a container's log
    # Before the application is imported, so that what it says about logging comes last and counts.
    logger.remove()
    logger.add(sys.stderr, level=level, format=FORMAT, diagnose=False)
    logger.enable("aiotaskq")
    tq = load(module, name)
    _log_events(tq)
    try:
        return asyncio.run(_run(tq, f"{module}:{name}", concurrency, queues, drain, grace))
    finally:
        for number in SIGNALS:  # a second one in the last moments must not turn a clean end into a violent one
            signal.signal(number, signal.SIG_IGN)


async def _run(
    tq: TaskQ, shown: str, concurrency: int, queues: Sequence[str] | None, drain: float, grace: float
) -> int:
    types = ", ".join(sorted(tq._handlers)) or "none"
    where = "every queue" if queues is None else "queues " + ", ".join(queues)
    note(printable(f"{shown} on {mask(tq.url)}: {concurrency} at a time from {where}; handlers: {types}", 1_000))
    note("Ctrl-C or SIGTERM stops it, a second time without waiting for what runs.")
    stop = asyncio.Event()
    for number in SIGNALS:  # for as long as the loop lives, not only until everything has stopped
        asyncio.get_running_loop().add_signal_handler(number, tq.on_signal, stop)
    code = await tq.run_until(stop, concurrency, queues=queues, drain=drain, grace=grace)
    if code is ExitCode.ABANDONED:
        note("stopped; some handlers did not end and were abandoned, their tasks come back when their lease is over")
        await logger.complete()
        _end_now(code)
    note("stopped; some tasks were given back" if code is ExitCode.GIVEN_BACK else "stopped; all that ran has ended")
    return int(code)


def _end_now(code: int) -> None:
    if "multiprocessing" in sys.modules:
        for child in sys.modules["multiprocessing"].active_children():
            child.kill()  # else it would wait for ever for work from us
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def load(module: str, name: str) -> TaskQ:
    """Import ``module`` as seen from the working directory, and return its ``name`` (dots allowed), a TaskQ."""
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(error.name + ".")):
            raise ValidationError(f"there is no module {module!r} in {here} or among the installed ones") from None
        _own_fault(module, error)
    except Exception as error:
        _own_fault(module, error)
    whole = found
    for part in name.split("."):
        found = getattr(found, part, None)
        if found is None:
            break
    if isinstance(found, TaskQ):
        return found
    if (blocking := sys.modules.get("aiotaskq.sync.taskq")) is not None and isinstance(found, blocking.TaskQ):
        awaited: TaskQ = found._reach()  # with the same handlers
        return awaited
    there = [key for key, value in vars(whole).items() if isinstance(value, TaskQ)]
    what = f"{module!r} has no {name!r}" if found is None else f"{module}:{name} is no TaskQ ({type(found).__name__})"
    hint = f"there is {', '.join(f'{module}:{key}' for key in there)}" if there else "no TaskQ is there at all"
    raise ValidationError(f"{what}; {hint}")


def _own_fault(module: str, error: Exception) -> None:
    # The application's own fault, so its author needs to see where.
    traceback.print_exception(error)
    kind = "" if isinstance(error, AiotaskqError) else f"{type(error).__name__}: "
    raise ValidationError(f"importing {module!r} failed: {kind}{error}") from None


def _log_events(tq: TaskQ) -> None:
    told = logger.patch(lambda record: record.__setitem__("name", "aiotaskq"))  # not the name of this file

    def log(level: str) -> Any:
        def listener(event: Event) -> None:
            task = event.task
            if task is not None:
                error = task.error_message if event.name in _WITH_ERROR else None
                why = f": {printable(error.splitlines()[0])}" if error else ""
                told.log(level, "{} {} {}{}", event.name, printable(task.type), task.task_id, why)

        return listener

    for name, level in _LEVELS.items():
        tq.on(name, log(level))


_LEVELS = {
    "completed": "DEBUG",
    "released": "INFO",
    "cancelled": "INFO",
    "expired": "WARNING",
    "retried": "WARNING",
    "failed": "ERROR",
    "lost": "WARNING",
    "timeout": "WARNING",
    "unknown": "WARNING",
}
_WITH_ERROR = ("retried", "failed", "lost")
