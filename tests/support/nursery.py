"""Python processes that need no new interpreter: each is forked by a process that has imported the libraries.

``Popen`` is for ``python … -c``, ``-m`` or a script what ``subprocess.Popen`` is. Most of the start of such a process
is the import of SQLAlchemy, the drivers and this package; here that is done once for each process of a test run. The
new process is a child of this one, with its own pid, streams, environment, folder and process group, and ends as the
interpreter ends. What a fork cannot take over (options of the interpreter, variables that it reads at its start,
another system) starts an interpreter; a process that would find the package elsewhere imports that one.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import io
import json
import os
import platform
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
CLONE = {"x86_64": 56, "aarch64": 220}.get(platform.machine())
"""The number of the system call."""
CLONE_PARENT = 0x8000
"""The new process is a child of the caller's parent."""
AT_START = ("PYTHON", "LD_", "MALLOC_", "GLIBC_")
"""What the interpreter, or the loader, reads at its start. These alone are taken over:"""
TAKEN = {"PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "PYTHONWARNINGS"}
QUIET = {"LOGURU_AUTOINIT": "False"}
"""Loguru reads its variables when it is imported: with these there is another nursery."""
LIBRARIES = [
    *("aiohttp.web", "aiosqlite", "alembic.command", "asyncio", "asyncmy", "asyncpg", "concurrent.futures.thread"),
    *("croniter", "fastapi", "greenlet", "logging.config", "msgspec", "multiprocessing.connection", "psycopg"),
    *("pymysql", "redis.asyncio", "rich.console", "rich.table", "sqlalchemy.dialects.mysql"),
    *("sqlalchemy.dialects.postgresql", "sqlalchemy.dialects.sqlite", "sqlalchemy.ext.asyncio"),
    *("sqlalchemy.ext.compiler", "sqlalchemy.orm", "typer", "uuid", "uvicorn"),
]
PACKAGE = ["aiotaskq", "aiotaskq.backends.sql.backend"]
OURS = {"aiotaskq", "loguru"}


# ---- the test's side ------------------------------------------------------------------------------------------------


def Popen(
    args: Any,
    *,
    stdin: Any = None,
    stdout: Any = None,
    stderr: Any = None,
    cwd: Any = None,
    env: dict[str, str] | None = None,
    text: bool = False,
    encoding: str | None = None,
    bufsize: int = -1,
    start_new_session: bool = False,
    process_group: int | None = None,
) -> Any:
    """Start a Python process, by a fork where that makes no difference; the options are those of subprocess."""
    environment = dict(os.environ if env is None else env)
    what = _program(args)
    if what is None or process_group not in (None, 0) or not _can_take(environment):
        options: dict[str, Any] = {"stdin": stdin, "stdout": stdout, "stderr": stderr, "cwd": cwd, "env": env}
        options |= {"text": text, "encoding": encoding, "bufsize": bufsize, "start_new_session": start_new_session}
        if process_group is not None:
            options["process_group"] = process_group
        return subprocess.Popen(args, **options)
    order = {
        **what,
        "args": [os.fspath(arg) for arg in args],
        "cwd": os.fspath(cwd) if cwd is not None else os.getcwd(),
        "env": environment,
        "session": start_new_session,
        "group": process_group == 0,
    }
    if text or encoding is not None:
        encoding = encoding or "utf-8"
    return Forked(order, (stdin, stdout, stderr), encoding, bufsize)


class Forked:
    """A forked process: what tests use of ``subprocess.Popen``."""

    def __init__(self, order: dict[str, Any], wanted: tuple[Any, Any, Any], encoding: str | None, bufsize: int) -> None:
        self.args = order["args"]
        self.returncode: int | None = None
        self._lock = threading.Lock()
        self._said: dict[int, Any] = {}
        self._helpers: list[threading.Thread] = []
        ours: list[Any] = [None, None, None]
        with contextlib.ExitStack() as theirs:
            streams: list[int] = []
            for number, each in enumerate(wanted):
                if each == subprocess.PIPE:
                    reading, writing = os.pipe()
                    fd, own = (reading, writing) if number == 0 else (writing, reading)
                    theirs.callback(os.close, fd)
                    mode = ("w" if number == 0 else "r") + ("b" if encoding is None else "")
                    ours[number] = open(own, mode, -1 if encoding is None else bufsize, encoding)  # noqa: SIM115
                elif each == subprocess.DEVNULL:
                    fd = os.open(os.devnull, os.O_RDWR)
                    theirs.callback(os.close, fd)
                elif each == subprocess.STDOUT:
                    fd = streams[1]
                else:
                    fd = number if each is None else each if isinstance(each, int) else each.fileno()
                streams.append(fd)
            self.stdin, self.stdout, self.stderr = ours
            try:
                self.pid = _nursery(order["env"]).fork(order, streams)
            except BaseException:
                self._close()
                raise
        self._pidfd = os.pidfd_open(self.pid)

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal, or None while it runs."""
        with self._lock:
            if self.returncode is None:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    self.returncode = os.waitstatus_to_exitcode(status)
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; return the exit code. Raises subprocess.TimeoutExpired."""
        ended = select.poll()
        ended.register(self._pidfd, select.POLLIN)
        if not ended.poll(None if timeout is None else max(timeout, 0) * 1000):
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        code = self.poll()
        assert code is not None
        return code

    def communicate(self, input: Any = None, timeout: float | None = None) -> tuple[Any, Any]:
        """Send ``input``, read all it says, and wait for its end. After TimeoutExpired it may be called again."""
        give_up = None if timeout is None else time.monotonic() + timeout
        if not self._helpers:
            said = {number: stream for number, stream in ((1, self.stdout), (2, self.stderr)) if stream}
            calls = [(self._read, number, stream) for number, stream in said.items() if not stream.closed]
            calls += [(self._write, input, self.stdin)] if self.stdin and not self.stdin.closed else []
            self._helpers = [threading.Thread(target=call, args=args, daemon=True) for call, *args in calls]
            for thread in self._helpers:
                thread.start()
        for thread in self._helpers:
            thread.join(None if give_up is None else max(give_up - time.monotonic(), 0))
            if thread.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
        self.wait(None if give_up is None else give_up - time.monotonic())
        return self._said.get(1), self._said.get(2)

    def _read(self, number: int, stream: Any) -> None:
        with stream:
            self._said[number] = stream.read()

    def _write(self, input: Any, stream: Any) -> None:
        with contextlib.suppress(BrokenPipeError), stream:
            if input:
                stream.write(input)

    def send_signal(self, number: int) -> None:
        """Send a signal, unless its end has been seen."""
        if self.poll() is None:
            signal.pidfd_send_signal(self._pidfd, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, *_error: object) -> None:
        self._close()
        self.wait()

    def _close(self) -> None:
        for stream in (self.stdout, self.stderr, self.stdin):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def __del__(self) -> None:
        if (fd := getattr(self, "_pidfd", None)) is not None:
            if self.poll() is None:
                warnings.warn(f"process {self.pid} is still running", ResourceWarning, source=self, stacklevel=2)
            os.close(fd)


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


_start = dict(os.environ)  # of each nursery, whatever tests change


def _can_take(environment: dict[str, str]) -> bool:
    return sys.platform == "linux" and CLONE is not None and _read_at_start(environment) == _read_at_start(_start)


def _read_at_start(environment: dict[str, str]) -> dict[str, str]:
    given = {name: text for name, text in environment.items() if name.startswith(AT_START) and text}
    return {name: text for name, text in given.items() if name not in TAKEN}


class _Nursery:
    """The process that forks, and the line to it."""

    def __init__(self, loguru: dict[str, str]) -> None:
        self.pid = os.getpid()
        self.open = True
        self._lock = threading.Lock()
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            kept = {name: text for name, text in _start.items() if not name.startswith(("PYTHONPATH", "LOGURU_"))}
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())], env=kept | loguru, pass_fds=[theirs.fileno()]
            )
        atexit.register(self.close)

    def fork(self, order: dict[str, Any], streams: list[int]) -> int:
        """Return the pid of a new process. Raises RuntimeError if there is none."""
        with self._lock:
            body = os.memfd_create("order")  # an order may be longer than a message
            try:
                with open(body, "wb", closefd=False) as file:
                    file.write(json.dumps(order).encode())
                socket.send_fds(self._line, [b"fork"], [body, *streams])
                answer = self._line.recv(100)
            except BaseException:
                self.close()  # the next order would get the answer to this one
                raise
            finally:
                os.close(body)
        if not answer or int(answer) <= 0:  # a pid of -1 would be all processes
            raise RuntimeError(f"the nursery does not fork: {answer or self._process.wait()!r}")
        return int(answer)

    def close(self) -> None:
        if self.open and self.pid == os.getpid():
            self.open = False
            self._line.shutdown(socket.SHUT_RDWR)  # in copies of forked children, too
            self._line.close()
            self._process.wait()


_nurseries: dict[bool, _Nursery] = {}
_making = threading.Lock()


def _nursery(environment: dict[str, str]) -> _Nursery:
    quiet = {name: text for name, text in environment.items() if name.startswith("LOGURU_")} == QUIET
    with _making:
        made = _nurseries.get(quiet)
        if made is None or not made.open or made.pid != os.getpid():  # a fork's is its parent's
            made = _nurseries[quiet] = _Nursery(QUIET if quiet else {})
        return made


# ---- the process that forks -----------------------------------------------------------------------------------------


def _serve(line: socket.socket) -> dict[str, Any] | None:
    """Fork for each order. Return None at the end, and in each child its order."""
    import ctypes

    libc = ctypes.PyDLL(None, use_errno=True)
    while True:
        word, fds, _, _ = socket.recv_fds(line, 16, 4)
        if not word:
            return None
        body, *streams = fds
        size = os.fstat(body).st_size
        order: dict[str, Any] = json.loads(os.pread(body, size, 0))
        ctypes.pythonapi.PyOS_BeforeFork()
        pid = libc.syscall(CLONE, CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0)
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
        line.send(str(pid if pid > 0 else -ctypes.get_errno()).encode())


def _become(order: dict[str, Any]) -> None:
    """Take over what an interpreter would have at its start."""
    import importlib.machinery

    if order["session"]:
        os.setsid()
    elif order["group"]:
        os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(order["cwd"])
    loguru = _loguru()
    os.environ.clear()
    os.environ.update(order["env"])
    time.tzset()
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    direct = bool(os.environ.get("PYTHONUNBUFFERED"))
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)  # type: ignore[misc]  # noqa: SIM115
    under = open(1, "wb", buffering=0 if direct else -1, closefd=False)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = io.TextIOWrapper(  # type: ignore[misc]
        under, "utf-8", "strict", line_buffering=os.isatty(1), write_through=direct
    )
    # The object that Loguru has.
    sys.stderr.reconfigure(write_through=direct)  # type: ignore[union-attr]
    sys.orig_argv[:] = order["args"]
    first = {"-c": "", "-m": os.getcwd(), "file": str(Path(order["what"]).resolve().parent)}[order["kind"]]
    sys.argv[:] = [order["what"] if order["kind"] == "file" else order["kind"], *order["argv"]]
    paths = [each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]
    sys.path[:] = [first, *paths, *sys.path[1:]]
    importlib.invalidate_caches()
    wanted = [each for each in os.environ.get("PYTHONWARNINGS", "").split(",") if each]
    sys.warnoptions[:] = [*wanted, *order["warn"]]
    warnings._processoptions(sys.warnoptions)  # type: ignore[attr-defined]
    found = importlib.machinery.PathFinder.find_spec("aiotaskq", sys.path)
    here = str(ROOT / "aiotaskq" / "__init__.py")
    if loguru != _loguru() or os.isatty(2) or found is None or os.path.realpath(found.origin or "") != here:
        for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
            del sys.modules[name]  # it imports its own
    gc.enable()


def _open_stderr() -> None:
    """Make the stream for standard error, which Loguru keeps when it is imported, as one that cannot seek."""
    kept, ends = os.dup(2), os.pipe()
    os.dup2(ends[1], 2)
    under = open(2, "wb", closefd=False)  # noqa: SIM115
    sys.stderr = sys.__stderr__ = io.TextIOWrapper(under, "utf-8", "backslashreplace", line_buffering=True)  # type: ignore[misc]
    os.dup2(kept, 2)
    for fd in (kept, *ends):
        os.close(fd)


def _loguru() -> dict[str, str]:
    return {name: text for name, text in os.environ.items() if name.startswith("LOGURU_")}


def _is_library(name: str) -> bool:
    return name.partition(".")[0] not in {*OURS, "__main__", "builtins", "sys"}


def _end_early(code: list[int], libraries: dict[str, Any]) -> None:
    """Let the interpreter end what the program has, and not what the nursery has imported.

    To free the memory that a fork shares is to copy it. What an end shows is over when the modules are gone.
    """
    try:
        sys.stdout.flush()
    except Exception:  # the interpreter says so at its end
        return
    if code:
        if gc.isenabled():
            gc.collect()  # as the interpreter does, while all modules are there
        for name, module in libraries.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]

        def heard(event: str, _args: object, leave: Any = os._exit, kept: Any = libraries, code: int = code[0]) -> None:
            if event == "cpython.PyInterpreterState_Clear":  # where it does not come, all is freed
                leave(code)

        sys.addaudithook(heard)


def _main() -> None:
    import importlib
    import runpy
    import types

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests
    _open_stderr()
    gc.disable()
    code: list[int] = []
    libraries: dict[str, Any] = {}
    atexit.register(_end_early, code, libraries)  # the first one is called last
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    sys.path.insert(1, str(ROOT))
    for name in PACKAGE:
        importlib.import_module(name)
    sys.path.remove(str(ROOT))
    libraries |= {name: module for name, module in sys.modules.items() if _is_library(name)}
    gc.freeze()  # so that a child's collector does not copy the memory of all of it
    order = _serve(socket.socket(fileno=int(sys.argv[1])))
    if order is None:
        return
    _become(order)
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    try:
        if order["kind"] == "-m":
            runpy._run_module_as_main(order["what"])  # as the interpreter calls it
        else:
            source, named = order["what"], "<string>"
            if order["kind"] == "file":
                named = order["what"]
                main.__file__ = os.path.abspath(named)
                source = Path(named).read_text(encoding="utf-8")
            exec(compile(source, named, "exec", dont_inherit=True), main.__dict__)
        code.append(0)
    except SystemExit as end:
        code.append((end.code or 0) & 0xFF if end.code is None or isinstance(end.code, int) else 1)
        raise
    except Exception:
        code.append(1)
        raise


if __name__ == "__main__":
    _main()
