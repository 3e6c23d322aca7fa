"""A forked Python process is like a started one: its parent, streams, arguments, environment and end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import nursery
from tests.support.machine import watchdog

LOOK = """
import json, os, sys, warnings
print(json.dumps({
    "main": __name__, "argv": sys.argv, "orig": sys.orig_argv[1:], "path": sys.path[:2], "parent": os.getppid(),
    "folder": os.getcwd(), "env": {name: value for name, value in os.environ.items() if name != "LC_CTYPE"},
    "session": os.getsid(0) == os.getpid(), "group": os.getpgid(0) == os.getpid(), "in": sys.stdin.read(),
    "open": [fd for fd in range(3, 50) if os.path.exists(f"/proc/self/fd/{fd}")],
    "warnoptions": sys.warnoptions,
}))
"""
AT_THE_END = "def __del__(self, write=__import__('os').write): write(2, b'gone')"
UNCLOSED = "ResourceWarning: Enable tracemalloc to get the object allocation traceback"
STARTS = {"forked": nursery.Popen, "started": subprocess.Popen}


def look(popen: Any, args: list[str], folder: Path, **options: Any) -> Any:
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": "/some/where", "PYTHONWARNINGS": "error"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with popen([sys.executable, *args], cwd=folder, env=env, **pipes, **options) as process:
        out, err = process.communicate("told", timeout=watchdog())
    assert (process.returncode, err) == (0, "")
    return json.loads(out)


@pytest.mark.parametrize("options", [{}, {"start_new_session": True}, {"process_group": 0}])
@pytest.mark.parametrize(
    "args", [["-c", LOOK, "a", "-b"], ["script.py", "c"], ["-W", "ignore::UserWarning", "-m", "script", "d"]]
)
def test_what_it_sees_is_what_a_started_one_sees(args: list[str], options: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(LOOK)
    forked, started = (look(popen, args, tmp_path, **options) for popen in STARTS.values())
    assert forked == started
    assert forked["parent"] == os.getpid() and forked["open"] == []


@pytest.mark.parametrize("popen", STARTS.values(), ids=STARTS)
@pytest.mark.parametrize(
    ("code", "status", "last"),
    [
        ("raise SystemExit(3)", 3, ""),
        ("1 / 0", 1, "ZeroDivisionError: division by zero"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGINT); input()", -signal.SIGINT, "KeyboardInterrupt"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM); input()", -signal.SIGTERM, ""),
        ("import atexit, sys; atexit.register(print, 'over', file=sys.stderr)", 0, "over"),
        ("raise SystemExit('wrong')", 1, "wrong"),
        ("raise SystemExit(-2)", 254, ""),
        (
            "import os, sys; sys.stdout = open(1, 'w'); print('lost'); os.close(1)",
            120,
            "OSError: [Errno 9] Bad file descriptor",
        ),
        ("import sys, threading; threading.Thread(target=lambda: print('last', file=sys.stderr)).start()", 0, "last"),
        (f"class Kept:\n    {AT_THE_END}\nkept = Kept()", 0, "gone"),
        (f"class Ring:\n    {AT_THE_END}\nring = Ring()\nring.self = ring", 0, "gone"),
        ("import asyncio, warnings; warnings.simplefilter('always'); asyncio.new_event_loop()", 0, UNCLOSED),
        ("import threading, time; threading.Thread(target=time.sleep, args=[99], daemon=True).start()", 0, ""),
    ],
)
def test_it_ends_as_the_interpreter_ends(popen: Any, code: str, status: int, last: str) -> None:
    with popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as process:
        _, err = process.communicate(timeout=watchdog())
    assert process.returncode == status
    assert "".join(err.splitlines()[-1:]) == last


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_its_output_is_buffered_as_it_is_told(unbuffered: str) -> None:
    code = "import os; print('first'); os.write(1, b'second\\n')"
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = nursery.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == (["first", "second"] if unbuffered else ["second", "first"])


def test_what_a_fork_cannot_take_over_starts_an_interpreter() -> None:
    code = "import sys; print(sys.flags.isolated, sys.flags.hash_randomization, 'sqlalchemy' in sys.modules)"
    for words, env, said in (
        (["-c", code], {}, "0 1 True"),
        (["-I", "-c", code], {}, "1 1 False"),
        (["-c", code], {"PYTHONHASHSEED": "0"}, "0 0 False"),
    ):
        command = [sys.executable, *words]
        done = nursery.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == said, words


def test_it_has_the_package_that_it_would_import(tmp_path: Path) -> None:
    (tmp_path / "aiotaskq").mkdir()
    (tmp_path / "aiotaskq" / "__init__.py").write_text("mine = True")
    code = "import aiotaskq; print(hasattr(aiotaskq, 'mine'))"
    for path, said in ((tmp_path, "True"), (nursery.ROOT, "False")):
        env = {**os.environ, "PYTHONPATH": str(path)}
        command = [sys.executable, "-c", code]
        done = nursery.run(command, cwd=tmp_path.parent, env=env, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == said


@pytest.mark.parametrize("popen", STARTS.values(), ids=STARTS)
@pytest.mark.parametrize(
    ("variables", "shown"),
    [({}, True), ({"LOGURU_AUTOINIT": "False"}, False), ({"LOGURU_LEVEL": "ERROR"}, False)],
)
def test_loguru_has_read_its_variables(popen: Any, variables: dict[str, str], shown: bool) -> None:
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(nursery.ROOT), **variables}
    code = "import aiotaskq.log; from loguru import logger; logger.warning('seen'); print(len(logger._core.handlers))"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with popen([sys.executable, "-c", code], env=env, **pipes) as process:
        out, err = process.communicate(timeout=watchdog())
    assert ("seen" in err, out) == (shown, f"{int('LOGURU_AUTOINIT' not in variables)}\n")


def test_a_wait_ends_in_time_and_may_go_on(tmp_path: Path) -> None:
    code = "import sys; print(sys.stdin.readline(), end='', flush=True); print(sys.stdin.readline(), end='')"
    with nursery.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as each:
        each.stdin.write("one\n")
        each.stdin.flush()
        assert each.stdout.readline() == "one\n"
        assert each.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            each.wait(0.01)
        assert each.communicate("two\n", timeout=watchdog()) == ("two\n", None)
        assert each.wait() == each.returncode == 0
        each.kill()  # of nothing
    with nursery.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as each:
        each.stdin.close()
        assert each.communicate(timeout=watchdog()) == ("", None)
    with nursery.Popen([sys.executable, "-c", "import time; time.sleep(99)"], stdout=subprocess.PIPE) as each:
        with pytest.raises(subprocess.TimeoutExpired):
            each.communicate(timeout=0.01)
        each.terminate()
        assert each.communicate(timeout=watchdog()) == (b"", None)
    assert each.returncode == -signal.SIGTERM


def test_an_order_that_fails_is_no_process(tmp_path: Path) -> None:
    """A pid of -1 would be that of all processes."""
    made = nursery._Nursery({})
    try:
        made._line.close()
        made._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            theirs.send(b"-11")
            with pytest.raises(RuntimeError, match="does not fork"):
                made.fork({}, [0, 1, 2])
    finally:
        made.close()
