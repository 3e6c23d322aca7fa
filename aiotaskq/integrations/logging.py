"""The log beyond aiotaskq: which task a line belongs to, and bridges between loguru and the standard library."""

from __future__ import annotations

import inspect
import logging
from typing import TYPE_CHECKING, Any

from loguru import logger

from aiotaskq.log import printable
from aiotaskq.runtime.current import current

if TYPE_CHECKING:
    from loguru import Record

NOWHERE = "-"
"""The value of the fields in a line that no handler has written."""

_FROM_STANDARD = "from_standard_library"
_FROM_LOGURU = "from_loguru"
_LEVELS = {5: "TRACE", 25: "SUCCESS"}  # loguru's own, which have no name in the standard library


def task_fields() -> dict[str, str]:
    """Return ``task_id``, ``type`` and ``queue`` of the task whose handler runs here, else three times "-"."""
    context = current.get()
    if context is None:
        return {"task_id": NOWHERE, "type": NOWHERE, "queue": NOWHERE}
    task = context.task
    # Escaped: names come from outside, and a line feed in one would forge a line.
    return {"task_id": printable(task.task_id), "type": printable(task.type), "queue": printable(task.queue)}


def bind_task(record: Record) -> None:
    """Put the three fields into a loguru record's ``extra``: a patcher, as in ``logger.configure(patcher=bind_task)``.

    The task is looked up when a line is written, so that a task without lines costs nothing. Formats can name
    ``{extra[task_id]}``, ``{extra[type]}`` and ``{extra[queue]}`` in every line. Values that the line has bound under
    these names are kept.
    """
    record["extra"].update({**task_fields(), **record["extra"]})


class TaskFields(logging.Filter):
    """Gives each standard ``LogRecord`` the attributes ``task_id``, ``type`` and ``queue``; lets every record through.

    For handlers (``handler.addFilter(TaskFields())``), since a logger's filter does not see its children's records;
    then a format can name ``%(task_id)s``. Attributes that a record has already are kept.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the missing attributes; return True."""
        for name, value in task_fields().items():
            record.__dict__.setdefault(name, value)
        return True


class ToLoguru(logging.Handler):
    """A handler of the standard library that passes records on to loguru, but not those that came from loguru."""

    def emit(self, record: logging.LogRecord) -> None:
        """Pass one on: its level, message, exception and origin."""
        if hasattr(record, _FROM_LOGURU):
            return
        try:
            level: str | int = logger.level(record.levelname).name
        except ValueError:
            level = record.levelno
        frame, depth = inspect.currentframe(), 0
        while frame is not None and (depth == 0 or frame.f_code.co_filename == logging.__file__):
            frame, depth = frame.f_back, depth + 1

        def patch(to: Record) -> None:
            to["extra"][_FROM_STANDARD] = record.name

        # Without arguments, so that braces in the message are no fields.
        logger.opt(depth=depth, exception=record.exc_info).patch(patch).log(level, record.getMessage())


class ToStandard(logging.Handler):
    """A sink of loguru that passes records on to the standard library, but not those that came from there."""

    def emit(self, record: logging.LogRecord) -> None:
        """Pass one on, with loguru's ``extra`` as its attributes where no attribute has that name."""
        extra: dict[str, Any] = getattr(record, "extra", {})
        if _FROM_STANDARD in extra:
            return
        setattr(record, _FROM_LOGURU, True)
        record.exc_text = None  # loguru's placeholder: the receiving formatter writes the traceback itself
        for name, value in extra.items():
            record.__dict__.setdefault(name, value)
        target = logging.getLogger(record.name)
        if target.isEnabledFor(record.levelno):
            target.handle(record)


class ToTask(logging.Handler):
    """A handler of the standard library, and a sink of loguru, that writes lines of handlers into their tasks' logs.

    Lines that are written outside of a handler, and those of aiotaskq itself, are left out. A task keeps its newest
    1,000 entries, as after ``current_task().log``. It never raises.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Write one into the log of the task whose handler runs here."""
        context = current.get()
        if context is None or context.lost or record.name.partition(".")[0] == "aiotaskq":
            return
        record.exc_text = None  # of loguru it is a placeholder: the formatter writes the traceback itself
        try:
            context.log(self.format(record))
        except Exception:  # the loop of its worker has ended, or an argument of the line does not fit its format
            self.handleError(record)


def standard_to_tasks(level: int | str = logging.INFO) -> logging.Handler:
    """Write what handlers log through the standard library into their tasks' logs; return the handler.

    ``logging.getLogger().removeHandler(handler)`` ends it. The level of the root logger counts as well.
    """
    handler = ToTask(level)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logging.getLogger().addHandler(handler)
    return handler


def loguru_to_tasks(level: int | str = "INFO") -> int:
    """Write what handlers log through loguru into their tasks' logs; return loguru's number of the sink.

    ``logger.remove(number)`` ends it.
    """
    # A function, since to a text loguru would add the traceback, with the values of variables.
    line = "{level} {message}"
    return logger.add(ToTask(), level=level, format=lambda record: line, diagnose=False, backtrace=False)


def standard_to_loguru(level: int | str = logging.NOTSET) -> logging.Handler:
    """Send the standard library's log to loguru's sinks, beside the existing handlers; return the handler.

    ``logging.getLogger().removeHandler(handler)`` ends it. Together with ``loguru_to_standard`` each line appears once
    on each side.
    """
    handler = ToLoguru(level)
    logging.getLogger().addHandler(handler)
    return handler


def loguru_to_standard(level: int | str = 0) -> int:
    """Send loguru's log to the standard library. aiotaskq's own lines then go through loguru.

    Lines go to the logger named after the module that wrote them, as their message alone. Returns loguru's number of
    the sink: ``logger.remove(number)`` ends it. Loguru's own default sink, to standard error, stays until removed, too.
    """
    for number, name in _LEVELS.items():
        if logging.getLevelName(number) == f"Level {number}":
            logging.addLevelName(number, name)
    # A function, since to a text loguru would add the traceback, with the values of variables.
    return logger.add(ToStandard(), level=level, format=lambda record: "{message}", diagnose=False, backtrace=False)
