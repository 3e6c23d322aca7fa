"""SQLite through aiosqlite: one call on the thread of an aiosqlite connection for each transaction."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncSession

from aiotaskq.backends.base import Change, Claim, ScheduleChange
from aiotaskq.backends.sql import sqlite_connections
from aiotaskq.backends.sql.backend import SqlBackend
from aiotaskq.backends.sql.database import Database
from aiotaskq.backends.sql.sqlite_connections import SqliteConnections, StoreConnection
from aiotaskq.core.status import Status
from aiotaskq.core.task import TaskFilter
from aiotaskq.errors import ClosedError
from tests.support.rows import LEASE, NOW, new, new_schedule, worker_info
from tests.support.statements import at_each_statement
from tests.support.waiting import eventually

HANG = 30.0


@pytest.fixture
def drivers_threads(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The threads in which aiosqlite itself serves its connections."""
    threads: set[int] = set()
    serve = aiosqlite.core._connection_worker_thread

    def noted(queue: Any) -> None:
        threads.add(threading.get_ident())
        serve(queue)

    monkeypatch.setattr(aiosqlite.core, "_connection_worker_thread", noted)
    return threads


@pytest.fixture
async def backend(url: str, drivers_threads: set[int]) -> AsyncIterator[SqlBackend]:
    made = SqlBackend(url)
    await made.open()
    yield made
    await made.close()


async def connections(backend: SqlBackend) -> SqliteConnections:
    found = await backend.database.connections()
    assert isinstance(found, SqliteConnections)
    return found


def aiosqlite_threads() -> int:
    return sum("_connection_worker_thread" in thread.name for thread in threading.enumerate())


# ---- one hop --------------------------------------------------------------------------------------------------------


async def test_each_verb_is_one_call_on_a_thread_of_aiosqlite(
    backend: SqlBackend, drivers_threads: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    answers = [0]
    real = loop.call_soon_threadsafe

    def answered(*args: Any, **options: Any) -> Any:
        answers[0] += 1
        return real(*args, **options)

    where: list[tuple[int, str]] = []
    engine = (await connections(backend)).sync_engine

    def note(statement: str) -> None:
        where.append((threading.get_ident(), statement))

    values, schedules = backend.values, backend.schedules
    assert schedules is not None
    _, _, (task,) = await backend.push_and_claim([new()], Claim("o", NOW, 1, lease_until=LEASE))
    (schedule,) = await schedules.add([new_schedule()])
    end = Change(task, task.replace(status=Status.COMPLETED), (new(), new()))
    fire = ScheduleChange(schedule, schedule.replace(run_count=1), (new(),))
    verbs: list[Callable[[], Awaitable[Any]]] = [
        lambda: backend.push([new() for _ in range(1200)]),
        lambda: backend.push_and_claim([new(priority=-1)], Claim("o", NOW, 1, lease_until=LEASE)),
        lambda: backend.claim("o", NOW, 600, lease_until=LEASE),
        lambda: backend.workers.register(worker_info()),
        lambda: backend.workers.heartbeat(worker_info()),
        lambda: backend.workers.held(["o"]),
        backend.workers.all,
        lambda: backend.workers.remove(worker_info()),
        lambda: backend.report([(task.task_id, task.fence, {"a": 1})]),
        lambda: backend.request_cancel(["x"]),
        lambda: backend.cancelling([task.task_id]),
        lambda: backend.exchange([end], Claim("o", NOW, 5, lease_until=LEASE)),
        lambda: backend.get([task.task_id]),
        lambda: backend.find(TaskFilter(), 5),
        lambda: backend.overdue(NOW, 5),
        lambda: backend.next_run_at(NOW),
        lambda: backend.count_ready(NOW),
        lambda: backend.stats(NOW),
        lambda: backend.active(["s"]),
        lambda: backend.purge(TaskFilter(), 5),
        lambda: backend.delete([task.task_id]),
        lambda: backend.set_paused("q", True),
        backend.paused,
        backend.ping,
        lambda: values.put([("k", 1, NOW)]),
        lambda: values.get(["k"], NOW),
        lambda: values.keys(NOW),
        lambda: values.count(NOW),
        lambda: values.expire(NOW, 5),
        lambda: values.delete(["k"], NOW),
        values.clear,
        lambda: schedules.add([new_schedule() for _ in range(600)]),
        lambda: schedules.change([fire]),
        lambda: backend.fire_and_claim([fire], Claim("o", NOW, 1, lease_until=LEASE)),
        lambda: schedules.get([schedule.task_id]),
        schedules.all,
        lambda: schedules.due(NOW, 5),
        schedules.next_due,
        lambda: schedules.undelivered(5),
        lambda: schedules.delete([schedule.task_id]),
    ]
    for verb in verbs:
        await verb()  # whatever is opened at the first time
    monkeypatch.setattr(loop, "call_soon_threadsafe", answered)
    for number, verb in enumerate(verbs):
        answers[0], where[:] = 0, []
        with at_each_statement(engine, note):
            await verb()
        assert (number, answers[0]) == (number, 1)
        assert where and {thread for thread, _ in where} <= drivers_threads, number
    assert threading.get_ident() not in drivers_threads


async def test_a_store_connection_is_one_of_aiosqlite(backend: SqlBackend) -> None:
    """What aiosqlite does for it goes to the same thread, in the same order."""
    await backend.push([new()])
    store = (await connections(backend)).readers[-1]
    assert isinstance(store, aiosqlite.Connection) and await store is store
    async with store.execute("SELECT count(*) FROM task_queue") as cursor:
        assert await cursor.fetchone() == (1,)
    assert await store.run(lambda: store.raw.execute("SELECT 1").fetchone()) == (1,)


async def test_nothing_comes_between_the_statements_of_a_transaction(backend: SqlBackend) -> None:
    seen: list[str] = []

    def body(name: str) -> Callable[[Connection], None]:
        def run(connection: Connection) -> None:
            for _ in range(20):
                seen.append(name)
                connection.execute(text("SELECT count(*) FROM task_queue"))

        return run

    def session_body(name: str) -> Callable[[AsyncSession], Coroutine[Any, Any, None]]:
        async def run(session: AsyncSession) -> None:
            for _ in range(20):
                seen.append(name)
                await session.execute(text("SELECT count(*) FROM task_queue"))

        return run

    database = backend.database
    writes = [database.write(body(f"c{n}")) for n in range(5)]
    writes += [database.write_session(session_body(f"s{n}")) for n in range(5)]
    await asyncio.gather(*writes)
    assert sorted({name: seen.index(name) for name in seen}.values()) == list(range(0, 200, 20))


async def test_an_idle_thread_keeps_nothing_of_its_last_call(backend: SqlBackend) -> None:
    class Large:
        pass

    large = Large()
    answer = Large()
    gone = [weakref.ref(large), weakref.ref(answer)]

    def body(_connection: Connection, large: Large = large, answer: Large = answer) -> Large:
        return answer

    await backend.database.read(body)

    def failing(_connection: Connection, large: Large = large) -> None:
        raise ZeroDivisionError(large)

    with pytest.raises(ZeroDivisionError):
        await backend.database.write(failing)
    del body, failing, large, answer
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


# ---- cancelling -----------------------------------------------------------------------------------------------------


async def test_a_cancelled_caller_waits_for_what_has_begun(backend: SqlBackend) -> None:  # F3
    begun, go_on = threading.Event(), threading.Event()

    def body(connection: Connection) -> None:
        connection.execute(text("UPDATE task_queue SET priority = 7"))
        begun.set()
        assert go_on.wait(HANG)

    await backend.push([new()])
    caller = asyncio.create_task(backend.database.write(body))
    assert await asyncio.to_thread(begun.wait, HANG)
    later = asyncio.create_task(backend.push([new(type="later")]))
    await asyncio.sleep(0)
    caller.cancel()
    later.cancel()
    await asyncio.wait([later], timeout=HANG)
    assert later.cancelled() and not caller.done()  # what had not begun is not waited for, and does not happen
    go_on.set()
    await asyncio.wait([caller], timeout=HANG)
    assert caller.cancelled()
    assert [(task.priority, task.type) for task in await backend.find(TaskFilter(), 5)] == [(7, "t")]


async def test_a_caller_cancelled_at_another_programs_lock_has_done_nothing(  # F2, F3
    backend: SqlBackend, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await backend.push([new()])
    raw = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    raw.execute("BEGIN IMMEDIATE")
    tries = [0]
    real = sqlite_connections.begin_immediate

    def begin(connection: sqlite3.Connection) -> None:
        tries[0] += 1
        real(connection)

    monkeypatch.setattr(sqlite_connections, "begin_immediate", begin)
    caller = asyncio.create_task(backend.push([new()]))
    await eventually(lambda: tries[0] > 1)  # it asks again and again
    caller.cancel()
    await asyncio.wait([caller], timeout=HANG)
    assert caller.cancelled()
    raw.execute("ROLLBACK")
    raw.close()
    assert (await backend.stats(NOW)).ready == 1


# ---- loops that go away ---------------------------------------------------------------------------------------------


def test_a_loop_that_is_closed_under_a_transaction_ends_no_thread_with_an_error(url: str) -> None:  # E5, E13
    """pytest makes an error of a thread's uncaught one; and the next loop opens the database anew."""
    threads = aiosqlite_threads()
    backend = SqlBackend(url)
    begun, go_on = threading.Event(), threading.Event()

    def body(connection: Connection) -> None:
        connection.execute(text("UPDATE task_queue SET priority = 7"))
        begun.set()
        assert go_on.wait(HANG)

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # it would tell of the task that it leaves behind
    loop.run_until_complete(backend.push([new()]))
    lost = loop.create_task(backend.database.write(body))
    loop.call_later(0, loop.stop)
    loop.run_forever()
    assert begun.wait(HANG)
    loop.close()
    assert not lost.done()
    go_on.set()

    async def use() -> tuple[list[int], int]:
        await backend.push([new()])  # it waits for the lock, which a read does not
        priorities = sorted(task.priority for task in await backend.find(TaskFilter(), 5))
        ready = (await backend.stats(NOW)).ready
        await backend.close()
        await eventually(lambda: aiosqlite_threads() == threads)  # those of the lost loop, too
        return priorities, ready

    assert asyncio.run(use()) == ([0, 7], 2)  # it had begun, so it came to its end
    del lost
    gc.collect()


async def test_what_is_dropped_without_a_close_is_closed(url: str) -> None:
    threads = aiosqlite_threads()
    database = Database(url)
    await database.write(lambda connection: connection.execute(text("CREATE TABLE t (a)")))
    await database.write_session(lambda session: session.execute(text("INSERT INTO t VALUES (1)")))
    assert await database.read_session(lambda session: session.scalar(text("SELECT * FROM t"))) == 1
    assert aiosqlite_threads() > threads
    del database
    gc.collect()
    await eventually(lambda: aiosqlite_threads() == threads)
    assert not Path(url.removeprefix("sqlite:///") + "-wal").exists()


def test_a_loop_that_ends_while_it_opens_leaves_nothing_open(tmp_path: Path) -> None:  # D11, E5
    threads = aiosqlite_threads()
    ended = 0
    for steps in range(1, 60):
        backend = SqlBackend(f"sqlite:///{tmp_path}/{steps}.db")

        async def leave(backend: SqlBackend = backend, steps: int = steps) -> bool:
            opening = asyncio.ensure_future(backend.open())
            for _ in range(steps):
                await asyncio.sleep(0)
            return opening.done()  # asyncio.run cancels it, and all that it awaits

        ended += asyncio.run(leave())

        async def use(backend: SqlBackend = backend) -> None:
            await backend.push([new()])
            await backend.close()

        asyncio.run(use())
    del backend, leave, use
    gc.collect()
    for _ in range(int(HANG * 100)):
        if aiosqlite_threads() == threads:
            break
        threading.Event().wait(0.01)
    assert aiosqlite_threads() == threads


async def test_a_file_that_cannot_be_opened_is_tried_again(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = aiosqlite_threads()
    opened = SqliteConnections(Database(url))
    path = Path(url.removeprefix("sqlite:///"))
    path.unlink()
    path.mkdir()
    for act in (opened.read, opened.write):
        answers = await asyncio.gather(*(act(lambda c: c) for _ in range(6)), return_exceptions=True)
        assert {str(getattr(answer, "orig", answer)) for answer in answers} == {"unable to open database file"}
    path.rmdir()
    assert await opened.read(lambda c: c.exec_driver_sql("SELECT 1").scalar()) == 1
    assert await opened.write(lambda c: c.exec_driver_sql("SELECT 1").scalar()) == 1
    await opened.dispose()
    await eventually(lambda: aiosqlite_threads() == threads)


async def test_a_closed_connection_says_so(url: str) -> None:
    opened = SqliteConnections(Database(url))
    never: StoreConnection = opened.readers[0]
    store = opened.writer
    await opened.write(lambda connection: None)
    await opened.dispose()
    await opened.dispose()
    for each in (store, never):
        with pytest.raises(ClosedError, match="closed"):
            await each.run(lambda: None)
