"""The command line: ``main`` is its entry point, and turns an error into one line and an exit code.

Each command is in the file, or the folder, of its name, except as ``commands`` lists them. The other files:

- the program: ``commands`` (with defaults from pyproject.toml), ``options``
- what is printed: ``output``, ``layout`` (of tables), ``times`` (durations, instants)
- options from the fields of a Struct: ``parameters``; commands of the operations in the table: ``door``, and how these
  are shown: ``answers``
- for the shell and from a checkout: ``tools``
- translation: ``i18n``
- what commands work on: ``application`` (MODULE:TQ), ``store_access`` (a URL; prefixes of ids), ``tables`` (of a SQL
  database)
- ``run``: ``supervisor``, ``shutdown``
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from io import TextIOWrapper
from typing import Any

import typer

from aiotaskq.cli.commands import app_for, defaults
from aiotaskq.cli.i18n import tr, translated, usage_error
from aiotaskq.cli.layout import LONG
from aiotaskq.cli.options import COMPLETE
from aiotaskq.cli.output import echo_error, program
from aiotaskq.core.foreign_names import word
from aiotaskq.errors import AiotaskqError, ValidationError
from aiotaskq.log import output, printable

__all__ = ["main"]

_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE)


def main() -> None:
    """Run the command line and exit.

    0 success, 1 error, 2 wrong usage, 3 tasks released, 4 tasks abandoned, 5 timeout of a push, 130 Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # the terminal may have no UTF-8
    try:
        code = _run()
        if sys.stdout is not None:  # closed by the caller
            sys.stdout.flush()  # at the end of the interpreter an error would be a traceback
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        code = _explain(error)
    sys.exit(code)


def _run() -> int:
    output(None)  # commands print their errors themselves; `run` shows the log

    words = sys.argv[1:]
    if COMPLETE in os.environ:
        from typer.completion import completion_init  # type: ignore[attr-defined]

        completion_init()
        # The words of the line to be completed, from bash, and from zsh and fish.
        words = f"{os.environ.get('COMP_WORDS', '')} {os.environ.get('_TYPER_COMPLETE_ARGS', '')}".split()
    app = app_for(words)
    options: dict[str, Any] = {}
    if not {"--help", "--version"} & set(sys.argv):
        options["default_map"] = defaults(app)
    answer = app(prog_name=program(), complete_var=COMPLETE, standalone_mode=False, **options)
    return answer if isinstance(answer, int) else 0


def _explain(error: Exception) -> int:
    """Print an error of the library or a usage error in one line; return the exit code. Raises any other error."""
    if isinstance(error, typer.Abort):
        print(tr("nothing was done"), file=sys.stderr)
        return 1
    # An error of typer's, which has moved its classes between releases.
    if hasattr(error, "exit_code") and hasattr(error, "format_message"):
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.format_message(), file=sys.stderr)
        else:
            said = printable(usage_error(error), LONG)
            print(tr("error: {error}", error=said), file=sys.stderr)
            unknown = getattr(error, "option_name", None)
            if unknown and (meant := word("option of a command", unknown)) is not None:
                print(tr("here: {word}", word=translated(meant.here)), file=sys.stderr)
                error.add_note(f"aiotaskq docs {meant.page}")
            for note in getattr(error, "__notes__", ()):
                print(tr("see '{command}'", command=note), file=sys.stderr)
            if (context := getattr(error, "ctx", None)) is not None:
                if unknown and hasattr(context.command, "commands") and not getattr(error, "possibilities", None):
                    place = f"{context.command_path} COMMAND {printable(unknown, LONG)}"
                    print(tr("an option of a command stands behind its name: {place}", place=place), file=sys.stderr)
                print(tr("see '{command} --help'", command=context.command_path), file=sys.stderr)
        return int(error.exit_code)
    if isinstance(error, OSError) and error.errno in _UNWRITABLE and _from_printing(error):
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 1)  # for what the interpreter flushes at its end
        if error.errno != errno.EPIPE:  # the reader has gone
            said = tr("standard output: {why}", why=translated(error.strerror))
            print(tr("error: {error}", error=said), file=sys.stderr)
        return 1
    if not isinstance(error, AiotaskqError):
        raise error
    echo_error(error)
    return 2 if isinstance(error, ValidationError) else 1  # the value of an option or an argument


def _from_printing(error: Exception) -> bool:
    """Whether the command line's own printing raised this, not a file that the application writes."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return str(frames[-1][0].f_globals.get("__name__")).startswith(("aiotaskq.cli", "typer", "click", "rich"))
