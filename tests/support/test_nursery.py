"""A forked Python process is like a started one: its parent, streams, arguments, environment and end."""

from __future__ import annotations

import json
import os
import signal
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
    "package": "aiotaskq" in sys.modules, "warnoptions": sys.warnoptions,
}))
"""
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
    assert forked["parent"] == os.getpid() and forked["open"] == [] and not forked["package"]


@pytest.mark.parametrize("popen", STARTS.values(), ids=STARTS)
@pytest.mark.parametrize(
    ("code", "status", "last"),
    [
        ("raise SystemExit(3)", 3, ""),
        ("1 / 0", 1, "ZeroDivisionError: division by zero"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGINT); input()", -signal.SIGINT, "KeyboardInterrupt"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM); input()", -signal.SIGTERM, ""),
        ("import atexit, sys; atexit.register(print, 'over', file=sys.stderr)", 0, "over"),
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
