"""The database servers of the tests: several run beside each other."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.support.installed import BARE, Unavailable
from tests.support.machine import watchdog
from tests.support.servers import MariaDB, PostgreSQLJIT, mariadb, postgresql_jit

ROOT = Path(__file__).parent.parent.parent


def test_a_mariadb_that_starts_keeps_the_temporary_tables_of_others() -> None:
    import pymysql

    first = mariadb(durable=False)
    with contextlib.closing(pymysql.connect(host="127.0.0.1", port=first.port, user="root")) as connection:
        cursor = connection.cursor()
        cursor.execute("CREATE TEMPORARY TABLE test.mine (a INT) ENGINE=Aria")
        MariaDB(durable=False)._remove()
        cursor.execute("DROP TABLE test.mine")


def test_the_second_postgresql_compiles_plans() -> None:
    server = postgresql_jit(durable=False)
    ((version, available),) = server.execute("SELECT current_setting('server_version_num')::int, pg_jit_available()")
    assert version < 180_000 and available


def test_a_postgresql_that_is_too_new_or_has_no_jit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version, library in (("18", "llvmjit.so"), ("17", "pgxml.so"), ("common", "llvmjit.so")):
        (tmp_path / version / "lib").mkdir(parents=True)
        (tmp_path / version / "lib" / library).touch()
    monkeypatch.setattr(PostgreSQLJIT, "home", tmp_path)
    with pytest.raises(Unavailable, match="apt-get install -y postgresql"):
        PostgreSQLJIT(durable=False)


KILLED = """
import os, threading, time
from tests.support.machine import watchdog
from tests.support.servers import {name}

made = []
thread = threading.Thread(target=lambda: made.append({name}(durable=False)))
thread.start()
thread.join()
child = os.fork()  # holds all that its parent has open
if child:
    print(made[0].pid, made[0].folder, child, flush=True)
time.sleep(1_000)
"""


@pytest.mark.parametrize("name", ["postgresql", "valkey"])
def test_a_server_ends_with_a_run_that_is_killed(name: str) -> None:
    import psutil

    command = [sys.executable, "-c", KILLED.format(name=name)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as run:
        assert run.stdout is not None
        words = run.stdout.readline().split()
        try:
            pid, folder, child = int(words[0]), Path(words[1]), int(words[2])
            server = psutil.Process(pid)
            helpers = server.children(recursive=True)
            assert server.is_running() and folder.exists()  # although the thread that started it has ended
        finally:
            run.kill()
    try:
        _, running = psutil.wait_procs([server, *helpers], timeout=watchdog())
        assert running == []
        end = time.monotonic() + watchdog()
        while folder.exists():
            assert time.monotonic() < end
            time.sleep(0.01)
    finally:
        os.kill(child, signal.SIGKILL)


# ---- a machine without them ------------------------------------------------------------------------------------------

WITHOUT = """
import pytest
from tests.support.installed import Unavailable
from tests.support.servers import mariadb, postgresql_jit

@pytest.fixture(scope="session")
def place():
    return mariadb()

@pytest.mark.parametrize("number", range(3))
def test_in_a_fixture(place, number): ...

def test_in_the_test():
    mariadb()

@pytest.mark.promise("survives kill -9 of the server")
@pytest.mark.parametrize("store", ["postgresql"])
def test_promised(store):
    postgresql_jit()

def test_of_a_third():
    raise Unavailable("third: is not installed")
"""


def run(*arguments: str, **environment: str) -> tuple[int, list[str]]:
    """Run pytest with the hooks of the suite in a process of its own; return its exit code and its last lines."""
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", BARE, "PYTEST_ADDOPTS")}
    command = [sys.executable, "-m", "pytest", "-c", "pyproject.toml", "-p", "no:cacheprovider", "-q", *arguments]
    with tempfile.TemporaryDirectory() as folder:  # of its own: a run removes what earlier ones have left beside it
        command.append(f"--basetemp={folder}/temp")
        done = subprocess.run(command, cwd=ROOT, env={**kept, **environment}, capture_output=True, text=True)
    assert not done.stderr
    return done.returncode, done.stdout.splitlines()


@pytest.mark.parametrize("processes", ["0", "2"])
def test_a_test_without_its_server_is_skipped_with_one_line_for_each_server(tmp_path: Path, processes: str) -> None:
    (tmp_path / "test_without.py").write_text(WITHOUT)
    told = ["-p", "tests.conftest", "-n", processes, str(tmp_path)]
    code, lines = run(*told, **{BARE: "1"})
    skipped = sorted(line.partition(" ")[2] for line in lines if line.startswith("SKIPPED"))
    assert code == 0 and len(skipped) == 3, lines
    assert [re.sub(r" \S+conftest.py:\d+: ", " ", line) for line in skipped] == [
        "[1] PostgreSQL 17 or earlier with JIT is not installed in /usr/lib/postgresql "
        "(Debian 12 and 13: apt-get install -y postgresql)",
        "[1] third: is not installed",
        "[4] mariadbd is not installed (Debian: apt-get install -y mariadb-server-core)",
    ]
    assert not any("PROMISED" in line for line in lines)


def test_in_ci_a_test_without_its_server_fails_the_run(tmp_path: Path) -> None:
    (tmp_path / "test_without.py").write_text(WITHOUT)
    told = ["-p", "tests.conftest", "-k", "of_a_third", str(tmp_path)]
    code, lines = run(*told, CI="true")
    assert code == 1 and "NOT TESTED: third: is not installed" in lines
    assert run(*told)[0] == 0


def test_the_suite_passes_on_a_machine_without_servers() -> None:
    code, lines = run("tests/contract/test_state_machine.py", "-k", "mysql", CI="true", **{BARE: "1"})
    assert code == 0 and lines[-1].startswith("1 skipped"), lines
