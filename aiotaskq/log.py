"""The one logger. Silent until the application asks for it: ``logger.enable("aiotaskq")``.

``logger`` is loguru's own, so that the old ``from app.log import logger`` keeps working. Sinks belong to the
application. Params, values and passwords are never logged; names that come from outside are escaped.
"""

from __future__ import annotations

from loguru import logger

__all__ = ["logger", "printable"]


def printable(text: object, limit: int = 200) -> str:
    """Return ``text`` fit for one log line or table cell: control characters escaped, at most ``limit`` characters."""
    raw = str(text)
    if len(raw) > limit:
        raw = raw[: limit - 1] + "…"
    if raw.isprintable():
        return raw
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in raw)
