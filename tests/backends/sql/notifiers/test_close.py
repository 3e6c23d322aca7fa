"""Wake-ups on SQL: closing, another event loop, a fork."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any

import pytest

from aiotaskq.backends import connect
from aiotaskq.backends.listeners import READY
from aiotaskq.backends.sql.backend import SqlBackend
from tests.backends.sql.notifiers.watched import Ears, listeners, watching
from tests.support.backends import STORES, Store
from tests.support.programs import Program, open_files
from tests.support.rows import new
from tests.support.waiting import eventually


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
        await eventually(lambda: listeners(store) == [])


async def test_a_second_watch_is_the_same(postgresql: Store) -> None:
    ears = await watching(postgresql.backend)
    for _ in range(5):
        await postgresql.backend.watch()
    await asyncio.sleep(0.1)
    assert len(listeners(postgresql)) == 1 and ears.heard == []


# A loop that ends without `close` leaves the sockets of its pool to the garbage collector, which says so.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", ["sqlite", "postgresql"])
def test_the_next_loop_hears_too(name: str, tmp_path: Path) -> None:  # E12
    async def make() -> str:
        async with STORES[name](tmp_path) as store:
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


async def test_a_forked_child_listens_by_a_connection_of_its_own(store: Store, tmp_path: Path) -> None:  # E1, E2
    # Only a child with a loop of its own is tested: it cannot go on in the loop of its parent.
    code = """
import asyncio, os, sys
from aiotaskq.backends import connect
from aiotaskq.backends.listeners import READY
from aiotaskq.core.task import Task, new_id
from tests.support.machine import within

backend = connect(sys.argv[1])

async def hears(close):
    heard = asyncio.Event()
    stop = backend.listeners.listen(lambda kind, names: kind == READY and heard.set())
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
