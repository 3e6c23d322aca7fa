"""How many bytes one statement may have: MySQL cuts the connection that sends more than its ``max_allowed_packet``.

A connection that is cut looks like an outage, after which the same statement would be sent again without end. So
batches are split by bytes, and a row that does not fit one statement is refused before anything is sent.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection

from aiotaskq.errors import DatabaseUnavailable, ValidationError
from aiotaskq.models import Base, LongText

LEAST: Final = 128 * 1024
"""Bytes below which ``max_allowed_packet`` leaves no room for tasks."""
WORDS: Final = 8 * 1024
"""Bytes for the words of a statement, without its values."""
COLUMN: Final = 64
"""Bytes for the words around one value: with an id of 36 characters, where there is one case for each row."""
WIDEST: Final = 8
"""Bytes that a character may need: four of UTF-8, each escaped."""
BOUNDED: Final = 16 * 1024
"""Bytes that a row needs at most without the columns of ``LARGE``: keys, names and numbers."""
LARGE: Final = frozenset(
    column.name for table in Base.metadata.tables.values() for column in table.columns if type(column.type) is LongText
)
_ESCAPED: Final = "\"'\\\0\n\r\x1a"

_KNOWN: Final = "aiotaskq_max_allowed_packet"


def packet(connection: Connection) -> int | None:
    """Return ``max_allowed_packet`` in bytes, None where there is no such limit; asked once for each connection."""
    if connection.dialect.name not in ("mysql", "mariadb"):
        return None
    found: int | None = connection.info.get(_KNOWN)
    if found is None:
        found = connection.info[_KNOWN] = int(connection.exec_driver_sql("SELECT @@max_allowed_packet").scalar_one())
    return found


def check_packet(connection: Connection) -> None:
    """Raise DatabaseUnavailable for a server that takes too little in one statement."""
    limit = packet(connection)
    if limit is not None and limit < LEAST:
        shown = connection.engine.url.set(query={}).render_as_string(hide_password=True)
        raise DatabaseUnavailable(
            f"{shown}: max_allowed_packet is {limit:,} bytes, and at least {LEAST:,} are needed; raise it in the "
            "server's configuration (16M is usual)"
        )


def fits(limit: int, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> bool:
    """Whether these rows surely fit one statement; quick, and False for some that do.

    ``limit`` is what ``packet`` returned.
    """
    large = _large(tuple(names))
    characters = sum([len(row[number] or "") for row in rows for number in large])
    return BOUNDED * len(rows) + WIDEST * characters <= room(limit)


@functools.cache
def _large(names: tuple[str, ...]) -> tuple[int, ...]:
    return tuple([number for number, name in enumerate(names) if name in LARGE])


def sizes(limit: int, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[int]:
    """Return the bytes that each row needs in a statement. Raises ValidationError for one that does not fit."""
    return [_size(limit, names, row) for row in rows]


def room(limit: int) -> int:
    """Return the bytes that the rows of one statement may need together."""
    return limit - WORDS


def check_rows(connection: Connection, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Raise ValidationError for a row that does not fit a statement of its own."""
    if (limit := packet(connection)) is not None and not fits(limit, names, rows):
        sizes(limit, names, rows)


def _size(limit: int, names: Sequence[str], row: Sequence[Any]) -> int:
    texts = {number: _escaped(value) for number, value in enumerate(row) if type(value) is str}
    size = COLUMN * (len(row) + 1) + sum(texts.values())
    if size > room(limit):
        largest = max(texts, key=texts.__getitem__)
        raise ValidationError(
            f"{names[largest]}: {texts[largest]:,} bytes are more than one statement can hold, since "
            f"max_allowed_packet of the server is {limit:,} bytes; store a reference instead, or raise that setting"
        )
    return size


def _escaped(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass")) + sum(map(text.count, _ESCAPED))
