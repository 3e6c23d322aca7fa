"""How a worker stops: its exit codes, and the seconds that its parts may take."""

from __future__ import annotations

from enum import IntEnum

SERVICES = 1.0
"""Seconds that the round of a background loop may take to end when a worker stops."""
CLOSING = 5.0
"""Seconds that closing connections, threads and resources may take in the end."""


class ExitCode(IntEnum):
    """How a worker stopped."""

    DRAINED = 0
    RELEASED = 3
    ABANDONED = 4
