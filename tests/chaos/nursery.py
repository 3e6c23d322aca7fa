"""A process that has imported everything and forks the programs on demand, which is quicker than a new interpreter.

Speaks JSON lines: in come ``Options`` with an order number, out go the pid of each child and its end. It has no
threads and no loop, so its children are as good as started afresh. When its stdin closes, it kills what it has.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import msgspec

# What a worker imports on use is imported here, once.
import aiotaskq.backends.sql.backend  # noqa: F401
from aiotaskq.backends.url import scheme_of
from tests.chaos import program

TICK = 0.02
PR_SET_PDEATHSIG = 1


def main() -> None:
    children: dict[int, int] = {}
    pending = b""
    say({"ready": os.getpid()})
    while True:
        readable, _, _ = select.select([0], [], [], TICK)
        if readable:
            chunk = os.read(0, 65536)
            if not chunk:
                break
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                order = msgspec.json.decode(line)
                pid = start(order["options"])
                children[pid] = order["order"]
                say({"order": order["order"], "pid": pid})
        while children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            say({"order": children.pop(pid), "status": os.waitstatus_to_exitcode(status)})
    for pid in children:
        os.kill(pid, signal.SIGKILL)


def say(what: dict[str, Any]) -> None:
    os.write(1, msgspec.json.encode(what) + b"\n")


def start(raw: dict[str, Any]) -> int:
    """Fork a child that runs the program; what it says goes to ``<name>.log``."""
    options = msgspec.convert(raw, program.Options)
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        log = os.open(Path(options.folder) / f"{options.name}.log", os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        code = program.main(options)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def preload(url: str) -> None:
    """Import the driver of a URL."""
    scheme = scheme_of(url)
    if scheme in ("redis", "rediss", "valkey"):
        __import__("aiotaskq.backends.redis.backend")
    __import__({"sqlite": "aiosqlite", "mysql": "asyncmy", "mariadb": "asyncmy"}.get(scheme, "asyncpg"))


if __name__ == "__main__":
    for each in sys.argv[1:]:
        preload(each)
    main()
