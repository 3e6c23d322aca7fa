"""How many rows one statement may hold: a number of rows, of characters, and on MySQL of bytes.

MySQL cuts the connection that sends more than its ``max_allowed_packet``. That looks like an outage, after which the
same statement would be sent again without end. So batches are split by bytes, and a row that does not fit one statement
is refused before anything is sent. ``limit`` is that number of bytes, and None where a database has no such limit.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, TypeVar

from aiotaskq.backends.sql.rows import json_text
from aiotaskq.core.errors import MAX_PAYLOAD
from aiotaskq.errors import ValidationError
from aiotaskq.models import Base, LongText

T = TypeVar("T")
Columns = Sequence[tuple[Any, ...]]
"""The values of rows, column by column."""

CHUNK: Final = 500
"""Rows or ids in one statement: few round trips, and far below every driver's limit of parameters."""
SIZE: Final = 4_000_000
"""Characters of the large columns of the rows in one statement."""
WORDS: Final = 8 * 1024
"""Bytes of a statement without its values."""
COLUMN: Final = 64
"""Bytes of the text around one value: with an id of 36 characters, where there is one case for each row."""
WIDEST: Final = 8
"""Bytes that a character may need: four of UTF-8, each escaped."""
BOUNDED: Final = 16 * 1024
"""Bytes that a row needs at most without the columns of ``LARGE``: keys, names and numbers."""
LARGE: Final = frozenset(
    column.name for table in Base.metadata.tables.values() for column in table.columns if type(column.type) is LongText
)
_ESCAPED: Final = "\"'\\\0\n\r\x1a"


def chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Cut into pieces of at most ``CHUNK``."""
    for start in range(0, len(items), CHUNK):
        yield items[start : start + CHUNK]


def small_enough(rows: int, payloads: Iterable[Any]) -> bool:
    """Whether so many rows, with these values as JSON, go in one statement where there is no limit in bytes."""
    if rows > CHUNK:
        return False
    return rows * MAX_PAYLOAD <= SIZE or sum(len(json_text(value)) for value in payloads if value is not None) <= SIZE


def parts(names: Sequence[str], columns: Columns, limit: int | None) -> Iterator[Columns]:
    """Cut into pieces that fit one statement. Raises ValidationError, before the first, for a row that fits none."""
    most = SIZE
    if limit is None or surely_fit(limit, names, columns):
        large = next((columns[names.index(name)] for name in ("params", "result", "value") if name in names), None)
        lengths = [0] * len(columns[0]) if large is None else [len(value or "") for value in large]
    else:
        lengths, most = [_size(limit, names, row) for row in zip(*columns, strict=True)], min(SIZE, limit - WORDS)
    if len(lengths) <= CHUNK and sum(lengths) <= most:
        yield columns
        return
    start = size = 0
    for number, length in enumerate(lengths):
        if number > start and (number - start == CHUNK or size + length > most):
            yield [column[start:number] for column in columns]
            start, size = number, 0
        size += length
    yield [column[start:] for column in columns]


def surely_fit(limit: int, names: Sequence[str], columns: Columns) -> bool:
    """Whether these rows fit one statement by a quick estimate, which is too high for some."""
    large = _large(tuple(names))
    # `waits` is a text in one table and a number in another.
    characters = sum([len(value) for number in large for value in columns[number] if type(value) is str])
    return BOUNDED * len(columns[0]) + WIDEST * characters <= limit - WORDS


@functools.cache
def _large(names: tuple[str, ...]) -> tuple[int, ...]:
    return tuple([number for number, name in enumerate(names) if name in LARGE])


def _size(limit: int, names: Sequence[str], row: Sequence[Any]) -> int:
    """Return the bytes that a row needs in a statement. Raises ValidationError for one that does not fit."""
    texts = {number: _escaped(value) for number, value in enumerate(row) if type(value) is str}
    size = COLUMN * (len(row) + 1) + sum(texts.values())
    if size > limit - WORDS:
        largest = max(texts, key=texts.__getitem__)
        raise ValidationError(
            f"{names[largest]}: {texts[largest]:,} bytes are more than one statement can hold, since "
            f"max_allowed_packet of the server is {limit:,} bytes; store a reference instead, or raise that setting"
        )
    return size


def _escaped(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass")) + sum(map(text.count, _ESCAPED))
