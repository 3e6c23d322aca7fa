"""Owner ids of workers and consumers, and what this host knows of the process that has one."""

from __future__ import annotations

import hashlib
import os
import re
import socket
from pathlib import Path

from aiotaskq.core.ids import new_id
from aiotaskq.core.outcome import Life

PROC = Path("/proc")
_OWNER = re.compile(r".*-(\d{1,10})-([0-9a-f]{12})-[0-9a-f]{12}", re.DOTALL)
renewing: set[str] = set()
"""The owners in this process whose leases are renewed."""


def fresh_owner(kind: str) -> str:
    """Return an owner id that is unique to this call, whatever the host name and the pid.

    It identifies the process to other processes of this host, see ``life_of``; ``core.worker_info.read_owner`` reads
    it. With its mark for a run alone it has at most 100 characters.
    """
    found = _process(os.getpid())
    birth = "0" if found is None else found[0]
    return f"{kind}{socket.gethostname()[:48]}-{os.getpid()}-{birth}-{new_id()[-12:]}"


def life_of(owner: str) -> Life:
    """Return what this host knows of the process that has this owner id."""
    match = _OWNER.fullmatch(owner)
    found = None if match is None else _process(int(match[1]))
    if match is None or found is None or found[0] != match[2] or found[1] in "ZXx":
        return Life.UNKNOWN
    if found[1] in "Tt" or (int(match[1]) == os.getpid() and owner not in renewing):
        return Life.STOPPED
    return Life.LIVES


def _process(pid: int) -> tuple[str, str] | None:
    """Return the birth of a process, which no other process of that pid shares, and its state as in ``/proc``.

    None if there is no such process.
    """
    try:
        # The name of the program, in brackets, may hold any character.
        fields = (PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].decode().split()
        boot = (PROC / "sys/kernel/random/boot_id").read_text()
        namespace = os.readlink(PROC / "self/ns/pid")  # in another container the same pid is another process
    except OSError:
        return _process_without_proc(pid)
    return _digest(boot, namespace, fields[19]), fields[0]


def _process_without_proc(pid: int) -> tuple[str, str] | None:
    """Return the same without ``/proc``: a later process of the same pid is taken for this one."""
    if os.name != "posix" or (PROC / "self/stat").exists():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass  # it exists, and belongs to another user
    return _digest(socket.gethostname()), "R"


def _digest(*words: str) -> str:
    return hashlib.blake2s("\n".join(words).encode(), digest_size=6).hexdigest()
