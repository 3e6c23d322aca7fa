"""Wake-ups on SQL: killed sessions, silent servers, lost notifications and vanished files end no watch."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from aiotaskq.backends import connect
from aiotaskq.backends.listeners import ENDED, NOTED, READY, TAKEN
from aiotaskq.backends.sql import postgresql_notifier as sql_notify
from aiotaskq.backends.sql import sqlite_notifier as sqlite_watch
from aiotaskq.backends.sql.backend import SqlBackend
from tests.backends.sql.notifiers.watched import Ears, listeners, watching
from tests.support.backends import Store
from tests.support.machine import watchdog, within
from tests.support.proxy import Proxy
from tests.support.rows import new
from tests.support.waiting import eventually


def killed(store: Store) -> int:
    """End only the sessions that listen; return how many."""
    pids = listeners(store)
    for pid in pids:
        store.execute("SELECT pg_terminate_backend(:pid)", pid=pid)
    return len(pids)


async def test_a_listening_session_that_is_killed_comes_back(postgresql: Store) -> None:  # F7
    other = await postgresql.another()
    ears = await watching(postgresql.backend)
    for _ in range(3):
        assert killed(postgresql) == 1
        await ears.until(READY, ENDED, TAKEN)  # something may have been missed
        ears.forget()
        await other.push([new()])
        await ears.until(READY)
        await eventually(lambda: len(listeners(postgresql)) == 1)
        ears.forget()


async def test_a_silent_listening_connection_is_replaced(postgresql: Store) -> None:  # F7
    url = postgresql.backend.database.url  # type: ignore[attr-defined]
    async with Proxy(url.host, url.port) as proxy:
        far = connect(postgresql.url.replace(f":{url.port}/", f":{proxy.port}/"))
        ears = Ears(far)
        await far.watch()
        await ears.until(READY)
        ears.forget()
        connections = proxy.accepted
        proxy.black_hole()
        start = time.monotonic()
        await eventually(lambda: proxy.accepted > connections)  # it has given up the old one
        assert time.monotonic() - start < within(10)
        proxy.heal()
        await ears.until(READY)
        ears.forget()
        await postgresql.backend.push([new()])
        await ears.until(READY)
        await far.close()
        await eventually(lambda: proxy.open == 0)


async def test_a_server_that_is_away_is_tried_for_ever(
    postgresql: Store, monkeypatch: pytest.MonkeyPatch
) -> None:  # F5, F7
    monkeypatch.setattr(sql_notify, "BACK_OFF", (0.01, 0.05))
    url = postgresql.backend.database.url  # type: ignore[attr-defined]
    async with Proxy(url.host, url.port) as proxy:
        proxy.refuse()
        far = connect(postgresql.url.replace(f":{url.port}/", f":{proxy.port}/"))
        ears = Ears(far)
        await far.watch()  # raises nothing
        await eventually(lambda: proxy.refused > 10)
        assert ears.heard == []
        proxy.heal()
        await ears.until(READY)
        await far.close()


async def test_closing_while_the_server_is_silent(postgresql: Store) -> None:  # F8
    url = postgresql.backend.database.url  # type: ignore[attr-defined]
    async with Proxy(url.host, url.port) as proxy:
        far = connect(postgresql.url.replace(f":{url.port}/", f":{proxy.port}/"))
        ears = Ears(far)
        await far.watch()
        await ears.until(READY)
        proxy.black_hole()
        async with asyncio.timeout(watchdog()):
            await far.close()


async def test_a_lost_hint_is_no_error(postgresql: Store) -> None:
    url = postgresql.backend.database.url  # type: ignore[attr-defined]
    async with Proxy(url.host, url.port) as proxy:
        far = connect(postgresql.url.replace(f":{url.port}/", f":{proxy.port}/"))
        await far.open()
        proxy.refuse()
        far.listeners.notify(READY)
        await eventually(lambda: proxy.refused > 0)
        proxy.heal()
        ears = await watching(postgresql.backend)
        await eventually(lambda: not far._notifier._sends(READY))  # type: ignore[attr-defined]
        far.listeners.notify(READY)
        await ears.until(READY)
        await far.close()


async def test_a_file_that_vanishes_or_is_replaced(sqlite: Store, tmp_path: Path) -> None:
    ears = await watching(sqlite.backend)
    path = tmp_path / "tasks.db"
    content = path.read_bytes()
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    await asyncio.sleep(0.1)
    path.write_bytes(content)
    await asyncio.sleep(0.1)
    path.write_bytes(b"no database at all" * 100)
    await asyncio.sleep(0.1)
    assert isinstance(ears.heard, list)
    path.write_bytes(content)


async def test_the_first_poll_of_a_file_notifies_also_during_a_write(tmp_path: Path) -> None:
    backend = connect(f"sqlite:///{tmp_path}/later.db")
    assert isinstance(backend, SqlBackend) and isinstance(backend._notifier, sqlite_watch.FileWatch)
    ears, watch = Ears(backend), backend._notifier
    await backend.watch()  # there is no file yet
    await backend.open()
    watch._close()  # whether or not it has looked since: the next look is the first
    ears.forget()
    watch.writing()
    watch._poll()
    watch.written()
    assert {kind for kind, _ in ears.heard} == {READY, TAKEN, ENDED, NOTED}
    ears.forget()
    watch._poll()
    assert ears.heard == []
    await backend.close()


async def test_a_file_that_cannot_be_read_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_watch, "RETRY", 0.02)
    path = tmp_path / "later.db"
    backend = connect(f"sqlite:///{path}")
    ears = Ears(backend)
    await backend.watch()
    await asyncio.sleep(0.1)
    assert ears.heard == [] and not path.exists()  # to watch makes no file
    path.write_bytes(b"no database at all" * 100)
    await asyncio.sleep(0.1)
    path.unlink()
    await backend.open()
    await ears.until(READY)
    await backend.close()
