"""The CPU time that calls of a store take: in this process, and in the threads of the server that work for the store.

It does not depend on what else the machine does, as wall clock does.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.sql import connected
from benchmarks.system import System

PROC = Path("/proc")
# Those that read for others, too: only one store is measured at a time.
_THREADS = {
    "postgresql": "SELECT pid, pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
    " AND (datname = current_database() OR backend_type = 'io worker')",
    "mysql": "SELECT (SELECT variable_value FROM information_schema.global_variables WHERE variable_name = 'pid_file'),"
    " tid FROM information_schema.processlist WHERE db = DATABASE() AND id <> connection_id()",
}


class Cpu:
    """The CPU time of this process and of the connections that a store has at present."""

    def __init__(self, system: System) -> None:
        """Find the connections of its store. Raises RuntimeError where the system does not tell their times."""
        self._threads = [] if system.family == "sqlite" else [_schedstat(*each) for each in _threads(system)]
        if missing := [str(path) for path in self._threads if not path.exists()]:
            raise RuntimeError(f"no CPU time of the server: there is no {missing[0]}; use Linux, and a local server")

    def seconds(self) -> float:
        """Return the seconds that they have taken by now."""
        theirs = sum(int(path.read_text().split()[0]) for path in self._threads)  # nanoseconds
        return time.process_time() + theirs / 1e9


def _threads(system: System) -> Sequence[tuple[Any, ...]]:
    if system.family == "redis":
        from redis import Redis

        with Redis.from_url(system.place.partition("?")[0]) as client:
            pid = client.info("server")["process_id"]
        return [(pid, pid)]
    with connected(system) as execute:
        found = execute(_THREADS[system.family])
    if not found:
        raise RuntimeError(f"{urlsplit(system.place).path[1:]}: no connection is open")
    return found


def _schedstat(process: str | int, thread: int) -> Path:
    """Return the file with the times of a thread; the process by its number, or by a file that holds it."""
    number = process if isinstance(process, int) else int(Path(process).read_text())
    return PROC / str(number) / "task" / str(thread) / "schedstat"
