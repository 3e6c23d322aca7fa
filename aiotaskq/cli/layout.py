"""Tables: their columns are cut or left out until each line fits the terminal; a pipe gets all of every column."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from aiotaskq.cli.i18n import tr
from aiotaskq.core.masking import without_passwords
from aiotaskq.log import printable

LONG = 2_000  # characters of one text that are printed
GAP = 2  # blanks between two columns
KEPT = 2  # columns of a higher rank are left out rather than that others become narrow


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a table."""

    header: str
    """In English, as it is in the catalogue."""
    cells: Sequence[object]
    """None is an empty cell. A column of ints only is aligned to the right."""
    rank: int = 0
    """Where there is too little room, the column with the highest rank is left out first; one of rank 0 never."""
    least: int | None = None
    """The width to which it may be cut; None: it is never cut."""
    good: int | None = None
    """The width to which it is cut only when the columns of a rank above ``KEPT`` are gone; None: ``least``."""
    plain: tuple[object, ...] = ()
    """A column in which every cell has one of these values, or is empty, is left out; one of rank 0 only with such."""
    style: Callable[[object], str] | None = None
    """Returns the style of a cell on a terminal, as rich names it."""

    @property
    def wanted(self) -> bool:
        """Whether it has anything to say."""
        return not (self.rank or self.plain) or any(cell not in (None, "", *self.plain) for cell in self.cells)


Cell = str | Callable[[Any], object]
"""The name of a field of a row, or what returns the cell of a row."""


def column(header: str, cell: Cell, **settings: Any) -> Callable[[Sequence[Any]], Column]:
    """Return what makes a column of rows; ``settings`` are those of ``Column``."""
    read = attrgetter(cell) if isinstance(cell, str) else cell
    return lambda rows: Column(header=header, cells=list(map(read, rows)), **settings)


Piece = tuple[str, str]
"""A text and its style."""


def width_of_output() -> int | None:
    """Return the width of the terminal, that of COLUMNS without one, or None: a pipe has no width."""
    if (sys.stdout is not None and sys.stdout.isatty()) or os.environ.get("COLUMNS", "").isdecimal():
        return shutil.get_terminal_size().columns
    return None


def columns_of(headers: Sequence[str], rows: Sequence[Sequence[object]], **least: int) -> list[Column]:
    """Return columns that are always shown; ``least`` by header in lower case is the width to which one may be cut."""
    return [
        Column(header=header, cells=[row[number] for row in rows], least=least.get(header.lower()))
        for number, header in enumerate(headers)
    ]


def layout(columns: Sequence[Column], room: int | None) -> list[list[Piece]]:
    """Return the lines of a table, the headers first, each as pieces with their styles."""
    from rich.cells import cell_len

    kept = [column for column in columns if column.wanted]
    texts = {id(column): [tr(column.header), *map(_text, column.cells)] for column in kept}
    natural = {key: max(map(cell_len, cells)) for key, cells in texts.items()}
    if room is not None:
        while _sum(kept, natural, good=True) > room and any(column.rank > KEPT for column in kept):
            kept.remove(max(kept, key=lambda column: column.rank))
        while _sum(kept, natural, good=False) > room and any(column.rank for column in kept):
            kept.remove(max(kept, key=lambda column: column.rank))
    widths = _fit(kept, natural, room)
    lines: list[list[Piece]] = []
    for number in range(len(columns[0].cells) + 1):
        line: list[Piece] = []
        for column, width in zip(kept, widths, strict=True):
            text = _cut(texts[id(column)][number], width)
            blank = " " * (width - cell_len(text))
            flush = bool(column.cells) and all(type(cell) is int for cell in column.cells)
            style = "bold" if not number else column.style(column.cells[number - 1]) if column.style else ""
            line += [(blank, ""), (text, style)] if flush else [(text, style), (blank, "")]
            line.append((" " * GAP, ""))
        while line and not line[-1][0].strip():
            line.pop()
        lines.append(line)
    return lines


def plain_lines(columns: Sequence[Column], room: int | None) -> list[str]:
    return ["".join(text for text, _ in line) for line in layout(columns, room)]


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:,}" if type(value) is int else printable(without_passwords(value), LONG)


def _sum(kept: Sequence[Column], natural: dict[int, int], good: bool) -> int:
    """Return the width of the table with its columns cut to their good widths, or as far as they may be."""
    widths = []
    for column in kept:
        least = column.good if good and column.good is not None else column.least
        widths.append(min(natural[id(column)], LONG if least is None else least))
    return sum(widths) + GAP * (len(widths) - 1)


def _fit(kept: Sequence[Column], natural: dict[int, int], room: int | None) -> list[int]:
    """Return the widths: the widest columns are cut until the table fits."""
    widths = [natural[id(column)] for column in kept]
    if room is None:
        return widths
    over = sum(widths) + GAP * (len(widths) - 1) - room
    while over > 0:
        # Those that may be cut go first; if that is not enough, any: a line never gets wider than the terminal.
        able = [n for n, column in enumerate(kept) if column.good is not None and widths[n] > column.good]
        able = able or [n for n, column in enumerate(kept) if column.least is not None and widths[n] > column.least]
        able = able or [n for n, width in enumerate(widths) if width > 1]
        if not able:
            break
        widths[max(able, key=widths.__getitem__)] -= 1
        over -= 1
    return widths


def _cut(text: str, width: int) -> str:
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) <= width:
        return text
    return set_cell_size(text, width - 1).rstrip() + mark("…", "~")


def mark(character: str, plain: str) -> str:
    """Return the character, or the plain text where the encoding of standard output does not have it."""
    try:
        character.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return plain
    return character
