"""Wake-ups on SQLite: the watch of the file is cheap and takes no lock."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from aiotaskq.backends import connect
from aiotaskq.backends.listeners import READY, TAKEN
from aiotaskq.backends.sql import sqlite_notifier as sqlite_watch
from tests.backends.sql.notifiers.watched import Ears, watching
from tests.support.backends import Store
from tests.support.machine import within, working
from tests.support.programs import linux
from tests.support.rows import new


async def test_own_commits_do_not_wake_listeners(sqlite: Store) -> None:
    # Otherwise each waiting consumer would look again fifty times a second under load.
    ears = await watching(sqlite.backend)
    for _ in range(50):
        await asyncio.gather(*(sqlite.backend.push([new()]) for _ in range(3)))
    await asyncio.sleep(0.1)
    assert {kind for kind, _ in ears.heard} == {
        READY
    }  # what a push says itself; another process's change notifies TAKEN
    with pytest.raises(Exception, match="NOT NULL"):
        await sqlite.backend.push([new(type=None)])
    other = await sqlite.another()
    await other.push([new()])
    await ears.until(TAKEN)


async def test_commits_of_others_are_noticed_during_a_write(sqlite: Store) -> None:
    ears = await watching(sqlite.backend)
    other = await sqlite.another()

    async def write() -> None:
        while True:
            await sqlite.backend.push([new()])

    writer = asyncio.create_task(write())
    heard = 0
    for _ in range(40):
        ears.forget()
        await other.push([new()])
        await asyncio.sleep(within(0.05))
        heard += TAKEN in {kind for kind, _ in ears.heard}
    writer.cancel()
    await asyncio.wait([writer])
    assert heard > 10  # one that commits between our commit and our look at the counter waits for the poll


@linux
async def test_a_commit_of_another_process_is_noticed_without_a_poll(
    sqlite: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_watch, "SLOW_INTERVAL", 3600.0)
    ears = await watching(sqlite.backend)
    other = await sqlite.another()
    heard = 0
    for number in range(20):
        if number % 2:
            await sqlite.backend.push([new()])  # its own writes do not end the watch
        ears.forget()
        await other.push([new()])
        with contextlib.suppress(TimeoutError):
            await ears.until(TAKEN, seconds=within(0.1))
            heard += 1
    assert heard > 10  # on a busy machine some come later


@linux
async def test_two_threads_may_close_it(sqlite: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crashed loop may close it while the next one does."""
    await watching(sqlite.backend)
    close, closed = sqlite_watch.Signals.close, list[sqlite_watch.Signals]()

    def close_twice(signals: sqlite_watch.Signals) -> None:
        close(signals)
        closed.append(signals)
        if len(closed) == 1:
            with ThreadPoolExecutor() as other:
                other.submit(asyncio.run, sqlite.backend.close()).result(within(10))

    monkeypatch.setattr(sqlite_watch.Signals, "close", close_twice)
    await sqlite.backend.close()
    assert len(closed) == 1


async def test_hints_of_one_moment_share_a_signal(sqlite: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    monkeypatch.setattr(sqlite_watch, "send_signal", sent.append)
    loop = asyncio.get_running_loop()
    with monkeypatch.context() as moment:
        now = loop.time()
        moment.setattr(loop, "time", lambda: now)
        for _ in range(50):
            sqlite.backend.listeners.notify(READY)
    assert len(sent) == 1
    async with asyncio.timeout(within(1)):
        while len(sent) < 2:  # of those after the first
            await asyncio.sleep(0.001)
    sqlite.backend.listeners.notify(READY)
    sqlite.backend.listeners.notify(READY)
    await sqlite.backend.close()
    assert len(sent) == 4  # nothing is left unsent


async def test_polls_notice_what_the_system_does_not_tell(sqlite: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: str) -> None:
        raise OSError(f"no more watches for {path}")

    monkeypatch.setattr(sqlite_watch, "Signals", missing)
    ears = await watching(sqlite.backend)
    other = await sqlite.another()
    ears.forget()
    await other.push([new()])
    await ears.until(TAKEN)


async def test_polling_costs_little(sqlite: Store) -> None:
    await watching(sqlite.backend)
    await asyncio.sleep(0.1)
    before = time.process_time()
    await asyncio.sleep(2)
    assert time.process_time() - before < working(2 * 0.05)  # about 0.006 where nothing else runs


async def test_polling_waits_for_no_lock(sqlite: Store, tmp_path: Path) -> None:
    await watching(sqlite.backend)
    with contextlib.closing(sqlite3.connect(tmp_path / "tasks.db", isolation_level=None)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        slow = 0.0
        for _ in range(20):
            start = time.monotonic()
            await asyncio.sleep(0.01)
            slow = max(slow, time.monotonic() - start)
        writer.execute("ROLLBACK")
    assert slow < within(1.0)


async def test_a_file_that_was_replaced_is_watched_under_its_name(tmp_path: Path) -> None:
    path = tmp_path / "same.db"
    first = connect(f"sqlite:///{path}")
    await first.open()
    ears = Ears(first)
    await first.watch()
    await ears.until(READY)
    for name in ("same.db", "same.db-wal", "same.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    second = connect(f"sqlite:///{path}")  # another program begins anew
    await second.open()
    await ears.until(READY)
    ears.forget()
    await second.push([new()])
    await ears.until(READY)
    await second.close()
    await first.close()
