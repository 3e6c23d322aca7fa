"""What is printed: lines, sentences, tables, JSON, one-line errors and the progress bar, drawn by rich.

A terminal gets colours (unless NO_COLOR is set), a live bar, and tables whose columns are cut or left out until each
line fits; a pipe gets plain text, and all of every column.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from aiotaskq.cli.i18n import tr, translated
from aiotaskq.core.masking import without_passwords
from aiotaskq.log import printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.progress import Progress

LONG = 2_000  # characters of one text that are printed
GAP = 2  # blanks between two columns
KEPT = 2  # columns of a higher rank are left out rather than that others become narrow

Piece = tuple[str, str]
"""A text and its style."""


def interactive() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()


def echo(text: str = "") -> None:
    print(text, flush=True)


def say(message: str, **values: object) -> None:
    """Print a sentence in the user's language, with the values in place of its ``{names}``."""
    echo(printable(tr(message, **values), LONG))


def say_stderr(message: str, **values: object) -> None:
    """Print a sentence on standard error, for what is not the output of the command."""
    echo_stderr(printable(tr(message, **values), LONG))


def echo_error(error: object) -> None:
    """Print an error in one line on standard error; errors of the library are translated."""
    said = printable(without_passwords(translated(error)), LONG)
    print(tr("error: {error}", error=said), file=sys.stderr, flush=True)


_prefix = ""


def begin_lines(text: str) -> None:
    """Begin each line on standard error with a text, where several processes write to it."""
    global _prefix
    _prefix = text


def echo_stderr(text: str) -> None:
    """Print a line on standard error, for what is not the output of the command."""
    with contextlib.suppress(OSError):  # standard error is closed
        # In one write, because other processes may write to the same stream.
        print(f"{_prefix}{text}\n", end="", file=sys.stderr, flush=True)


def echo_json(value: Any) -> None:
    """Print a value as JSON; what JSON does not know is printed as a string."""
    print(json_text(value, indent=2), flush=True)


def json_text(value: Any, indent: int | None = None) -> str:
    """Return JSON without characters that control a terminal: also those that JSON itself does not escape."""
    text = json.dumps(value, ensure_ascii=False, indent=indent, default=str)
    if text.replace("\n", "").isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text)


def echo_table(rows: Sequence[Any], columns: Sequence[Column]) -> None:
    """Print a table: on a terminal in colours, and no wider than that; a pipe gets all of every column."""
    for line in layout(rows, columns, width_of_output()):
        _print(*line)


def echo_check(passed: bool, text: str) -> None:
    drawn = (mark("✓", "ok"), "green") if passed else (mark("✗", "NO"), "bold red")
    _print(("  ", ""), drawn, (f" {printable(text, LONG)}", ""))


def echo_title(text: str) -> None:
    _print((printable(text, LONG), "bold"))


def _print(*line: Piece) -> None:
    if not interactive():
        echo("".join(text for text, _ in line))
        return
    from rich.text import Text

    _console().print(Text.assemble(*line), soft_wrap=True)


def echo_markdown(text: str) -> None:
    """Print Markdown: formatted, in the pager, on a terminal; as it stands elsewhere."""
    if not interactive():
        print(text, end="", flush=True)
        return
    from rich.markdown import CodeBlock, Markdown
    from rich.syntax import Syntax

    class Code(CodeBlock):
        """A block of code whose long lines the terminal wraps, so that they are copied as they were written."""

        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            code = "\n".join(line.ljust(options.max_width) for line in str(self.text).splitlines())
            shown = Syntax(code, self.lexer_name, theme=self.theme).highlight(code)
            shown.overflow = "ignore"
            yield shown

    class Page(Markdown):
        elements: ClassVar = {**Markdown.elements, "fence": Code, "code_block": Code}

    os.environ.setdefault("LESS", "FRX")  # as git has it: colours stay, and a page that fits on the screen is printed
    console = _console()
    with console.pager(styles=True):
        # A terminal cannot follow a link to another page, so its target is printed beside its text.
        console.print(Page(text, hyperlinks=False), crop=False)


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(highlight=False, stderr=stderr)


@contextlib.contextmanager
def live_text() -> Iterator[Callable[[Sequence[str]], None]]:
    """Yield what shows lines, the first as a headline, in place of those before; elsewhere than on a terminal below."""
    if not interactive():
        yield lambda lines: echo("\n".join(lines))
        return
    from rich.live import Live
    from rich.text import Text

    with Live(console=_console(), auto_refresh=False, vertical_overflow="ellipsis") as board:

        def show(lines: Sequence[str]) -> None:
            texts = [Text(line, "" if number else "bold") for number, line in enumerate(lines)]
            board.update(Text("\n", no_wrap=True, overflow="ellipsis").join(texts), refresh=True)

        yield show


@contextlib.contextmanager
def full_screen() -> Iterator[Callable[[Sequence[Sequence[Piece]]], None]]:
    """Yield what shows lines on the whole terminal, which at the end has what it had before."""
    from rich.live import Live
    from rich.text import Text

    with Live(console=_console(), screen=True, auto_refresh=False) as board:

        def show(lines: Sequence[Sequence[Piece]]) -> None:
            texts = [Text.assemble(*line) for line in lines]
            board.update(Text("\n", no_wrap=True, overflow="crop").join(texts), refresh=True)

        yield show


class ProgressBar:
    """A live progress bar on a terminal, by default on standard error; elsewhere only its lines are printed."""

    def __init__(self, label: str, total: int | None, *, quiet: bool, to_stderr: bool = True) -> None:
        """A total of None is unknown. ``quiet`` prints nothing."""
        self._quiet = quiet
        self._to_stderr = to_stderr
        self._label = label
        self._total = total
        self._progress: Progress | None = None

    def __enter__(self) -> ProgressBar:
        if self._quiet or not (sys.stderr.isatty() if self._to_stderr else interactive()):
            return self
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn

        console = _console(stderr=self._to_stderr)
        columns: list[ProgressColumn]
        columns = [TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn()]
        if console.width >= 60:
            columns += [TextColumn("{task.fields[note]}"), TimeElapsedColumn()]
        self._progress = Progress(*columns, console=console, expand=True, transient=self._to_stderr)
        self._progress.add_task(self._label, total=self._total, note="")
        self._progress.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop drawing the bar; idempotent."""
        if self._progress is not None:
            self._progress.stop()  # shows the cursor again
            self._progress = None

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        """Set the progress, the total if there is another one, and a note behind the bar."""
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=done, total=total, note=note)

    def line(self, text: str) -> None:
        """Print a line above the bar."""
        if self._quiet:
            return
        if self._progress is None:
            echo(printable(text, LONG))
            return
        from rich.text import Text

        self._progress.console.print(Text(printable(text, LONG)), soft_wrap=True)


# ---- tables ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Column:
    """One column of a table."""

    header: str
    """In English, as it is in the catalogue."""
    cell: str | int | Callable[[Any], object]
    """The field of a row, its place, or what returns the cell of a row. None is an empty cell; a column of ints only is
    aligned to the right."""
    _: KW_ONLY
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

    def of(self, row: Any) -> object:
        """Return the cell of a row."""
        if callable(self.cell):
            return self.cell(row)
        return getattr(row, self.cell) if isinstance(self.cell, str) else row[self.cell]


def width_of_output() -> int | None:
    """Return the width of the terminal, that of COLUMNS without one, or None: a pipe has no width."""
    if (sys.stdout is not None and sys.stdout.isatty()) or os.environ.get("COLUMNS", "").isdecimal():
        return shutil.get_terminal_size().columns
    return None


def layout(rows: Sequence[Any], columns: Sequence[Column], room: int | None) -> list[list[Piece]]:
    """Return the lines of a table, the headers first, each as pieces with their styles."""
    from rich.cells import cell_len

    found = {column: list(map(column.of, rows)) for column in columns}
    for column, cells in [*found.items()]:
        if (column.rank or column.plain) and all(cell in (None, "", *column.plain) for cell in cells):
            del found[column]  # it has nothing to say
    texts = {column: [tr(column.header), *map(_text, cells)] for column, cells in found.items()}
    widths = {column: max(map(cell_len, cells)) for column, cells in texts.items()}
    if room is not None:
        _fit(widths, room)
    lines: list[list[Piece]] = []
    for number in range(len(rows) + 1):
        line: list[Piece] = []
        for column, width in widths.items():
            text = _cut(texts[column][number], width)
            blank = " " * (width - cell_len(text))
            flush = bool(rows) and all(type(cell) is int for cell in found[column])
            style = "bold" if not number else column.style(found[column][number - 1]) if column.style else ""
            line += [(blank, ""), (text, style)] if flush else [(text, style), (blank, "")]
            line.append((" " * GAP, ""))
        while line and not line[-1][0].strip():
            line.pop()
        lines.append(line)
    return lines


def plain_lines(rows: Sequence[Any], columns: Sequence[Column], room: int | None) -> list[str]:
    return ["".join(text for text, _ in line) for line in layout(rows, columns, room)]


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:,}" if type(value) is int else printable(without_passwords(value), LONG)


def _fit(widths: dict[Column, int], room: int) -> None:
    """Leave columns out until the rest fits when it is cut; then cut the widest columns until the table fits."""

    def needed(good: bool) -> int:
        """Return the width of the table with its columns cut to their good widths, or as far as they may be."""
        least = {each: each.good if good and each.good is not None else each.least for each in widths}
        return sum(min(width, least[each] or LONG) + GAP for each, width in widths.items()) - GAP

    for good, kept in ((True, KEPT), (False, 0)):
        while needed(good) > room and (last := max(widths, key=lambda each: each.rank)).rank > kept:
            del widths[last]
    while sum(widths.values()) + GAP * (len(widths) - 1) > room:
        # Those that may be cut go first; if that is not enough, any: a line never gets wider than the terminal.
        able = [each for each in widths if each.good is not None and widths[each] > each.good]
        able = able or [each for each in widths if each.least is not None and widths[each] > each.least]
        able = able or [each for each in widths if widths[each] > 1]
        if not able:
            break
        widths[max(able, key=widths.__getitem__)] -= 1


def _cut(text: str, width: int) -> str:
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) <= width:
        return text
    return set_cell_size(text, width - 1).rstrip() + mark("…", "~")


def fill(line: Sequence[Piece], room: int, style: str = "") -> list[Piece]:
    """Return a line with a style added, cut or filled with blanks to so many columns."""
    from rich.cells import cell_len

    filled: list[Piece] = []
    for text, own in line:
        if room and text:
            filled.append((_cut(text, room), f"{own} {style}".strip()))
            room -= cell_len(filled[-1][0])
    return [*filled, (" " * room, style)]


def mark(character: str, plain: str) -> str:
    """Return the character, or the plain text where the encoding of standard output does not have it."""
    try:
        character.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return plain
    return character
