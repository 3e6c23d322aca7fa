"""Python processes that need no new interpreter: each is forked by a process that has imported the libraries.

``Popen`` is ``subprocess.Popen`` for ``python … -c``, ``-m`` or a script. Most of the start of such a process is the
import of SQLAlchemy, the drivers and other people's code; here that is done once for each process of a test run.
The package itself is imported by each process, as always. The process is a child of this one, with its own pid,
streams, environment, folder and process group, and ends as the interpreter ends. What a fork cannot take over
(options of the interpreter, variables that it reads at its start, another system) starts an interpreter.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import platform
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

CLONE = {"x86_64": 56, "aarch64": 220}.get(platform.machine())
"""The number of the system call."""
CLONE_PARENT = 0x8000
"""The new process is a child of the caller's parent."""
AT_START = ("PYTHON", "LD_", "MALLOC_")
"""What the interpreter, or the loader, reads at its start. These alone are taken over:"""
TAKEN = {"PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "PYTHONWARNINGS"}
LIBRARIES = [
    *("aiohttp.web", "aiosqlite", "alembic.command", "asyncio", "asyncmy", "asyncpg", "concurrent.futures.thread"),
    *("croniter", "fastapi", "greenlet", "logging.config", "msgspec", "multiprocessing.connection", "psycopg"),
    *("pymysql", "redis.asyncio", "rich.console", "rich.table", "sqlalchemy.dialects.mysql"),
    *("sqlalchemy.dialects.postgresql", "sqlalchemy.dialects.sqlite", "sqlalchemy.ext.asyncio"),
    *("sqlalchemy.ext.compiler", "sqlalchemy.orm", "typer", "uuid", "uvicorn"),
]


# ---- the test's side ------------------------------------------------------------------------------------------------


class Popen(subprocess.Popen):  # type: ignore[type-arg]
    """A Python process that is forked instead of started where that makes no difference."""

    def _execute_child(self, args: Any, *rest: Any) -> None:
        executable, preexec_fn, _close_fds, pass_fds, cwd, env, _startupinfo, _flags, shell, *others = rest
        pipes, (_restore, gid, gids, uid, umask, new_session, group) = others[:6], others[6:]
        p2cread, _, _, c2pwrite, _, errwrite = pipes
        environment = dict(os.environ if env is None else env)
        ordinary = not (executable or preexec_fn or pass_fds or shell)
        ordinary = ordinary and (gid, gids, uid, umask) == (None, None, None, -1)
        what = _program(args) if ordinary and group in (-1, 0) and _can_take(environment) else None
        if what is None:
            super()._execute_child(args, *rest)
            return
        order = {
            **what,
            "args": [os.fspath(arg) for arg in args],
            "cwd": os.fspath(cwd) if cwd is not None else os.getcwd(),
            "env": environment,
            "session": bool(new_session),
            "group": group == 0,
        }
        streams = [given if given != -1 else own for own, given in enumerate((p2cread, c2pwrite, errwrite))]
        self.pid = _nursery().fork(order, streams)
        self._child_created = True
        self._close_pipe_fds(*pipes)


def run(
    args: Any, *, input: Any = None, timeout: float | None = None, check: bool = False, **options: Any
) -> subprocess.CompletedProcess[Any]:
    """Run a process to its end, as ``subprocess.run`` does."""
    if options.pop("capture_output", False):
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    if input is not None:
        options["stdin"] = subprocess.PIPE
    with Popen(args, **options) as process:
        try:
            out, err = process.communicate(input, timeout=timeout)
        except BaseException:
            process.kill()
            raise
    if check and process.returncode:
        raise subprocess.CalledProcessError(process.returncode, args, out, err)
    return subprocess.CompletedProcess(args, process.returncode, out, err)


def _program(args: Any) -> dict[str, Any] | None:
    """Return what an interpreter's command line runs, or None if it has options that a fork cannot take over."""
    executable, *words = [os.fspath(arg) for arg in args]
    warn = []
    while len(words) > 1 and words[0] == "-W":
        warn.append(words[1])
        words = words[2:]
    if executable != sys.executable or not words:
        return None
    if words[0] in ("-c", "-m"):
        return {"kind": words[0], "what": words[1], "argv": words[2:], "warn": warn} if len(words) > 1 else None
    if words[0].startswith("-"):
        return None
    return {"kind": "file", "what": words[0], "argv": words[1:], "warn": warn}


def _can_take(environment: dict[str, str]) -> bool:
    read = {name for name, value in environment.items() if name.startswith(AT_START) and value} - TAKEN
    here = {name for name in read if environment[name] == os.environ.get(name)}
    return sys.platform == "linux" and CLONE is not None and read == here


class _Nursery:
    """The process that forks, and the line to it."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._lock = threading.Lock()
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())], env=environment, pass_fds=[theirs.fileno()]
            )
        atexit.register(self.close)

    def fork(self, order: dict[str, Any], streams: list[int]) -> int:
        """Return the pid of a new process."""
        with self._lock:
            # By a file: an order may be longer than a message.
            body = os.memfd_create("order")
            try:
                os.write(body, json.dumps(order).encode())
                socket.send_fds(self._line, [b"fork"], [body, *streams])
            finally:
                os.close(body)
            answer = self._line.recv(100)
        if not answer:
            raise RuntimeError(f"the nursery has ended: {self._process.wait()}")
        return int(answer)

    def close(self) -> None:
        self._line.close()
        if self.pid == os.getpid():
            self._process.wait()


_made: list[_Nursery] = []


def _nursery() -> _Nursery:
    if not _made or _made[0].pid != os.getpid():  # a fork's is its parent's
        _made[:] = [_Nursery()]
    return _made[0]


# ---- the process that forks -----------------------------------------------------------------------------------------


def _serve(line: socket.socket) -> dict[str, Any] | None:
    """Fork for each order. Return None at the end, and in each child its order."""
    import ctypes

    libc = ctypes.PyDLL(None)
    while True:
        word, fds, _, _ = socket.recv_fds(line, 16, 4)
        if not word:
            return None
        body, *streams = fds
        size = os.fstat(body).st_size
        order: dict[str, Any] = json.loads(os.pread(body, size, 0))
        ctypes.pythonapi.PyOS_BeforeFork()
        pid = libc.syscall(CLONE, CLONE_PARENT | 17, 0, 0, 0, 0)  # 17: SIGCHLD
        if pid == 0:
            ctypes.pythonapi.PyOS_AfterFork_Child()
            line.close()
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
            os.closerange(3, max(fds) + 1)
            return order
        ctypes.pythonapi.PyOS_AfterFork_Parent()
        for fd in fds:
            os.close(fd)
        line.send(str(pid).encode())


def _become(order: dict[str, Any]) -> None:
    """Take over what an interpreter would have at its start."""
    import gc
    import importlib
    import io
    import signal
    import time
    import warnings

    if order["session"]:
        os.setsid()
    elif order["group"]:
        os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    time.tzset()
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    direct = bool(os.environ.get("PYTHONUNBUFFERED"))
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)  # type: ignore[misc]  # noqa: SIM115
    for number, name, errors in ((1, "stdout", "strict"), (2, "stderr", "backslashreplace")):
        under = open(number, "wb", buffering=0 if direct else -1, closefd=False)  # noqa: SIM115
        by_lines = number == 2 or os.isatty(number)
        stream = io.TextIOWrapper(under, "utf-8", errors, line_buffering=by_lines, write_through=direct)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    sys.orig_argv[:] = order["args"]
    first = {"-c": "", "-m": os.getcwd(), "file": str(Path(order["what"]).resolve().parent)}[order["kind"]]
    sys.argv[:] = [order["what"] if order["kind"] == "file" else order["kind"], *order["argv"]]
    paths = [each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]
    sys.path[:] = [first, *paths, *sys.path[1:]]
    importlib.invalidate_caches()
    wanted = [each for each in os.environ.get("PYTHONWARNINGS", "").split(",") if each]
    sys.warnoptions[:] = [*wanted, *order["warn"]]
    warnings._processoptions(sys.warnoptions)  # type: ignore[attr-defined]
    gc.enable()


if __name__ == "__main__":
    import gc
    import importlib
    import runpy
    import signal
    import types

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests
    gc.disable()
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.freeze()  # so that a child's collector does not copy the memory of all of it
    order = _serve(socket.socket(fileno=int(sys.argv[1])))
    if order is not None:
        _become(order)
        main = types.ModuleType("__main__")
        sys.modules["__main__"] = main
        if order["kind"] == "-m":
            runpy._run_module_as_main(order["what"])  # as the interpreter calls it
        else:
            source, named = order["what"], "<string>"
            if order["kind"] == "file":
                named = order["what"]
                main.__file__ = os.path.abspath(named)
                source = Path(named).read_text(encoding="utf-8")
            exec(compile(source, named, "exec", dont_inherit=True), main.__dict__)
