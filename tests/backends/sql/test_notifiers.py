"""Wake-ups between processes on SQL: who hears of what, how soon, and that nothing of it can do harm."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import sqlite3
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from aiotaskq.backends import connect
from aiotaskq.backends.base import CANCEL, ENDED, READY, TAKEN, Backend, Change
from aiotaskq.backends.sql import notify_gap as sql_gap
from aiotaskq.backends.sql import postgresql_notifier as sql_notify
from aiotaskq.backends.sql import sqlite_notifier as sqlite_watch
from aiotaskq.backends.sql.backend import SqlBackend
from aiotaskq.backends.sql.notify_gap import BURST, LONG
from aiotaskq.backends.sql.postgresql_notifier import CHANNEL, SIZE, messages
from aiotaskq.core.task import SECOND, Status
from aiotaskq.errors import ValidationError
from tests.support.backends import STORES, Store, Unavailable
from tests.support.machine import watchdog, within, working
from tests.support.programs import Program
from tests.support.proxy import Proxy
from tests.support.rows import LEASE, NOW, new


@contextlib.asynccontextmanager
async def opened(name: str, folder: Path, unavailable: dict[str, str]) -> AsyncIterator[Store]:
    manager = STORES[name](folder)
    try:
        store = await manager.__aenter__()
    except Unavailable as error:
        unavailable[name] = str(error)
        pytest.skip(f"{name}: {error}")
    try:
        yield store
    finally:
        await manager.__aexit__(None, None, None)


@pytest.fixture(params=["sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, unavailable: dict[str, str]) -> AsyncIterator[Store]:
    """Where processes hear of each other."""
    async with opened(request.param, tmp_path, unavailable) as made:
        yield made


@pytest.fixture
async def postgresql(tmp_path: Path, unavailable: dict[str, str]) -> AsyncIterator[Store]:
    async with opened("postgresql", tmp_path, unavailable) as made:
        yield made


@pytest.fixture
async def sqlite(tmp_path: Path, unavailable: dict[str, str]) -> AsyncIterator[Store]:
    async with opened("sqlite", tmp_path, unavailable) as made:
        yield made


class Ears:
    """What a backend's listeners are told, and when the last of it came."""

    def __init__(self, backend: Backend) -> None:
        self.heard: list[tuple[str, tuple[str, ...]]] = []
        self.event = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.stop = backend.hints.listen(self._hear)

    def _hear(self, kind: str, names: Sequence[str]) -> None:
        self.heard.append((kind, tuple(names)))
        self._loop.call_soon_threadsafe(self.event.set)

    async def until(self, *kinds: str) -> None:
        """Wait until each of these kinds was heard since the last ``forget``."""
        async with asyncio.timeout(watchdog()):
            while not set(kinds) <= {kind for kind, _ in self.heard}:
                self.event.clear()
                await self.event.wait()

    def forget(self) -> None:
        self.heard.clear()


async def watching(backend: Backend) -> Ears:
    """A backend that watches, and has heard what it always hears first."""
    ears = Ears(backend)
    await backend.watch()
    await ears.until(READY, ENDED, TAKEN)
    ears.forget()
    return ears


async def until(condition: Callable[[], Any], patience: float = 40.0) -> None:
    """Look again and again, since nothing tells: what happens there is in the server."""
    async with asyncio.timeout(within(patience)):
        while not condition():
            await asyncio.sleep(0.02)


def listeners(store: Store) -> list[int]:
    """The server's processes that LISTEN for somebody."""
    query = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%' OR (query = 'SELECT 1' AND state = 'idle')"
    return [pid for (pid,) in store.execute(query)]


def killed(store: Store) -> int:
    """End only the sessions that listen; return how many."""
    pids = listeners(store)
    for pid in pids:
        store.execute("SELECT pg_terminate_backend(:pid)", pid=pid)
    return len(pids)


# ---- what is heard --------------------------------------------------------------------------------------------------


async def test_what_another_does_is_heard(store: Store) -> None:
    other = await store.another()
    ears = await watching(store.backend)
    await other.push([new()])
    await ears.until(READY)
    (task,) = await other.claim("o", NOW, 1, lease_until=LEASE)
    ears.forget()
    await other.update([Change(task, task.replace(status=Status.COMPLETED, completed_at=NOW // SECOND))])
    await ears.until(ENDED)
    assert all(names in ((), (task.task_id,)) for kind, names in ears.heard if kind == ENDED)


async def test_a_claim_makes_room(store: Store) -> None:
    other = await store.another()
    ears = await watching(store.backend)
    await other.push([new()])
    await ears.until(READY)
    ears.forget()
    await other.claim("o", NOW, 1, lease_until=LEASE)
    other.hints.tell(TAKEN)  # as a bounded queue does
    await ears.until(TAKEN)


async def test_a_cancel_comes_with_its_ids(postgresql: Store) -> None:
    other = await postgresql.another()
    ears = await watching(postgresql.backend)
    tasks = await other.push([new(task_id=f"漢字-{n}-" + "x" * 25) for n in range(700)])
    await other.claim("o", NOW, 700, lease_until=LEASE)
    await ears.until(READY)
    ears.forget()
    ids = [task.task_id for task in tasks]
    assert all(await other.request_cancel(ids))
    async with asyncio.timeout(watchdog()):  # many messages, since one has room for some 7,900 bytes
        while [name for kind, names in ears.heard if kind == CANCEL for name in names] != ids:
            ears.event.clear()
            await ears.event.wait()
    assert len(ears.heard) > 3


async def test_our_own_words_are_not_heard_again(postgresql: Store) -> None:
    other = await postgresql.another()
    ours, theirs = await watching(postgresql.backend), await watching(other)
    await postgresql.backend.push([new()])
    await theirs.until(READY)
    await asyncio.sleep(0.1)  # an echo would come on the heels
    assert ours.heard == [(READY, ())]


async def test_what_is_no_message_of_ours_is_not_heard(postgresql: Store) -> None:
    other = await postgresql.another()
    ears = await watching(postgresql.backend)
    for words in ("", "ready", "[]", '["a","b"]', '["x","unknown",["a"]]', '["x","ready",[1]]', "{", "x" * 7000):
        postgresql.execute("SELECT pg_notify(:channel, :words)", channel=CHANNEL, words=words)
    await other.push([new()])
    await ears.until(READY)
    assert ears.heard == [(READY, ())]


def test_messages_fit() -> None:
    for names in ([], ["a"], [f"{n:036}" for n in range(1_000)], ["\x00漢" * 17 + str(n) for n in range(300)]):
        texts = list(messages("me", CANCEL, names))
        assert all(len(each.encode()) <= SIZE < 8_000 for each in texts)
        assert [name for each in texts for name in json.loads(each)[2]] == names


async def test_very_many_ends_are_told_without_names(postgresql: Store) -> None:
    other = await postgresql.another()
    ears = await watching(postgresql.backend)
    other.hints.forward(ENDED, [str(n) for n in range(5_000)])
    await ears.until(ENDED)
    assert ears.heard == [(ENDED, ())]


# ---- how soon -------------------------------------------------------------------------------------------------------

PUSHER = """
import asyncio, sys, time
from aiotaskq.backends import connect
from aiotaskq.core.task import Task, new_id

async def main(url):
    backend = connect(url)
    await backend.open()
    number = 0
    while await asyncio.to_thread(sys.stdin.readline):
        number += 1
        task = Task(task_id=new_id(), type="t", created_at=1, run_at=1, seq=number)
        await backend.push([task])
        print(time.monotonic(), flush=True)
    await backend.close()

asyncio.run(main(sys.argv[1]))
"""


PACE = 0.015  # seconds between what was heard and the next push
SOON = {"sqlite": 0.05, "postgresql": 0.012}


async def test_another_process_wakes_us_soon(store: Store, tmp_path: Path) -> None:
    ears = await watching(store.backend)
    script = tmp_path / "pusher.py"
    script.write_text(PUSHER)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(script), store.url),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent.parent)},
    )
    assert process.stdin is not None and process.stdout is not None
    late = []
    for _ in range(50):
        ears.forget()
        process.stdin.write(b"push\n")
        await ears.until(READY)
        heard = time.monotonic()
        late.append(heard - float(await process.stdout.readline()))
        await asyncio.sleep(PACE)
    process.stdin.close()
    assert await process.wait() == 0
    assert statistics.median(late) < within(SOON[store.name]), late
    assert sum(each > within(1.0) for each in late) == 0  # what polling would have taken, at most


async def test_wake_ups_are_put_together(postgresql: Store) -> None:  # F11
    other = await postgresql.another()
    ears = await watching(postgresql.backend)
    start = time.monotonic()
    for _ in range(20):
        await asyncio.gather(*(other.push([new()]) for _ in range(64)))
    spent = time.monotonic() - start
    await ears.until(READY)
    await asyncio.sleep(0.2)
    assert 1 <= len(ears.heard) <= 2 * BURST + (spent + 0.2) / LONG  # at most 20 a second, of 1,280 pushes


@pytest.mark.parametrize("kind", [READY, ENDED])
async def test_a_call_with_many_tasks_is_load(postgresql: Store, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(sql_gap, "SHORT", 3600.0)
    monkeypatch.setattr(sql_gap, "LONG", 3600.0)
    monkeypatch.setattr(sql_gap, "BUSY", 50 / 3600)
    other = await postgresql.another()
    ears = await watching(postgresql.backend)
    for count in (1, 100):
        tasks = await other.push([new() for _ in range(count)])
        if kind == ENDED:
            other.hints.tell(ENDED, [task.task_id for task in tasks])
        await ears.until(READY, kind)
        ears.forget()
    other.hints.tell(kind)
    await asyncio.sleep(0.2)
    assert ears.heard == []
    for sender in list(other._between._senders.values()):  # type: ignore[attr-defined]
        sender.cancel()  # nobody waits for an hour


async def test_a_few_notifications_go_out_at_once(postgresql: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_gap, "SHORT", 3600.0)
    other = await postgresql.another()
    ears = await watching(postgresql.backend)
    for kind in [READY] * BURST + [ENDED]:  # another kind waits for no gap of this one
        ears.forget()
        other.hints.tell(kind)
        await ears.until(kind)
    ears.forget()
    other.hints.tell(READY)
    await asyncio.sleep(0.2)
    assert ears.heard == []
    for sender in list(other._between._senders.values()):  # type: ignore[attr-defined]
        sender.cancel()  # nobody waits for an hour


async def test_a_push_brings_its_wake_up_along_or_does_not_wait_for_it(
    postgresql: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_gap, "SHORT", 3600.0)
    other: Any = await postgresql.another()
    ears = await watching(postgresql.backend)
    database = other.database
    writes: list[str] = []
    original = database.write

    async def write(*args: Any, **options: Any) -> Any:
        writes.append("begin")
        answer = await original(*args, **options)
        writes.append("end")
        return answer

    database.write = write
    for number in range(1, BURST + 1):
        tasks = await other.push([new(), new()])
        await ears.until(READY)
        ears.forget()
        assert writes == ["begin", "end"] * number  # in one statement
    assert await other.push(tasks) == tasks  # the gap does not allow another one now
    assert writes == ["begin", "end"] * (BURST + 1)
    await until(lambda: other._between._senders)
    for sender in list(other._between._senders.values()):
        sender.cancel()  # nobody waits for an hour


async def test_a_push_that_brings_its_wake_up_along_meets_what_is_there(postgresql: Store) -> None:
    other = await postgresql.another()
    heard = Ears(other)
    first, second = new(task_id="a", unique_key="k"), new(task_id="b")
    assert await other.push([first]) == [first]
    met = await other.push([new(task_id="c", unique_key="k"), second])
    assert [task.task_id for task in met] == ["a", "b"]
    assert heard.heard == [(READY, ())] * 2  # this process itself is told as well


# ---- where it is off ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["notify=off", "pooler=transaction"])
async def test_it_can_be_off(postgresql: Store, option: str) -> None:  # F9, F11
    quiet = SqlBackend(f"{postgresql.url}?{option}")
    await quiet.open()
    try:
        heard = Ears(quiet)
        await quiet.watch()
        ears = await watching(postgresql.backend)
        await quiet.push([new()])
        await postgresql.backend.push([new()])
        await asyncio.sleep(0.2)
        assert ears.heard == [(READY, ())] and heard.heard == [(READY, ())]  # each hears itself
        assert len(listeners(postgresql)) == 1
    finally:
        await quiet.close()


def test_it_is_on_or_off() -> None:
    with pytest.raises(ValidationError, match="notify"):
        connect("postgresql://h/d?notify=maybe")


async def test_mysql_polls(tmp_path: Path, unavailable: dict[str, str]) -> None:
    async with opened("mysql", tmp_path, unavailable) as store:
        other = await store.another()
        ears = Ears(store.backend)
        await store.backend.watch()
        await other.push([new()])
        await asyncio.sleep(0.1)
        assert ears.heard == []


# ---- faults ---------------------------------------------------------------------------------------------------------


async def test_a_listening_session_that_is_killed_comes_back(postgresql: Store) -> None:  # F7
    other = await postgresql.another()
    ears = await watching(postgresql.backend)
    for _ in range(3):
        assert killed(postgresql) == 1
        await ears.until(READY, ENDED, TAKEN)  # something may have been missed
        ears.forget()
        await other.push([new()])
        await ears.until(READY)
        await until(lambda: len(listeners(postgresql)) == 1)
        ears.forget()


async def test_a_session_that_falls_silent_is_found_out(postgresql: Store) -> None:  # F7
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
        await until(lambda: proxy.accepted > connections)  # it has given up the old one
        assert time.monotonic() - start < within(10)
        proxy.heal()
        await ears.until(READY)
        ears.forget()
        await postgresql.backend.push([new()])
        await ears.until(READY)
        await far.close()
        await until(lambda: proxy.open == 0)


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
        await until(lambda: proxy.refused > 10)
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
        far.hints.tell(READY)
        await until(lambda: proxy.refused > 0)
        proxy.heal()
        ears = await watching(postgresql.backend)
        await until(lambda: not far._between._senders)  # type: ignore[attr-defined]
        far.hints.tell(READY)
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


async def test_the_first_look_at_a_file_tells_also_while_we_write(tmp_path: Path) -> None:
    backend = connect(f"sqlite:///{tmp_path}/later.db")
    assert isinstance(backend, SqlBackend) and isinstance(backend._between, sqlite_watch.FileWatch)
    ears, watch = Ears(backend), backend._between
    await backend.watch()  # there is no file yet
    await backend.open()
    watch._close()  # whether or not it has looked since: the next look is the first
    ears.forget()
    watch.writing()
    watch._look()
    watch.written()
    assert {kind for kind, _ in ears.heard} == {READY, TAKEN, ENDED}
    ears.forget()
    watch._look()
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


# ---- an end of it ---------------------------------------------------------------------------------------------------


def open_files(path: Path) -> int:
    links = [Path(f"/proc/self/fd/{each}") for each in os.listdir("/proc/self/fd")]
    return sum(str(link.readlink()).startswith(str(path)) for link in links if link.is_symlink())


async def test_closing_leaves_nothing(store: Store) -> None:
    before = {task for task in asyncio.all_tasks() if not task.done()}
    ears = Ears(store.backend)
    for _ in range(3):
        await store.backend.open()
        for _ in range(3):
            await store.backend.watch()
        await ears.until(READY)
        await store.backend.push([new()])
        await store.backend.close()
        await store.backend.close()
        ears.forget()
    assert {task for task in asyncio.all_tasks() if not task.done()} == before
    await asyncio.sleep(0.1)
    assert ears.heard == []
    if store.name == "sqlite":
        gc.collect()
        assert open_files(Path(store.url.removeprefix("sqlite:///"))) == 0
    else:
        await until(lambda: listeners(store) == [])


async def test_a_second_watch_is_the_same(postgresql: Store) -> None:
    ears = await watching(postgresql.backend)
    for _ in range(5):
        await postgresql.backend.watch()
    await asyncio.sleep(0.1)
    assert len(listeners(postgresql)) == 1 and ears.heard == []


# A loop that ends without `close` leaves the sockets of its pool to the garbage collector, which says so.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", ["sqlite", "postgresql"])
def test_the_next_loop_hears_too(name: str, tmp_path: Path, unavailable: dict[str, str]) -> None:  # E12
    async def make() -> str:
        async with opened(name, tmp_path, unavailable) as store:
            return store.url

    backend = connect(asyncio.run(make()))

    async def once(backend: Any, close: bool) -> None:
        other = SqlBackend(backend._url)
        ears = await watching(backend)
        await backend.push([new()])
        ears.forget()
        await other.push([new()])
        await ears.until(READY)
        ears.stop()
        await other.close()
        if close:
            await backend.close()

    asyncio.run(once(backend, close=False))
    asyncio.run(once(backend, close=False))
    asyncio.run(once(backend, close=True))
    del backend
    for _ in range(3):  # here, and not in a test that has nothing to do with it
        gc.collect()


async def test_a_forked_child_hears_for_itself(store: Store, tmp_path: Path) -> None:  # E1, E2
    # A child that goes on in the parent's loop is no use of anybody's: it runs its own.
    code = """
import asyncio, os, sys
from aiotaskq.backends import connect
from aiotaskq.backends.base import READY
from aiotaskq.core.task import Task, new_id
from tests.support.machine import within

backend = connect(sys.argv[1])

async def hears(close):
    heard = asyncio.Event()
    stop = backend.hints.listen(lambda kind, names: kind == READY and heard.set())
    await backend.watch()
    async with asyncio.timeout(within(10)):
        await heard.wait()
    heard.clear()
    other = connect(sys.argv[1])
    await other.push([Task(task_id=new_id(), type="t", created_at=1, run_at=1)])
    await other.close()
    async with asyncio.timeout(within(10)):
        await heard.wait()
    stop()
    if close:
        await backend.close()

loop = asyncio.new_event_loop()
loop.run_until_complete(backend.open())
loop.run_until_complete(hears(False))
pid = os.fork()
if pid == 0:
    asyncio.run(hears(True))
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
loop.run_until_complete(hears(True))
loop.run_until_complete(loop.shutdown_asyncgens())
loop.close()
print("both heard")
"""
    program = Program(tmp_path, code, store.url)
    assert await asyncio.to_thread(program.end) == ["both heard"]


async def test_what_we_write_does_not_ring(sqlite: Store) -> None:
    # Or everybody who waits here would look again fifty times a second while there is much to do.
    ears = await watching(sqlite.backend)
    for _ in range(50):
        await asyncio.gather(*(sqlite.backend.push([new()]) for _ in range(3)))
    await asyncio.sleep(0.1)
    assert {kind for kind, _ in ears.heard} == {
        READY
    }  # what a push says itself; a change of somebody's rings for TAKEN
    with pytest.raises(Exception, match="NOT NULL"):
        await sqlite.backend.push([new(type=None)])
    other = await sqlite.another()
    await other.push([new()])
    await ears.until(TAKEN)


async def test_others_are_heard_while_we_write(sqlite: Store) -> None:
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


async def test_looking_costs_little(sqlite: Store) -> None:
    await watching(sqlite.backend)
    await asyncio.sleep(0.1)
    before = time.process_time()
    await asyncio.sleep(2)
    assert time.process_time() - before < working(2 * 0.05)  # about 0.006 where nothing else runs


async def test_watching_waits_for_no_lock(sqlite: Store, tmp_path: Path) -> None:
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


async def test_a_file_that_was_replaced_is_watched_under_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_watch, "IDENTITY", 2)
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
