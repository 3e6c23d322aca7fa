"""The ledger outside the system: what each process did, one append-only file per process, readable after kill -9.

``at`` is seconds of CLOCK_MONOTONIC, which is one clock for every process of a host and cannot be set: a process whose
wall clock is shifted by a test still tells the true order of things.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import msgspec


class Line(msgspec.Struct, omit_defaults=True, frozen=True):
    """One thing that happened in a process. Which fields are set depends on ``what``.

    ======== ==========================================================================================
    boot     the process is up; ``owner`` is its worker's
    start    a handler begins with the delivery (``id``, ``fence``)
    end      it is over; ``how`` is returned, raised or cancelled
    settled  the store has taken (or refused: ``how`` is lost) what the run came to; ``how`` is the event
    write    a zombie tried ``how`` (mark, report, complete, retry) on its own; ``held`` is the answer
    suicide  the handler is about to kill its process
    called   the callback of the group ``how`` runs; ``data`` has its kind
    step     a workflow has got the value in ``data`` of the step or event ``how``
    joined   a debounced task is done with the calls in ``data``
    intent   a producer is about to push ``id``
    ack      that push returned, or its transaction is about to commit
    rolled   its transaction is about to be rolled back
    locked   SQLite refused the statement ``how``
    exit     a graceful end; ``n`` is the exit code
    measure  numbers about the process, in ``data``
    ======== ==========================================================================================
    """

    what: str
    at: float
    pid: int
    id: str = ""
    fence: int = 0
    owner: str = ""
    how: str = ""
    held: bool = False
    n: int = 0
    data: dict[str, Any] = {}


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Line).decode


class Ledger:
    """Append lines to a file. Each is one ``os.write`` to a file opened with O_APPEND: the kernel has it at once."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o600)
        self._pid = os.getpid()

    def write(self, what: str, **fields: Any) -> None:
        os.write(self._file, _encode(Line(what=what, at=time.monotonic(), pid=self._pid, **fields)) + b"\n")

    def close(self) -> None:
        os.close(self._file)


def read(path: Path) -> list[Line]:
    """Return the lines of one file."""
    if not path.exists():
        return []
    whole, _, _being_written = path.read_bytes().rpartition(b"\n")  # a read may see a part of a write
    return [_decode(line) for line in whole.splitlines()]


def read_all(folder: Path) -> list[Line]:
    """Return the lines of every process in the order in which they happened."""
    lines = [line for path in sorted(folder.glob("*.ledger")) for line in read(path)]
    lines.sort(key=lambda line: line.at)
    return lines
