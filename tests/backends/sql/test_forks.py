"""A fork waits for who is in SQLite's library, and the other way round; but not for ever."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from aiotaskq.backends.sql.backend import SqlBackend
from aiotaskq.backends.sql.sqlite_notifier import FileWatch
from aiotaskq.concurrency import forks
from aiotaskq.concurrency.forks import _OutsideOfForks, outside_of_forks
from tests.support.machine import watchdog

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


@pytest.fixture
def gate() -> _OutsideOfForks:
    return _OutsideOfForks()


def test_a_fork_waits_until_nobody_is_inside(gate: _OutsideOfForks) -> None:  # E4
    inside, leave, forked = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        with gate, gate:
            inside.set()
            leave.wait(watchdog())
        assert not forked.is_set()

    def fork() -> None:
        gate._before()
        forked.set()
        gate._after()

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


def test_who_comes_during_a_fork_waits_for_its_end(gate: _OutsideOfForks) -> None:
    entered = threading.Event()

    def work() -> None:
        with gate:
            entered.set()

    gate._before()
    worker = threading.Thread(target=work)
    worker.start()
    assert not entered.wait(0.05)
    gate._after()
    assert entered.wait(watchdog())
    worker.join(watchdog())


def test_a_fork_does_not_wait_for_itself_nor_for_ever(gate: _OutsideOfForks, monkeypatch: pytest.MonkeyPatch) -> None:
    with gate:
        gate._before()  # it is the one that is inside
        gate._after()
    monkeypatch.setattr(forks, "PATIENCE", 0.01)
    inside, leave = threading.Event(), threading.Event()

    def work() -> None:
        with gate:
            inside.set()
            leave.wait(watchdog())

    worker = threading.Thread(target=work)
    worker.start()
    assert inside.wait(watchdog())
    gate._before()
    gate._after()
    leave.set()
    worker.join(watchdog())


def test_a_child_has_only_the_thread_that_forked(gate: _OutsideOfForks) -> None:
    gate._inside |= {1, 2}  # other threads
    with gate:
        gate._start_anew()
        assert gate._inside == {threading.get_ident()}
    assert gate._inside == set()


def test_a_fork_that_is_older_than_the_gate_does_not_shut_it(gate: _OutsideOfForks) -> None:
    gate._after()
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
