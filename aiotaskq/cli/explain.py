"""Turns an error of a command into one line, with what to do instead, and an exit code."""

from __future__ import annotations

import errno
import os
import sys
import traceback

import typer

from aiotaskq.cli.i18n import tr, translated, usage_error
from aiotaskq.cli.output import echo_error, say_stderr
from aiotaskq.core.foreign_names import word
from aiotaskq.errors import AiotaskqError, ValidationError

_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE)


def explain(error: Exception) -> int:
    """Print an error of the library or a usage error in one line; return the exit code. Raises any other error."""
    if isinstance(error, typer.Abort):
        say_stderr("nothing was done")
        return 1
    # An error of typer's, which has moved its classes between releases.
    if hasattr(error, "exit_code") and hasattr(error, "format_message"):
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.format_message(), file=sys.stderr)
        else:
            say_stderr("error: {error}", error=usage_error(error))
            unknown = getattr(error, "option_name", None)
            if unknown and (meant := word("option of a command", unknown)) is not None:
                say_stderr("here: {word}", word=translated(meant.here))
                error.add_note(f"aiotaskq docs {meant.page}")
            for note in getattr(error, "__notes__", ()):
                say_stderr("see '{command}'", command=note)
            if (context := getattr(error, "ctx", None)) is not None:
                long = unknown is not None and unknown.startswith("--")
                if long and hasattr(context.command, "commands") and not getattr(error, "possibilities", None):
                    place = f"{context.command_path} COMMAND {unknown}"
                    say_stderr("an option of a command stands behind its name: {place}", place=place)
                say_stderr("see '{command} --help'", command=context.command_path)
        return int(error.exit_code)
    if isinstance(error, OSError) and error.errno in _UNWRITABLE and _from_printing(error):
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 1)  # for what the interpreter flushes at its end
        if error.errno != errno.EPIPE:  # the reader has gone
            echo_error(tr("standard output: {why}", why=translated(error.strerror)))
        return 1
    if not isinstance(error, AiotaskqError):
        raise error
    echo_error(error)
    return 2 if isinstance(error, ValidationError) else 1  # the value of an option or an argument


def _from_printing(error: Exception) -> bool:
    """Whether the command line's own printing raised this, not a file that the application writes."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return str(frames[-1][0].f_globals.get("__name__")).startswith(("aiotaskq.cli", "typer", "click", "rich"))
