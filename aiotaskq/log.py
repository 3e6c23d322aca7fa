"""Logging: which lines aiotaskq writes, and whether they go to loguru or to the standard library.

Every operation is one line at DEBUG; a retry is a WARNING, a final failure an ERROR, both with the handler's traceback.
A line names the operation, the type and the id, and never parameters, results or public values. Control characters in
names are escaped.

By default warnings and errors go to the logger ``aiotaskq`` of the standard library, or to loguru if the application
has added a sink to it. The use of ``aiotaskq.sync``, or an import of ``logger`` from this module, sends every line
through loguru, as in the old system. ``output`` changes these defaults.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import sys
import threading
import traceback
from contextvars import ContextVar
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal

from aiotaskq.concurrency.loop_bound import after_fork, running_loop_or_none
from aiotaskq.concurrency.uninterrupted import CrossThreadFuture, may_be_interrupted, uninterrupted
from aiotaskq.core.errors import ValidationError

if TYPE_CHECKING:
    from loguru import Record
    from loguru import logger as logger

    from aiotaskq.core.task import Task

__all__ = ["configure", "logger", "output", "printable"]

DEBUG: Final = 10
INFO: Final = 20
WARNING: Final = 30
ERROR: Final = 40
NOTHING: Final = 1_000

_NAMES = {DEBUG: "DEBUG", INFO: "INFO", WARNING: "WARNING", ERROR: "ERROR"}
_TRACEBACK_LINE = 2_000  # characters

Output = Literal["auto", "loguru", "logging"]


class Gate:
    """Whether lines at DEBUG are written: checked before such a line is made, so a closed gate costs one attribute.

    It may be open although no sink of loguru takes the line; that is checked before the line is made, too.
    """

    __slots__ = ("open",)

    def __init__(self) -> None:
        self.open = False


class Log:
    """Writes aiotaskq's own lines."""

    def __init__(self) -> None:
        self._level: int = INFO
        self._to: Output = "auto"
        self._tracebacks = True
        self._chosen = False

    def set(self, level: int, to: Output, tracebacks: bool, *, chosen: bool) -> None:
        """Set the output. One ``chosen`` by the application is replaced only by another choice of the application."""
        if self._chosen and not chosen:
            return
        self._level, self._to, self._tracebacks, self._chosen = level, to, tracebacks, chosen
        if to == "loguru":
            import loguru  # noqa: F401
        gate.open = level <= DEBUG

    def default_to_loguru(self) -> None:
        """Write every line through loguru from now on, unless the application has chosen an output."""
        if self._to == "auto":
            self.set(DEBUG, "loguru", True, chosen=False)

    @property
    def tracebacks(self) -> bool:
        """Whether lines may hold the texts of exceptions that handlers raise."""
        return self._tracebacks

    def task(self, operation: str, task: Task) -> None:
        """Write a line at DEBUG about a task: the operation, its type and its id."""
        if not self._disabled(DEBUG):
            self._write(DEBUG, f"{operation} {named(task)}", (), None)

    def debug(self, template: str, *args: object) -> None:
        """Write a line at DEBUG: ``template.format(*args)``."""
        self._write(DEBUG, template, args, None)

    def info(self, template: str, *args: object) -> None:
        """Write a line at INFO."""
        self._write(INFO, template, args, None)

    def warning(self, template: str, *args: object, cause: BaseException | None = None) -> None:
        """Write a line at WARNING, with the traceback of ``cause``."""
        self._write(WARNING, template, args, cause)

    def error(self, template: str, *args: object, cause: BaseException | None = None) -> None:
        """Write a line at ERROR, with the traceback of ``cause``."""
        self._write(ERROR, template, args, cause)

    def _disabled(self, level: int) -> bool:
        # Loguru's core knows the lowest level of all sinks.
        return level < self._level or (self._to == "loguru" and bool(level < _core().min_level))

    def _write(self, level: int, template: str, args: tuple[object, ...], cause: BaseException | None) -> None:
        if self._disabled(level):
            return
        text = template.format(*args) if args else template
        line = _Line(level, text, sys._getframe(2), cause if self._tracebacks else None)
        if sys.is_finalizing():  # no other thread runs
            self.emit(line)
        elif _apart.get():
            _writer.put(line)
        elif may_be_interrupted() and running_loop_or_none() is None:
            _writer.put(line)
            _writer.flush()
        else:
            self.emit(line)

    def write_apart(self) -> None:
        """Let the thread of the log write the lines of the running coroutine, and of those that it starts."""
        _apart.set(True)

    def flush(self) -> None:
        """Wait until the lines so far of that thread are written, for WRITTEN_WITHIN at most."""
        _writer.flush()

    def heard(self, level: int) -> bool:
        """Whether a line at this level would reach a sink or a handler of the application."""
        if self._disabled(level):
            return False
        if self._loguru():
            return bool(_core().min_level <= level)
        standard = logging.getLogger("aiotaskq")
        return standard.isEnabledFor(level) and standard.hasHandlers()

    def _loguru(self) -> bool:
        if self._to != "auto":
            return self._to == "loguru"
        core = _core()
        return core is not None and any(number not in _default_sinks() for number in core.handlers)

    def emit(self, line: _Line) -> None:
        """Write a line to the current output."""
        if self._loguru():
            line.to_loguru()
        else:
            line.to_logging()


class _Line:
    """A formatted line, with its place in the code."""

    __slots__ = ("_cause", "_function", "_level", "_name", "_number", "_path", "_text")

    def __init__(self, level: int, text: str, frame: FrameType, cause: BaseException | None) -> None:
        self._level = level
        self._text = text
        self._cause = cause
        self._name = str(frame.f_globals.get("__name__", "aiotaskq"))
        self._path = frame.f_code.co_filename
        self._function = frame.f_code.co_name
        self._number = frame.f_lineno

    def to_loguru(self) -> None:
        from loguru import logger

        # The traceback is a part of the text: a sink with `diagnose` would write the values of variables into it.
        text = self._text if self._cause is None else f"{self._text}\n{_formatted(self._cause)}"
        logger.patch(self._place).log(_NAMES[self._level], text)

    def _place(self, record: Record) -> None:
        record["name"], record["function"], record["line"] = self._name, self._function, self._number

    def to_logging(self) -> None:
        standard = logging.getLogger("aiotaskq")
        if standard.isEnabledFor(self._level):
            error = self._cause
            info = None if error is None else (type(error), error, error.__traceback__)
            place = (self._path, self._number, self._text, (), info, self._function)
            record = standard.makeRecord(standard.name, self._level, *place)
            if error is not None:
                record.exc_text = _formatted(error)
            standard.handle(record)


def _formatted(error: BaseException) -> str:
    """Return the traceback, indented and escaped, so that it cannot imitate a line of the log."""
    try:
        text = "".join(traceback.format_exception(error))
    except Exception as broken:  # an exception whose own __str__ raises
        text = f"{type(error).__name__}: <{type(broken).__name__} in __str__>"
    return "\n".join(f"    {printable(line, _TRACEBACK_LINE)}" for line in text.rstrip("\n").split("\n"))


PACKAGE = os.path.dirname(__file__) + os.sep
BETWEEN = tuple(
    os.path.join(PACKAGE, *name)
    for name in (
        ("runtime", "worker", "runner.py"),
        ("runtime", "handler.py"),
        ("runtime", "worker", "executors.py"),
    )
)


def application_frames(trace: TracebackType | None) -> TracebackType | None:
    """Return the traceback without the frames of aiotaskq that called the application's code.

    Frames of aiotaskq that the application called are kept.
    """
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(PACKAGE):
        trace = trace.tb_next
    kept: list[TracebackType] = []
    while trace is not None:
        if trace.tb_frame.f_code.co_filename not in BETWEEN:  # between a middleware and the handler
            kept.append(trace)
        trace = trace.tb_next
    following: TracebackType | None = None
    for each in reversed(kept):
        following = TracebackType(following, each.tb_frame, each.tb_lasti, each.tb_lineno)
    return following


# ---- lines of the blocking facade ------------------------------------------------------------------------------------

WRITTEN_WITHIN = 0.2  # seconds for which a blocking call waits until its lines are written: it may hold the lock itself


class _Writer:
    """A thread that writes lines in order, where the thread that logs must not wait for the lock of a sink for ever.

    The main thread may be in a signal handler that has interrupted the writing of a line: the sink is locked until that
    handler has returned. The code that writes a line also catches errors, and would catch that of a signal handler.
    """

    def __init__(self) -> None:
        self._lines: queue.SimpleQueue[tuple[_Line, CrossThreadFuture[None]]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._started = False
        self._last: CrossThreadFuture[None] | None = None

    def put(self, line: _Line) -> None:
        """Have a line written. Any thread may call it at any time."""
        if not (self._started or uninterrupted(self._start)):
            log.emit(line)
            return
        written: CrossThreadFuture[None] = CrossThreadFuture()
        self._lines.put((line, written))
        self._last = written

    def _start(self) -> bool:
        with self._lock:
            if not self._started:
                try:
                    threading.Thread(target=self._serve, name="aiotaskq-log", daemon=True).start()
                except RuntimeError:  # the interpreter ends, or there are too many threads
                    return False
                self._started = True
            return True

    def flush(self) -> None:
        """Wait until the lines so far are written, for WRITTEN_WITHIN at most."""
        if (last := self._last) is not None:
            last.wait(WRITTEN_WITHIN)

    def _serve(self) -> None:
        while True:
            line, written = self._lines.get()
            try:
                log.emit(line)
            except Exception:  # a sink with catch=False failed, and there is no caller to raise it to
                kind, error, trace = sys.exc_info()
                threading.excepthook(threading.ExceptHookArgs((kind, error, trace, threading.current_thread())))
            written.set_result(None)


_apart: ContextVar[bool] = ContextVar("aiotaskq-log-apart", default=False)
_writer = _Writer()


@after_fork
def _forked() -> None:
    global _writer
    _writer = _Writer()  # the child does not have the thread


# Not public, and pinned with loguru below 0.8: `min_level` and `handlers` of its core, and its defaults.


def _core() -> Any:
    """Return the core of loguru, or None where the program has not imported loguru: then it has no sink there."""
    logger = getattr(sys.modules.get("loguru"), "logger", None)
    return None if logger is None else logger._core


def _default_sinks() -> tuple[int, ...]:
    """Return the sink that loguru adds when it is imported, unless LOGURU_AUTOINIT says otherwise."""
    from loguru import _defaults

    return (0,) if _defaults.LOGURU_AUTOINIT else ()


gate: Final = Gate()
log: Final = Log()
"""The log of the modules of aiotaskq; ``logger`` is for the application."""


# ---- for applications ------------------------------------------------------------------------------------------------

_LEVELS: dict[str | None, int] = {"DEBUG": DEBUG, "INFO": INFO, "WARNING": WARNING, "ERROR": ERROR, None: NOTHING}
_sinks: list[int] = []  # what `configure` replaces, with the sink by default; numbers are never used again


def output(level: str | None = "INFO", *, to: Output = "auto", tracebacks: bool = True) -> None:
    """Choose what aiotaskq logs, and where it goes; the choice holds until the next call.

    Args:
        level: the lowest level that is written: ``DEBUG``, ``INFO``, ``WARNING``, ``ERROR``, or None for nothing.
        to: ``loguru``; ``logging``, the logger ``aiotaskq`` of the standard library; or ``auto``, which is loguru where
            the application has added a sink to it, else the standard library.
        tracebacks: whether failures come with the traceback of the handler. It holds the exception's own text, which
            may contain parameters; otherwise lines name only the type of the exception.

    Levels and filters of the sinks, handlers and loggers apply after that: ``logger.disable("aiotaskq")`` of loguru, or
    ``logging.getLogger("aiotaskq").setLevel(…)``. Raises ValidationError for another level or destination.
    """
    if level not in _LEVELS:
        raise ValidationError(f"level: DEBUG, INFO, WARNING, ERROR or None is needed (got {level!r:.40})")
    if to not in ("auto", "loguru", "logging"):
        raise ValidationError(f"to: 'auto', 'loguru' or 'logging' is needed (got {to!r:.40})")
    log.set(_LEVELS[level], to, tracebacks, chosen=True)


def configure(folder: str | os.PathLike[str] = "logs") -> None:
    """Do in one call what the old ``app/log.py`` did: log to stdout and to a file a day, aiotaskq's lines included.

    Stdout gets INFO and higher. ``app_<date>.log`` in ``folder`` gets DEBUG and higher; it is rotated at 10 MB, and
    rotated files are kept for 10 days, as ZIP archives. Loguru's default sink is removed, other sinks of the
    application stay. A second call replaces the sinks of the first.

    Raises OSError when the folder or the file cannot be written; then nothing has changed.
    """
    from loguru import logger

    file = os.path.join(os.fspath(folder), "app_{time:YYYY-MM-DD}.log")
    # Without `diagnose`, which would write the values of variables into tracebacks: they may be secrets.
    kept = logger.add(
        file,
        level="DEBUG",
        rotation="10 MB",
        retention="10 days",
        compression="zip",
        encoding="utf-8",
        diagnose=False,
    )
    shown = logger.add(sys.stdout, level="INFO", diagnose=False)
    for number in (*_default_sinks(), *_sinks):
        with contextlib.suppress(ValueError):  # the application has removed it
            logger.remove(number)
    _sinks[:] = [kept, shown]
    output("DEBUG", to="loguru")


def __getattr__(name: str) -> Any:
    if name == "logger":
        from loguru import logger

        log.default_to_loguru()  # as in the old system, where this logger had every line
        return logger
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def named(task: Task) -> str:
    """Return how a line names a task: its type and its id."""
    return f"{printable(task.type)} {printable(task.task_id)}"


def printable(text: object, limit: int = 200) -> str:
    """Return ``text`` fit for one log line or table cell: control characters escaped, at most ``limit`` characters."""
    raw = str(text)
    if len(raw) > limit:
        raw = raw[: limit - 1] + "…"
    if raw.isprintable():
        return raw
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in raw)
