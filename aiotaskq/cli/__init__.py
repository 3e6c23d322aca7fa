"""The command line: ``main`` is its entry point, and turns an error into one line and an exit code.

Each command is in the file, or the folder, of its name, except as ``commands`` lists them. The other files:

- the program: ``commands``, ``options``, ``defaults`` (from pyproject.toml)
- what is printed: ``explain`` (an error), ``output``, ``times`` (durations, instants)
- options from the fields of a Struct: ``parameters``; commands of the operations in the table: ``door``, and how these
  are shown: ``answers``
- for the shell and from a checkout: ``tools``
- translation: ``i18n``
- what commands work on: ``store_access`` (MODULE:TQ, a URL, prefixes of ids), ``tables`` (of a SQL database)
- ``run``: ``supervisor``, ``shutdown``
"""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper
from typing import Any

from aiotaskq.cli.commands import app_for
from aiotaskq.cli.options import COMPLETE, program

__all__ = ["main"]


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
        from aiotaskq.cli.explain import explain

        code = explain(error)
    sys.exit(code)


def _run() -> int:
    words = sys.argv[1:]
    if COMPLETE in os.environ:
        from typer.completion import completion_init  # type: ignore[attr-defined]

        completion_init()
        # The words of the line to be completed, from bash, and from zsh and fish.
        words = f"{os.environ.get('COMP_WORDS', '')} {os.environ.get('_TYPER_COMPLETE_ARGS', '')}".split()
    app = app_for(words)
    options: dict[str, Any] = {}
    if not {"--help", "--version"} & set(sys.argv):
        from aiotaskq.cli.defaults import defaults

        options["default_map"] = defaults(app)
    answer = app(prog_name=program(), complete_var=COMPLETE, standalone_mode=False, **options)
    return answer if isinstance(answer, int) else 0
