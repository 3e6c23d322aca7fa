"""What the terminal shows: lines, tables, JSON, one-line errors and the progress bar; the one file that knows rich.

On a terminal there are colours (unless NO_COLOR is set) and a live bar; into a pipe goes plain text.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from aiotaskq.cli.i18n import tr, translated
from aiotaskq.core.masking import without_passwords
from aiotaskq.log import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

LONG = 2_000  # characters of one text that are shown; a terminal scrolls


def interactive() -> bool:
    """Whether standard output is a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


def say(text: str = "") -> None:
    """Print one line of ours."""
    print(text, flush=True)


def say_error(error: object) -> None:
    """Print one line on standard error; what the library says is translated."""
    said = printable(without_passwords(translated(error)), LONG)
    print(tr("error: {error}", error=said), file=sys.stderr, flush=True)


def note(text: str) -> None:
    """Print one line about the command itself on standard error, out of the way of its output."""
    with contextlib.suppress(OSError):  # nobody reads it any more: a closed terminal, a dead collector of logs
        # In one write, also where nothing is buffered: other processes may have the same stream.
        print(f"{text}\n", end="", file=sys.stderr, flush=True)


def say_json(value: Any) -> None:
    """Print a value as JSON; instants, ids and other words as text."""
    print(json_text(value, indent=2), flush=True)


def json_text(value: Any, indent: int | None = None) -> str:
    """Return JSON that drives no terminal: what JSON itself leaves as it is (as C1 controls) is escaped, too."""
    text = json.dumps(value, ensure_ascii=False, indent=indent, default=str)
    if text.replace("\n", "").isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text)


def tick(held: bool) -> str:
    """Return the mark of a check, in characters that the terminal has."""
    try:
        "✓✗".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return "ok" if held else "NO"
    return "✓" if held else "✗"


def say_table(headers: Sequence[str], rows: Sequence[Sequence[object]], *, cut_last: bool = False) -> None:
    """Print rows under headers, in columns that are never cut, for what they hold is to be copied.

    With ``cut_last`` the last column ends where the terminal does; a pipe gets all of it. Numbers stand to the right.
    """
    for number, line in enumerate(table_lines(headers, rows, cut_last=cut_last)):
        if interactive() and not number:
            say_title(line)
        else:
            say(line)


def table_lines(headers: Sequence[str], rows: Sequence[Sequence[object]], *, cut_last: bool = False) -> list[str]:
    """Return the lines of a table, the headers first; see ``say_table``."""
    from rich.cells import cell_len, set_cell_size

    shown = (["" if cell is None else _cell(cell) for cell in row] for row in rows)
    cells = [[tr(header) for header in headers], *shown]
    # Chinese characters are two columns wide.
    widths = [max(cell_len(row[number]) for row in cells) for number in range(len(headers))]
    right = [bool(rows) and all(type(row[number]) is int for row in rows) for number in range(len(headers))]
    room = _console().width - sum(widths[:-1]) - 2 * (len(widths) - 1) if interactive() and cut_last else 0
    lines = []
    for row in cells:
        if room >= 10 and cell_len(row[-1]) > room:
            row[-1] = set_cell_size(row[-1], room - 1) + "…"
        padded = [
            " " * (width - cell_len(cell)) + cell if flush else cell + " " * (width - cell_len(cell))
            for cell, width, flush in zip(row, widths, right, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    return lines


def _cell(value: object) -> str:
    return f"{value:,}" if type(value) is int else printable(without_passwords(value), LONG)


def say_held(held: bool, text: str) -> None:
    """Print a check with its mark."""
    if not interactive():
        say(f"  {tick(held)} {printable(text, LONG)}")
        return
    from rich.text import Text

    line = Text.assemble("  ", (tick(held), "green" if held else "bold red"), " ", printable(text, LONG))
    _console().print(line, soft_wrap=True)


def say_title(text: str) -> None:
    """Print a headline."""
    if not interactive():
        say(text)
        return
    from rich.text import Text

    _console().print(Text(text, "bold"), soft_wrap=True)


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(highlight=False, stderr=stderr)


class Board:
    """Lines that are drawn over their last version on a terminal; elsewhere each version is printed below the last."""

    def __init__(self) -> None:
        self._live: Any = None

    def __enter__(self) -> Board:
        if interactive():
            from rich.live import Live

            self._live = Live(console=_console(), auto_refresh=False, vertical_overflow="ellipsis")
            self._live.start()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._live is not None:
            self._live.stop()  # brings the cursor back, whatever happened

    def show(self, lines: Sequence[str]) -> None:
        """Show these lines, the first as a headline."""
        if self._live is None:
            say("\n".join(lines))
            return
        from rich.text import Text

        text = Text("\n", no_wrap=True, overflow="ellipsis").join(
            Text(line, "" if number else "bold") for number, line in enumerate(lines)
        )
        self._live.update(text, refresh=True)


def bar_of(label: str, total: int | None, *, quiet: bool) -> tuple[Bar, Callable[[int], None]]:
    """Return a progress bar that is on standard error, and what moves it: for a command that prints its answer.

    A total of None is one that nobody knows."""
    bar = Bar(label, total, quiet=quiet or not sys.stderr.isatty(), to_stderr=True)
    return bar, bar.update


class Bar:
    """A live progress bar on a terminal; elsewhere only its lines are printed. ``quiet`` prints nothing at all."""

    def __init__(self, label: str, total: int | None, *, quiet: bool = False, to_stderr: bool = False) -> None:
        self._quiet = quiet
        self._to_stderr = to_stderr
        self._label = label
        self._total = total
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Bar:
        if self._quiet or not (self._to_stderr or interactive()):
            return self
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn

        console = _console(stderr=self._to_stderr)
        columns: list[ProgressColumn] = [
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
        ]
        if console.width >= 60:
            columns += [TextColumn("{task.fields[note]}"), TimeElapsedColumn()]
        self._progress = Progress(*columns, console=console, expand=True, transient=self._to_stderr)
        self._task = self._progress.add_task(self._label, total=self._total, note="")
        self._progress.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the bar as it is and give the terminal back; idempotent."""
        if self._progress is not None:
            self._progress.stop()  # brings the cursor back, whatever happened
            self._progress = None

    def total(self, total: int) -> None:
        """Say how much there is."""
        self._total = total
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, total=total)

    def update(self, done: int, note: str = "") -> None:
        """Show how far it is."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, note=note)

    def line(self, text: str) -> None:
        """Print a line, above the bar where there is one."""
        if self._quiet:
            return
        if self._progress is None:
            say(printable(text, LONG))
            return
        from rich.text import Text

        self._progress.console.print(Text(printable(text, LONG)), soft_wrap=True)
