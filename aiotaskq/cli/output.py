"""Output to the terminal: lines, tables, JSON, one-line errors and the progress bar, drawn by rich.

A terminal gets colours (unless NO_COLOR is set) and a live bar; a pipe gets plain text.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from aiotaskq.cli.i18n import tr, translated
from aiotaskq.cli.layout import LONG, Column, Piece, layout, mark, width_of_output
from aiotaskq.core.masking import without_passwords
from aiotaskq.log import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


def interactive() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()


def echo(text: str = "") -> None:
    print(text, flush=True)


def echo_error(error: object) -> None:
    """Print an error in one line on standard error; errors of the library are translated."""
    said = printable(without_passwords(translated(error)), LONG)
    print(tr("error: {error}", error=said), file=sys.stderr, flush=True)


def echo_stderr(text: str) -> None:
    """Print a line on standard error, for what is not the output of the command."""
    with contextlib.suppress(OSError):  # standard error is closed
        # In one write, because other processes may write to the same stream.
        print(f"{text}\n", end="", file=sys.stderr, flush=True)


def echo_json(value: Any) -> None:
    """Print a value as JSON; what JSON does not know is printed as a string."""
    print(json_text(value, indent=2), flush=True)


def json_text(value: Any, indent: int | None = None) -> str:
    """Return JSON without characters that control a terminal: also those that JSON itself does not escape."""
    text = json.dumps(value, ensure_ascii=False, indent=indent, default=str)
    if text.replace("\n", "").isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text)


def echo_table(columns: Sequence[Column]) -> None:
    """Print a table: on a terminal in colours, and no wider than that; a pipe gets all of every column."""
    for line in layout(columns, width_of_output()):
        _print(*line)


def echo_check(passed: bool, text: str) -> None:
    drawn = (mark("✓", "ok"), "green") if passed else (mark("✗", "NO"), "bold red")
    _print(("  ", ""), drawn, (f" {printable(text, LONG)}", ""))


def echo_title(text: str) -> None:
    _print((text, "bold"))


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
    from rich.markdown import Markdown

    os.environ.setdefault("LESS", "FRX")  # as git has it: colours stay, and a page that fits on the screen is printed
    console = _console()
    with console.pager(styles=True):
        # A terminal cannot follow a link to another page, so its target is printed beside its text.
        console.print(Markdown(text, hyperlinks=False))


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


def progress_bar(label: str, total: int | None, *, quiet: bool) -> ProgressBar:
    """Return a progress bar on standard error. A total of None is unknown."""
    return ProgressBar(label, total, quiet=quiet or not sys.stderr.isatty(), to_stderr=True)


class ProgressBar:
    """A live progress bar on a terminal; elsewhere only its lines are printed. ``quiet`` prints nothing."""

    def __init__(self, label: str, total: int | None, *, quiet: bool = False, to_stderr: bool = False) -> None:
        self._quiet = quiet
        self._to_stderr = to_stderr
        self._label = label
        self._total = total
        self._progress: Progress | None = None

    def __enter__(self) -> ProgressBar:
        if self._quiet or not (self._to_stderr or interactive()):
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
