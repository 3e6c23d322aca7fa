"""Servers that restart, fall silent, change their part or cut a connection: callers get an answer, and nothing is lost.

On servers of their own, with proxies in between: what happens here must not disturb other tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, text

from aiotaskq import TaskQ
from aiotaskq.backends.base import Change, ScheduleChange
from aiotaskq.backends.sql import database, engines
from aiotaskq.backends.sql import schedules as sql_schedules
from aiotaskq.backends.sql import statement_watch as watch
from aiotaskq.backends.sql.backend import SqlBackend
from aiotaskq.backends.sql.migrations import upgrade
from aiotaskq.core.outcome import Completed, settle
from aiotaskq.core.schedule import derived_id, due_us
from aiotaskq.core.task import SECOND, Status, Task, TaskFilter
from aiotaskq.errors import DatabaseUnavailable
from tests.support.machine import within
from tests.support.proxy import Proxy
from tests.support.rows import LEASE, NOW, new, new_schedule
from tests.support.servers import Server, Unavailable, mariadb, postgresql

SERVERS: dict[str, Callable[[], Server]] = {"postgresql": postgresql, "mysql": mariadb}
_made = 0
_migrated: list[Server] = []


class Place:
    """A database of its own on a server that may be maltreated."""

    def __init__(self, server: Server) -> None:
        global _made
        _made += 1
        self.server = server
        self.database = f"outage_{_made}"
        if server not in _migrated:
            engine = engines.sync_engine(server.create("migrated"))
            with engine.begin() as connection:
                upgrade(connection)
            engine.dispose()
            _migrated.append(server)
        self.url = server.create(self.database, "migrated")

    @property
    def is_postgresql(self) -> bool:
        return self.server.name == "postgresql"

    def through(self, proxy: Proxy) -> str:
        """The URL by way of a proxy."""
        return self.url.replace(f":{self.server.port}/", f":{proxy.port}/")

    @property
    def commit(self) -> bytes:
        """The command as the driver sends it; the name of the isolation level has the same word in it."""
        return b"COMMIT;" if self.is_postgresql else b"\x03COMMIT"

    def connections(self) -> list[int]:
        """The server's ids of all client connections to this database."""
        query = (
            f"SELECT pid FROM pg_stat_activity WHERE datname = '{self.database}'"
            if self.is_postgresql
            else f"SELECT id FROM information_schema.processlist WHERE db = '{self.database}'"
        )
        return [int(row[0]) for row in self.server.execute(query)]

    def kill_connections(self) -> None:
        for number in self.connections():
            self.server.execute(f"SELECT pg_terminate_backend({number})" if self.is_postgresql else f"KILL {number}")


@pytest.fixture(params=SERVERS)
def place(request: pytest.FixtureRequest, unavailable: dict[str, str]) -> Iterator[Place]:
    try:
        server = SERVERS[request.param]()
    except Unavailable as error:
        unavailable[request.param] = str(error)
        pytest.skip(str(error))
    made = Place(server)
    yield made
    server.start()
    server.drop(made.database)


def only(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("place", [name], indirect=True)


@pytest.fixture
async def backend(place: Place) -> AsyncIterator[SqlBackend]:
    made = SqlBackend(place.url)
    await made.open()
    yield made
    await made.close()


@pytest.fixture
async def proxy(place: Place) -> AsyncIterator[Proxy]:
    async with Proxy("127.0.0.1", place.server.port) as made:
        yield made


@pytest.fixture
async def far(place: Place, proxy: Proxy) -> AsyncIterator[SqlBackend]:
    """A backend behind the proxy."""
    made = SqlBackend(place.through(proxy))
    await made.open()
    yield made
    proxy.heal()
    await made.close()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less patience than in real life."""
    monkeypatch.setattr(watch, "STATEMENT_TIMEOUT", 4.0)
    monkeypatch.setattr(engines, "CONNECT_TIMEOUT", 3.0)


async def fill_pool(backend: SqlBackend) -> None:
    """Have the pool keep as many connections as it will."""
    await asyncio.gather(*(backend.database.read(lambda c: c.execute(text("SELECT 1"))) for _ in range(20)))


async def renew_pool(backend: SqlBackend) -> None:
    """Have the next verb open a connection, on which statements are sent with all their words."""
    await (await backend.database._ready()).dispose()


async def settled(answer: Callable[[], Any], wanted: Any, patience: float = 5.0) -> None:
    """Wait until the answer is the wanted one."""
    end = time.monotonic() + within(patience)
    while (got := await asyncio.to_thread(answer)) != wanted:
        assert time.monotonic() < end, f"{got} is not {wanted}"
        await asyncio.sleep(0.05)


# ---- silence --------------------------------------------------------------------------------------------------------


async def test_a_silent_server_holds_nobody_up(far: SqlBackend, proxy: Proxy, hasty: None) -> None:  # F8
    task = new()
    await fill_pool(far)
    proxy.black_hole()
    verbs: list[Awaitable[Any]] = [far.push([task]), far.get([task.task_id]), far.claim("o", NOW, 1, lease_until=LEASE)]
    async with asyncio.timeout(within(40)):
        answers = await asyncio.gather(*verbs, return_exceptions=True)
    assert [type(answer) for answer in answers] == [DatabaseUnavailable] * 3
    assert "no answer within 4 s, so the connection was cut" in str(answers[0])
    proxy.heal()
    async with asyncio.timeout(within(40)):
        assert await far.push([task]) == [task]


async def test_a_silent_answer_to_a_commit(far: SqlBackend, proxy: Proxy, hasty: None) -> None:  # F8, A20
    await far.stats(NOW)
    proxy.drop_replies()
    task = new()
    async with asyncio.timeout(within(40)):
        with pytest.raises(DatabaseUnavailable):
            await far.push([task])
    proxy.heal()
    assert await far.push([task]) == [task]


async def test_a_server_that_lets_nobody_in(place: Place, proxy: Proxy, hasty: None) -> None:  # F8
    backend = SqlBackend(place.through(proxy))
    proxy.black_hole()
    async with asyncio.timeout(within(40)):
        with pytest.raises(DatabaseUnavailable, match="no connection within"):
            await backend.open()
    proxy.heal()
    await backend.push([new()])
    await backend.close()


async def test_closing_does_not_wait_for_a_silent_server(  # F8
    place: Place, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "CONNECT_TIMEOUT", 0.5)
    backend = SqlBackend(place.through(proxy))
    await backend.open()
    await fill_pool(backend)
    proxy.black_hole()
    async with asyncio.timeout(within(40)):
        await backend.close()


@pytest.mark.parametrize("seconds", [4.1, 5.0])  # hardly longer than a statement may take, and much longer
async def test_a_loop_that_stands_still_cuts_nothing(
    place: Place, backend: SqlBackend, hasty: None, seconds: float
) -> None:
    """The timer is due, but the answer has been there all the while."""
    which = "pg_backend_pid()" if place.is_postgresql else "connection_id()"
    pause = "pg_sleep(0.3)" if place.is_postgresql else "sleep(0.3)"

    async def ask() -> Any:
        query = text(f"SELECT {which}, {pause}")
        return await backend.database.read(lambda connection: connection.execute(query).one()[0])

    first = await ask()
    second = asyncio.create_task(ask())
    await asyncio.sleep(0.15)  # it is asked
    time.sleep(seconds)
    assert [await second, await ask()] == [first, first]  # on the same connection still


async def test_a_slow_statement_may_be_allowed(place: Place, backend: SqlBackend, hasty: None) -> None:
    sleep = text("SELECT pg_sleep(6)" if place.is_postgresql else "SELECT sleep(6)")

    def patient(connection: Connection) -> bool:
        connection.execution_options(**{watch.PATIENCE: 30.0})
        connection.execute(sleep)
        return True

    assert await backend.database.write(patient)
    with pytest.raises(DatabaseUnavailable, match="no answer within 4 s"):
        await backend.database.write(lambda connection: connection.execute(sleep))


# ---- restarts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["fast", "immediate"])
async def test_a_restart_between_two_verbs_is_not_noticed(place: Place, backend: SqlBackend, how: str) -> None:  # F5
    await fill_pool(backend)
    await asyncio.to_thread(place.server.restart, how)
    (task,) = await backend.push([new()])
    await asyncio.to_thread(place.server.restart, how)
    assert await backend.get([task.task_id]) == [task]
    await asyncio.gather(*(backend.push([new()]) for _ in range(20)))
    assert (await backend.stats(NOW)).ready == 21


async def test_connections_that_the_server_closed_are_not_noticed(place: Place, backend: SqlBackend) -> None:  # F5
    """As its idle timeout does, or a firewall."""
    for _ in range(3):
        await fill_pool(backend)
        await asyncio.to_thread(place.kill_connections)
        await backend.push([new()])
        await asyncio.to_thread(place.kill_connections)
        await asyncio.gather(*(backend.stats(NOW) for _ in range(10)))


async def test_workers_live_through_restarts(place: Place) -> None:  # F5, F20
    tq = TaskQ(place.url, poll_interval=0.2)
    ran: list[int] = []

    @tq.task
    async def note(n: int) -> None:
        ran.append(n)

    async with tq.running(concurrency=4):
        number = 0
        for how in ("fast", "immediate", "away") * 2:
            if how == "away":
                await asyncio.to_thread(place.server.stop)
                await asyncio.sleep(2)  # several rounds of every loop
                await asyncio.to_thread(place.server.start)
            else:
                await asyncio.to_thread(place.server.restart, how)
            ready = time.monotonic()
            number += 1
            await note.push(n=number)
            while number not in ran:
                assert time.monotonic() < ready + within(10), how
                await asyncio.sleep(0.01)
        assert set(ran) == set(range(1, number + 1))


async def test_nothing_acknowledged_is_lost_in_restarts_under_load(place: Place, backend: SqlBackend) -> None:  # F5
    acknowledged: set[str] = set()
    refused = 0
    over = asyncio.Event()

    async def producer() -> None:
        nonlocal refused
        while not over.is_set():
            task = new()
            while True:  # a push whose outcome is unknown is repeated
                try:
                    await backend.push([task])
                    break
                except DatabaseUnavailable:
                    refused += 1
                    await asyncio.sleep(0.02)
            acknowledged.add(task.task_id)

    async with asyncio.TaskGroup() as group:
        for _ in range(6):
            group.create_task(producer())
        for how in ("fast", "immediate", "fast", "immediate"):
            await asyncio.sleep(0.3)
            await asyncio.to_thread(place.server.restart, how)
        await asyncio.sleep(0.3)
        over.set()
    counts = (await backend.stats(NOW)).counts
    assert refused > 0 and len(acknowledged) > 50
    assert counts["pending"] == len(acknowledged)
    assert None not in await backend.get(list(acknowledged))


async def test_a_server_that_is_away_is_told_at_once(place: Place, backend: SqlBackend) -> None:  # F20
    place.server.stop()
    for _ in range(3):
        async with asyncio.timeout(within(30)):
            with pytest.raises(DatabaseUnavailable):
                await backend.push([new()])
            with pytest.raises(DatabaseUnavailable):
                await backend.ping()
    place.server.start()
    await backend.push([new()])


@only("postgresql")
async def test_a_server_that_became_a_replica_is_left(place: Place, backend: SqlBackend) -> None:  # F6
    await fill_pool(backend)
    before = set(place.connections())
    place.server.execute(f"ALTER DATABASE {place.database} SET default_transaction_read_only = on")
    await asyncio.to_thread(place.kill_connections)
    with pytest.raises(DatabaseUnavailable, match="read-only"):
        await backend.push([new()])
    during = set(place.connections())
    place.server.execute(f"ALTER DATABASE {place.database} RESET default_transaction_read_only")
    # The connections to it are not kept: this one is new, and would be to another server now.
    await backend.push([new()])
    assert before.isdisjoint(place.connections()) and during.isdisjoint(place.connections())


# ---- cut connections ------------------------------------------------------------------------------------------------


async def test_a_commit_whose_answer_is_lost(place: Place, far: SqlBackend, proxy: Proxy) -> None:  # A20
    for number in range(1, 4):
        tasks = [new() for _ in range(501)]  # more than one statement, so there is a commit
        proxy.cut_on(place.commit)
        with pytest.raises(DatabaseUnavailable):
            await far.push(tasks)
        assert proxy.cuts == number
        assert await far.push(tasks) == tasks
        assert (await far.stats(NOW)).counts["pending"] == number * 501


async def test_a_push_that_raises_may_be_repeated_with_its_ids(place: Place, proxy: Proxy) -> None:  # A20
    count = 501  # more than one statement, so there is a commit
    async with TaskQ(place.through(proxy)) as tq:
        assert isinstance(tq._backend, SqlBackend)
        await fill_pool(tq._backend)  # a new connection to MySQL begins with a COMMIT
        proxy.cut_on(place.commit)
        with pytest.raises(DatabaseUnavailable) as refused:
            await tq.push_many([("job", {"n": n}) for n in range(count)])
        assert len(set(refused.value.task_ids)) == count
        calls = [{"type": "job", "params": {"n": n}, "task_id": name} for n, name in enumerate(refused.value.task_ids)]
        handles = await tq.push_many(calls)
        assert not any(handle.created for handle in handles)
        assert (await tq.stats()).counts["pending"] == count
        proxy.refuse()
        with pytest.raises(DatabaseUnavailable) as other:
            await tq.stats()
        assert other.value.task_ids == ()
        proxy.heal()


async def test_a_connection_cut_before_the_commit_is_not_noticed(far: SqlBackend, proxy: Proxy) -> None:
    for number, deliver in enumerate((True, False), 1):
        await renew_pool(far)
        proxy.cut_on(b"INSERT INTO task_queue", deliver=deliver)
        await far.push([new()])
        assert proxy.cuts == number
        assert (await far.stats(NOW)).counts["pending"] == number


@pytest.mark.parametrize("deliver", [True, False])
async def test_a_cut_at_each_statement_of_a_fire(  # C21, C9
    place: Place, far: SqlBackend, proxy: Proxy, deliver: bool
) -> None:
    (schedule,) = await far.schedules.add([new_schedule()])
    words = (b"SELECT", b"UPDATE scheduler_task", b"INSERT INTO task_queue", place.commit)
    for fired, word in enumerate(words, 1):
        await renew_pool(far)
        proxy.cut_on(word, deliver=deliver)
        cuts = proxy.cuts
        task = new(scheduler_task_id=schedule.task_id)
        after = schedule.replace(run_count=schedule.run_count + 1)
        while True:  # as the scheduler does, which reads anew what is due
            (row,) = await far.schedules.get([schedule.task_id])
            assert row is not None
            if row.run_count == after.run_count:
                break
            with contextlib.suppress(DatabaseUnavailable):
                await far.schedules.change([ScheduleChange(row, after, (task,))])
        schedule = row
        assert proxy.cuts == cuts + 1, word
        assert (await far.stats(NOW)).counts["pending"] == fired
        assert await far.get([task.task_id]) == [task]


async def test_a_scheduler_lives_through_cuts(place: Place, proxy: Proxy) -> None:  # C21
    tq = TaskQ(place.through(proxy), poll_interval=0.2)

    @tq.schedule(interval=1)
    @tq.task
    async def tick() -> None:
        pass

    async with tq.running(concurrency=2):
        for round_ in range(8):
            await asyncio.sleep(0.4)
            if round_ % 2:
                proxy.cut_on(place.commit)
            else:
                proxy.reset()
        proxy.heal()
        await asyncio.sleep(1)
    backend = SqlBackend(place.url)
    (schedule,) = await backend.schedules.all()
    following = due_us(schedule)
    assert following is not None and schedule.run_count >= 3
    dues = [following - back * SECOND for back in range(1, schedule.run_count + 1)]
    tasks = await backend.find(TaskFilter(scheduler_task_id=schedule.task_id), 100)
    # One for each second, none twice and none left out.
    assert {task.task_id for task in tasks} == {derived_id(schedule.task_id, due) for due in dues}
    await backend.close()


# ---- many at once ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["mysql"], indirect=True)
def test_one_winner_however_rows_are_counted(place: Place) -> None:  # C4
    import pymysql
    from pymysql.constants import CLIENT

    def connect(flag: int) -> Any:
        where: Any = {"host": "127.0.0.1", "port": place.server.port, "user": "root", "database": place.database}
        return pymysql.connect(**where, client_flag=flag, charset="utf8mb4")

    async def prepare() -> Any:
        backend = SqlBackend(place.url)
        (schedule,) = await backend.schedules.add([new_schedule()])
        await backend.close()
        return schedule

    schedule = asyncio.run(prepare())
    flags = [CLIENT.FOUND_ROWS, 0]
    counting = [
        create_engine("mysql+pymysql://", creator=lambda flag=flag: connect(flag), isolation_level="READ COMMITTED")
        for flag in flags
    ]
    with counting[1].begin() as connection:  # the premise
        assert connection.execute(text("UPDATE scheduler_task SET version = version")).rowcount == 0
    for run in range(5):
        won: list[bool] = []
        start = threading.Barrier(8)
        # The same values again, so that "changed" would say no: only the guard decides.
        item = ScheduleChange(schedule, schedule, (new(task_id=f"fired-{run}"),))

        def compete(engine: Any) -> None:
            start.wait()  # noqa: B023 - the threads end within the round
            with engine.begin() as connection:
                won.extend(sql_schedules.change(connection, [item]))  # noqa: B023

        threads = [threading.Thread(target=compete, args=(counting[n % 2],)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(won) == [False] * 7 + [True]
        with counting[0].begin() as connection:
            assert connection.execute(text("SELECT count(*) FROM task_queue")).scalar() == run + 1
        schedule = schedule.replace(version=schedule.version + 1)
    for engine in counting:
        engine.dispose()


async def test_a_deadlock_is_settled_inside(backend: SqlBackend) -> None:  # F12
    first, second = await backend.push([new(), new()])
    runs = 0

    def body(*ids: str) -> Callable[[Connection], None]:
        def touch(connection: Connection) -> None:
            nonlocal runs
            runs += 1
            for task_id in ids:
                connection.execute(text("UPDATE task_queue SET fence = fence + 1 WHERE task_id = :id"), {"id": task_id})

        return touch

    there, back = body(first.task_id, second.task_id), body(second.task_id, first.task_id)
    rounds = 0
    while runs == 2 * rounds:  # until one of them had to give way
        rounds += 1
        assert rounds < 500
        await asyncio.gather(backend.database.write(there), backend.database.write(back))
    rows = await backend.get([first.task_id, second.task_id])
    assert [row.fence for row in rows if row] == [2 * rounds] * 2


@only("mysql")  # a setting of MariaDB's
async def test_locking_reads_see_what_is_there_now(backend: SqlBackend) -> None:  # F12
    query = text("SHOW SESSION VARIABLES LIKE 'innodb_snapshot_isolation'")
    found = await backend.database.read(lambda connection: connection.execute(query).all())
    assert [tuple(row) for row in found] in ([], [("innodb_snapshot_isolation", "OFF")])


async def test_many_workers_and_producers_meet_no_error(place: Place) -> None:  # F12
    total, each = 600, 10
    backends = [SqlBackend(place.url) for _ in range(4)]
    await asyncio.gather(*(backend.open() for backend in backends))
    left = total
    seen: list[tuple[str, int]] = []

    async def produce(backend: SqlBackend) -> None:
        nonlocal left
        while left > 0:
            left -= each
            await backend.push([new(priority=random.randint(0, 3)) for _ in range(each)])

    async def work(backend: SqlBackend, owner: str) -> None:
        idle = 0
        while left > 0 or idle < 3:
            claimed = await backend.claim(owner, NOW, random.choice([1, 7, 20]), lease_until=LEASE)
            seen.extend((task.task_id, task.fence) for task in claimed)
            idle = 0 if claimed else idle + 1
            await backend.heartbeat([(task.task_id, task.fence) for task in claimed], LEASE + 1)
            ends = [Change(task, settle(task, Completed(1), NOW)) for task in claimed]
            assert all(await backend.update(ends))

    async with asyncio.TaskGroup() as group:
        for number in range(8):
            group.create_task(work(backends[number % 4], f"o{number}"))
        for number in range(4):
            group.create_task(produce(backends[number % 4]))
    assert len(seen) == len(set(seen)) == total
    assert (await backends[0].stats(NOW)).counts["completed"] == total
    for backend in backends:
        await backend.close()


# ---- cancelled callers ----------------------------------------------------------------------------------------------


async def test_cancelled_callers_leak_no_connection(place: Place, backend: SqlBackend) -> None:  # F3, F4
    await fill_pool(backend)
    limit = 10  # the pool's size, with what it may have beyond
    most = 0
    over = asyncio.Event()

    async def look() -> None:
        nonlocal most
        while not over.is_set():
            most = max(most, len(await asyncio.to_thread(place.connections)))
            await asyncio.sleep(0.02)

    async def one(number: int) -> bool:
        verbs: list[Callable[[], Awaitable[Any]]] = [
            lambda: backend.push([new(type="cancelled"), new(type="cancelled")]),
            lambda: backend.claim("o", NOW, 2, lease_until=LEASE),
            lambda: backend.stats(NOW),
        ]
        caller = asyncio.ensure_future(verbs[number % 3]())
        await asyncio.sleep(random.uniform(0, 0.02))
        caller.cancel()
        try:
            await caller
        except asyncio.CancelledError:
            return True
        return False

    looking = asyncio.create_task(look())
    cancelled = 0
    for start in range(0, 2_000 if place.is_postgresql else 600, 40):
        cancelled += sum(await asyncio.gather(*(one(start + n) for n in range(40))))
        while len(backend.database._running) > 40:  # what was left behind runs to its end; a busy machine needs longer
            await asyncio.sleep(0.01)
    over.set()
    await looking
    assert cancelled > 200
    assert 0 < most <= limit
    await backend.stats(NOW)
    while backend.database._running:
        await asyncio.sleep(0.01)
    await settled(lambda: len(place.connections()) <= 5, True)
    # Each pair is there wholly or not at all.
    assert sum((await backend.stats(NOW)).counts.values()) % 2 == 0
    task = new()
    assert await backend.push([task]) == [task]


async def test_a_loop_that_ends_leaves_no_transaction(place: Place) -> None:  # F3
    def main() -> None:
        async def leave() -> None:
            backend = SqlBackend(place.url)
            await backend.open()
            asyncio.ensure_future(backend.push([new() for _ in range(2_000)]))  # noqa: RUF006 - it is left alone
            await asyncio.sleep(0.01)

        asyncio.run(leave())

    await asyncio.to_thread(main)
    backend = SqlBackend(place.url)
    assert (await backend.stats(NOW)).ready in (0, 2_000)
    claimed: list[Task] = await backend.claim("o", NOW, 1, lease_until=LEASE)
    assert all(task.status is Status.RUNNING for task in claimed)
    await backend.purge(TaskFilter(), 1)
    await backend.close()
