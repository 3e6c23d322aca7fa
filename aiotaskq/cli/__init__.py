"""The command line: ``main`` is its entry point, and what turns an error into one line and an exit code.

Each command is declared in ``commands`` (the one folder that knows typer) and done in a sibling that is imported when
it runs: ``aiotaskq --help`` must not wait for a database library.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from io import TextIOWrapper
from typing import Any

from aiotaskq.cli.program import program

__all__ = ["main", "program"]

_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE)
COMPLETE = "_AIOTASKQ_COMPLETE"  # set by the shell when it wants words completed


def main() -> None:
    """Run the command line and exit.

    0 ok, 1 error, 2 wrong usage, 3 given back, 4 abandoned, 5 not in time, 130 Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 must not end a command
    try:
        code = _run()
        if sys.stdout is not None:  # closed by the caller
            sys.stdout.flush()  # here an error is told; at the end of the interpreter it would be a traceback
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        code = _explain(error)
    sys.exit(code)


def _run() -> int:
    from aiotaskq.cli.commands import app_for
    from aiotaskq.cli.config import defaults
    from aiotaskq.log import output

    output(None)  # a command says itself what is wrong; `run` shows the log

    if COMPLETE in os.environ:
        from typer.completion import completion_init  # type: ignore[attr-defined]

        completion_init()
    app = app_for(None if COMPLETE in os.environ else sys.argv[1:])
    options: dict[str, Any] = {}
    if not {"--help", "--version"} & set(sys.argv):
        options["default_map"] = defaults(app)
    answer = app(prog_name=program(), complete_var=COMPLETE, standalone_mode=False, **options)
    return answer if isinstance(answer, int) else 0


def _explain(error: Exception) -> int:
    """Say in one line what was wrong, and return the exit code. Raises what is neither ours nor wrong usage."""
    import typer

    from aiotaskq.cli.i18n import tr, translated, usage_error
    from aiotaskq.errors import AiotaskqError
    from aiotaskq.log import printable

    if isinstance(error, typer.Abort):
        print(tr("nothing was done"), file=sys.stderr)
        return 1
    if hasattr(error, "exit_code") and hasattr(error, "format_message"):  # typer's own, wherever it keeps its classes
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.format_message(), file=sys.stderr)
        else:
            said = printable(usage_error(error), 2_000)  # what is quoted may come from elsewhere
            print(tr("error: {error}", error=said), file=sys.stderr)
            if (context := getattr(error, "ctx", None)) is not None:
                print(tr("'{command} --help' says more", command=context.command_path), file=sys.stderr)
        return int(error.exit_code)
    if isinstance(error, OSError) and error.errno in _UNWRITABLE and _is_ours(error):
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 1)  # for what is still to be written at the end
        if error.errno != errno.EPIPE:  # who reads no more needs no word
            said = tr("standard output: {why}", why=translated(error.strerror))
            print(tr("error: {error}", error=said), file=sys.stderr)
        return 1
    if not isinstance(error, AiotaskqError):
        raise error
    from aiotaskq.cli.output import say_error

    say_error(error)
    return 1


def _is_ours(error: Exception) -> bool:
    """Whether it was raised by what prints for the command line, not by a file of the application's."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return str(frames[-1][0].f_globals.get("__name__")).startswith(("aiotaskq.cli", "typer", "rich"))
