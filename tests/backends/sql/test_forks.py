"""A fork waits for threads that are inside SQLite's library, and those for the fork; but not for ever."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from aiotaskq.backends.sql.backend import SqlBackend
from aiotaskq.backends.sql.sqlite_notifier import FileWatch
from aiotaskq.concurrency import forks
from aiotaskq.concurrency.forks import OutsideOfForks, outside_of_forks
from tests.support.machine import watchdog

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


@pytest.fixture
def gate() -> OutsideOfForks:
    return OutsideOfForks()


def test_a_fork_waits_until_no_thread_is_inside(gate: OutsideOfForks) -> None:  # E4
    inside, leave, forked = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        with gate, gate:
            inside.set()
            leave.wait(watchdog())
        assert not forked.is_set()

    def fork() -> None:
        gate.before_fork()
        forked.set()
        gate.after_fork()

    worker = threading.Thread(target=work)
    worker.start()
    assert inside.wait(watchdog())
    forker = threading.Thread(target=fork)
    forker.start()
    assert not forked.wait(0.05)
    leave.set()
    assert forked.wait(watchdog())
    for thread in (worker, forker):
        thread.join(watchdog())
    assert (gate._inside, gate._forks) == (set(), 0)


def test_a_thread_that_enters_during_a_fork_waits_for_its_end(gate: OutsideOfForks) -> None:
    entered = threading.Event()

    def work() -> None:
        with gate:
            entered.set()

    gate.before_fork()
    worker = threading.Thread(target=work)
    worker.start()
    assert not entered.wait(0.05)
    gate.after_fork()
    assert entered.wait(watchdog())
    worker.join(watchdog())


def test_a_fork_does_not_wait_for_itself_nor_for_ever(gate: OutsideOfForks, monkeypatch: pytest.MonkeyPatch) -> None:
    with gate:
        gate.before_fork()  # it is the one that is inside
        gate.after_fork()
    monkeypatch.setattr(forks, "PATIENCE", 0.01)
    inside, leave = threading.Event(), threading.Event()

    def work() -> None:
        with gate:
            inside.set()
            leave.wait(watchdog())

    worker = threading.Thread(target=work)
    worker.start()
    assert inside.wait(watchdog())
    gate.before_fork()
    gate.after_fork()
    leave.set()
    worker.join(watchdog())


def test_a_child_has_only_the_thread_that_forked(gate: OutsideOfForks) -> None:
    gate._inside |= {1, 2}  # other threads
    with gate:
        gate.reset()
        assert gate._inside == {threading.get_ident()}
    assert gate._inside == set()


def test_a_fork_that_is_older_than_the_gate_does_not_shut_it(gate: OutsideOfForks) -> None:
    gate.after_fork()
    with gate:
        assert gate._forks == 0


async def test_all_that_we_do_in_sqlite_is_outside_of_forks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def inside() -> bool:
        return threading.get_ident() in outside_of_forks._inside

    seen: list[bool] = []
    real = FileWatch._moved
    monkeypatch.setattr(FileWatch, "_moved", lambda self: (seen.append(inside()), real(self))[1])
    backend = SqlBackend(f"sqlite:///{tmp_path}/x.db")
    assert await backend.database.write(lambda _connection: inside())
    assert await backend.database.read(lambda _connection: inside())
    await backend.watch()
    await backend.close()
    assert len(seen) > 2 and all(seen)
    assert not inside()
