"""What the terminal shows: lines, tables, JSON, one-line errors and the progress bar; the one file that knows rich.

On a terminal there are colours (unless NO_COLOR is set) and a live bar; into a pipe goes plain text.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

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
    """Print one line on standard error."""
    print(f"error: {printable(error, LONG)}", file=sys.stderr, flush=True)


def note(text: str) -> None:
    """Print one line about the command itself on standard error, out of the way of its output."""
    with contextlib.suppress(OSError):  # nobody reads it any more: a closed terminal, a dead collector of logs
        # In one write, also where nothing is buffered: other processes may have the same stream.
        print(f"{text}\n", end="", file=sys.stderr, flush=True)


def say_json(value: Any) -> None:
    """Print a value as JSON; instants, ids and other words as text."""
    print(json.dumps(value, ensure_ascii=False, indent=2, default=str), flush=True)


def tick(held: bool) -> str:
    """Return the mark of a check, in characters that the terminal has."""
    try:
        "✓✗".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return "ok" if held else "NO"
    return "✓" if held else "✗"


def say_table(headers: Sequence[str], rows: Sequence[Sequence[object]], *, cut_last: bool = False) -> None:
    """Print rows under headers, in columns that are never cut, for what they hold is to be copied.

    With ``cut_last`` the last column ends where the terminal does; a pipe gets all of it.
    """
    from rich.cells import cell_len, set_cell_size
    from rich.text import Text

    cells = [[*headers], *(["" if cell is None else printable(cell, LONG) for cell in row] for row in rows)]
    # Chinese characters are two columns wide.
    widths = [max(cell_len(row[number]) for row in cells) for number in range(len(headers))]
    room = _console().width - sum(widths[:-1]) - 2 * (len(widths) - 1) if interactive() and cut_last else 0
    for number, row in enumerate(cells):
        if room >= 10 and cell_len(row[-1]) > room:
            row[-1] = set_cell_size(row[-1], room - 1) + "…"
        line = "  ".join(
            cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        if interactive() and not number:
            _console().print(Text(line, "bold"), soft_wrap=True)
        else:
            say(line)


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


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False)


class Bar:
    """A live progress bar on a terminal; elsewhere only its lines are printed. ``quiet`` prints nothing at all."""

    def __init__(self, label: str, total: int, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._label = label
        self._total = total
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Bar:
        if self._quiet or not interactive():
            return self
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn

        console = _console()
        columns: list[ProgressColumn] = [
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
        ]
        if console.width >= 60:
            columns += [TextColumn("{task.fields[note]}"), TimeElapsedColumn()]
        self._progress = Progress(*columns, console=console, expand=True)
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
        """Say how much there is, before the bar is shown."""
        self._total = total

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
