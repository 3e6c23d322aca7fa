"""The database servers of the tests: several run beside each other."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.machine import watchdog
from tests.support.servers import MariaDB, PostgreSQLJIT, Unavailable, mariadb, postgresql_jit

ROOT = Path(__file__).parent.parent.parent


def test_a_mariadb_that_starts_keeps_the_temporary_tables_of_others() -> None:
    import pymysql

    try:
        first = mariadb(durable=False)
    except Unavailable as reason:
        pytest.skip(str(reason))  # the contract suite fails for it
    with contextlib.closing(pymysql.connect(host="127.0.0.1", port=first.port, user="root")) as connection:
        cursor = connection.cursor()
        cursor.execute("CREATE TEMPORARY TABLE test.mine (a INT) ENGINE=Aria")
        MariaDB(durable=False)._remove()
        cursor.execute("DROP TABLE test.mine")


def test_the_second_postgresql_compiles_plans() -> None:
    try:
        server = postgresql_jit(durable=False)
    except Unavailable as reason:
        pytest.skip(str(reason))  # the contract suite fails for it
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
