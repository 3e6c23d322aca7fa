"""How the user calls this command line."""

from __future__ import annotations

import os
import shutil
import sys


def program() -> str:
    """Return how the user calls this command line, for what is printed to be typed again."""
    if sys.argv[0].endswith("__main__.py"):
        return "python -m aiotaskq"
    # What is printed to be typed must work as it is: from an environment that is not active, with the path as typed.
    return "aiotaskq" if shutil.which("aiotaskq") == os.path.abspath(sys.argv[0]) else sys.argv[0]
