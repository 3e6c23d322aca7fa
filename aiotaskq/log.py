"""The one logger. Silent until the application asks for it: ``logger.enable("aiotaskq")``.

``logger`` is loguru's own, so that the old ``from app.log import logger`` keeps working. Sinks belong to the
application; ``configure()`` makes those of the old ``app/log.py``. Params, values and passwords are never logged; names
that come from outside are escaped.
"""

from __future__ import annotations

import contextlib
import os
import sys

from loguru import logger

__all__ = ["configure", "logger", "printable"]

_sinks: list[int] = [0]  # loguru's own default sink is the first to go


def configure(folder: str | os.PathLike[str] = "logs") -> None:
    """Do in one call what the old ``app/log.py`` did: log to stdout and to a file a day.

    Stdout gets INFO and higher. ``app_<date>.log`` in ``folder`` gets DEBUG and higher; it is rotated at 10 MB, and
    rotated files are kept for 10 days, as ZIP archives. Loguru's default sink is removed, other sinks of the
    application stay. A second call replaces the sinks of the first.

    Raises OSError when the folder or the file cannot be written; then nothing has changed.
    """
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
    for number in _sinks:
        with contextlib.suppress(ValueError):  # the application has removed it
            logger.remove(number)
    _sinks[:] = [kept, shown]
    logger.enable("aiotaskq")


def printable(text: object, limit: int = 200) -> str:
    """Return ``text`` fit for one log line or table cell: control characters escaped, at most ``limit`` characters."""
    raw = str(text)
    if len(raw) > limit:
        raw = raw[: limit - 1] + "…"
    if raw.isprintable():
        return raw
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in raw)
