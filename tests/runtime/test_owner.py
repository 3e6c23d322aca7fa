"""Owner ids: unique to a process, and what its host knows of the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from aiotaskq.core.outcome import Life
from aiotaskq.core.worker_info import read_owner
from aiotaskq.runtime.owner import fresh_owner, life_of


def test_an_owner_id_identifies_its_process(tmp_path: Path) -> None:
    imports = "from aiotaskq.runtime.owner import fresh_owner"
    sleeper = f"{imports}; print(fresh_owner('worker-'), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", sleeper], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        owner = child.stdout.readline().strip()
        assert f"-{child.pid}-" in owner and len(owner) <= 100 - len("!alone")
        assert life_of(owner) is Life.LIVES
        os.kill(child.pid, signal.SIGSTOP)
        os.waitpid(child.pid, os.WUNTRACED)
        assert life_of(owner) is Life.STOPPED
        os.kill(child.pid, signal.SIGCONT)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert life_of(owner) is Life.UNKNOWN, "a zombie is dead"
        child.wait()
        assert life_of(owner) is Life.UNKNOWN
        assert life_of(owner.replace(f"-{child.pid}-", f"-{os.getpid()}-")) is Life.UNKNOWN, "another had its pid"


def test_a_worker_of_this_process_lives_while_its_leases_are_renewed() -> None:
    assert life_of(fresh_owner("worker-")) is Life.STOPPED
    for odd in ("", "adopted", "worker-", "me", "worker-host-1-2", "worker-host-99999999999999999999-abc-def"):
        assert life_of(odd) is Life.UNKNOWN


def test_an_owner_id_says_its_host_and_pid(monkeypatch: pytest.MonkeyPatch) -> None:
    for host in ("web-1", "a", "h-12-0123456789ab", "a-deployment-with-a-long-name-7d9f8b6c5-x2x4z-012"):
        monkeypatch.setattr("socket.gethostname", lambda host=host: host)
        host = host[:48]
        assert read_owner(fresh_owner("worker-")) == ("worker", host, os.getpid())
        assert read_owner(fresh_owner("pop-")) == ("pop", host, os.getpid())
    for odd in ("", "me", "worker-", "worker-host-1-2", "other-host-1-0123456789ab-0123456789ab"):
        assert read_owner(odd) == (None, None, None)


def test_a_host_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiotaskq.runtime.owner.PROC", Path("/no/such/folder"))
    owner = fresh_owner("worker-")
    assert life_of(owner) is Life.STOPPED
    assert life_of(owner.replace(f"-{os.getpid()}-", f"-{os.getppid()}-")) is Life.LIVES
    assert life_of(owner.replace(f"-{os.getpid()}-", "-4194305-")) is Life.UNKNOWN  # above the largest pid
