"""The command line: ``main`` is its entry point, and what turns an error into one line and an exit code.

Each command is declared in ``app`` (the one file that knows typer) and done in a sibling that is imported when it runs:
``aiotaskq --help`` must not wait for a database library.
"""

from __future__ import annotations

import os
import shutil
import sys
from io import TextIOWrapper

__all__ = ["main", "program"]


def main() -> None:
    """Run the command line and exit: 0 ok, 1 error, 2 wrong usage, 3 given back, 4 abandoned, 130 Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 must not end a command
    try:
        from aiotaskq.cli.app import app

        app(prog_name=program())
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        from aiotaskq.cli.screen import say_error
        from aiotaskq.errors import AiotaskqError

        if not isinstance(error, AiotaskqError):
            raise
        say_error(error)
        sys.exit(1)


def program() -> str:
    """Return how the user calls this command line, for what is printed to be typed again."""
    if sys.argv[0].endswith("__main__.py"):
        return "python -m aiotaskq"
    # What is printed to be typed must work as it is: from an environment that is not active, with the path as typed.
    return "aiotaskq" if shutil.which("aiotaskq") == os.path.abspath(sys.argv[0]) else sys.argv[0]
