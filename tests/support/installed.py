"""What is installed on this machine beside Python packages; all of it can be hidden, as on a bare machine."""

from __future__ import annotations

import os
import shutil

BARE = "TESTS_BARE"
"""The environment variable that hides it, if it is not empty."""


class Unavailable(Exception):
    """The server cannot be started on this machine; says why, and what to install."""


def bare() -> bool:
    """Return whether what is installed is hidden."""
    return bool(os.environ.get(BARE))


def program(*names: str) -> str | None:
    """Return the path of a program that is installed under one of these names."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
    found = (shutil.which(name, path=path) for name in names)
    return None if bare() else next(filter(None, found), None)
