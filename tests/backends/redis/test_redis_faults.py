"""Redis that restarts, hangs, refuses or loses an answer: nothing is lost, nothing is done twice, everybody goes on."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from aiotaskq import DatabaseUnavailable, TaskConflict, TaskQ
from aiotaskq.backends.base import CANCEL, ENDED, READY, Change
from aiotaskq.backends.redis import connection as redis_link
from aiotaskq.backends.redis import notifier as redis_hints
from aiotaskq.backends.redis import scripts
from aiotaskq.backends.redis.backend import RedisBackend
from aiotaskq.backends.redis.connection import RedisLink
from aiotaskq.core.task import SECOND, Status, Task, TaskFilter
from tests.support.machine import watchdog, within
from tests.support.proxy import Proxy
from tests.support.rows import LEASE, NOW, ids, new, pushed, read, running
from tests.support.servers import Unavailable, Valkey

RESUMED = 5.0  # seconds, as promised


@pytest.fixture
def server(unavailable: dict[str, str]) -> Iterator[Valkey]:
    """A server of the test's own, which it may hurt; every write is on disk before it is answered."""
    try:
        made = Valkey(durable=True)
    except Unavailable as error:
        unavailable["redis"] = str(error)
        pytest.skip(f"redis: {error}")
    yield made
    made.kill()


@pytest.fixture
async def proxy(server: Valkey) -> AsyncIterator[Proxy]:
    async with Proxy("127.0.0.1", server.port) as made:
        yield made


def through(proxy: Proxy, timeout: float = 10.0) -> str:
    return f"redis://127.0.0.1:{proxy.port}/0?prefix=a&socket_timeout={timeout}"


@contextlib.asynccontextmanager
async def opened(url: str) -> AsyncIterator[RedisBackend]:
    backend = RedisBackend(url)
    await backend.open()
    try:
        yield backend
    finally:
        await backend.close()


async def until(condition: Callable[[], Any], seconds: float = 40.0) -> None:
    async with asyncio.timeout(within(seconds)):
        while not condition():
            await asyncio.sleep(0.01)


async def persist(verb: Callable[..., Awaitable[Any]], *args: Any, **options: Any) -> Any:
    """Try again until the server answers."""
    async with asyncio.timeout(watchdog()):
        while True:
            try:
                return await verb(*args, **options)
            except DatabaseUnavailable:
                await asyncio.sleep(0.02)


def completed(task: Task, **fields: Any) -> Task:
    return task.replace(
        status=Status.COMPLETED, completed_at=NOW // SECOND, lease_owner=None, lease_until=None, **fields
    )


# ---- going on -------------------------------------------------------------------------------------------------------


async def restarted(server: Valkey, proxy: Proxy) -> None:
    await asyncio.to_thread(server.restart)


async def killed(server: Valkey, proxy: Proxy) -> None:
    await asyncio.to_thread(server.restart, "immediate")


async def clients_killed(server: Valkey, proxy: Proxy) -> None:
    for kind in ("normal", "pubsub"):
        await asyncio.to_thread(server.ask, "CLIENT", "KILL", "TYPE", kind)


async def dropped_three_times(server: Valkey, proxy: Proxy) -> None:
    for _ in range(3):
        proxy.reset()
        await asyncio.sleep(0.3)


async def swallowed(server: Valkey, proxy: Proxy) -> None:
    proxy.black_hole()
    await asyncio.sleep(1.0)
    proxy.heal()


FAULTS = [(restarted, 2), (killed, 2), (clients_killed, 15), (dropped_three_times, 3), (swallowed, 2)]


@pytest.mark.parametrize(("fault", "rounds"), FAULTS)
async def test_a_worker_goes_on_every_time(server: Valkey, proxy: Proxy, fault: Any, rounds: int) -> None:  # G-1
    tq = TaskQ(through(proxy, 1.0), lease=within(4), poll_interval=0.5)
    ran: list[int] = []

    @tq.task(name="job")
    async def job(n: int) -> None:
        ran.append(n)

    async with opened(server.url("a")) as outside, tq.running():
        now = await outside.ping()
        assert now is not None
        for number in range(rounds):
            await fault(server, proxy)
            begin = time.monotonic()
            task = new(type="job", params={"n": number}, run_at=now, created_at=now // SECOND)
            await persist(outside.push, [task])
            await until(functools.partial(ran.__contains__, number))
            assert time.monotonic() - begin < within(RESUMED)
        await until(lambda: len(ran) == rounds)

        async def counts() -> dict[str, int]:
            return (await outside.stats(now)).counts

        async with asyncio.timeout(watchdog()):
            while (await counts())["completed"] < rounds:
                await asyncio.sleep(0.02)
        assert ran == list(range(rounds))


@pytest.mark.parametrize("fault", [fault for fault, _ in FAULTS])
async def test_hints_are_heard_again_every_time(server: Valkey, proxy: Proxy, fault: Any) -> None:  # G-1, F7
    async with opened(through(proxy)) as listener, opened(server.url("a")) as outside:
        heard: list[str] = []
        listener.hints.listen(lambda kind, names: heard.extend(names))
        await listener.watch()
        for number in range(3):
            await fault(server, proxy)
            begin = time.monotonic()
            name = f"id-{number}"
            async with asyncio.timeout(watchdog()):
                while name not in heard:
                    outside.hints.tell(CANCEL, [name])
                    await asyncio.sleep(0.02)
            assert time.monotonic() - begin < within(RESUMED)


async def test_a_silent_subscription_is_noticed(  # G-2, F7
    server: Valkey, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_hints, "PING_AFTER", 0.2)
    monkeypatch.setattr(redis_link, "CONNECT_TIMEOUT", 0.3)
    async with opened(through(proxy)) as listener, opened(server.url("a")) as outside:
        heard: list[str] = []
        listener.hints.listen(lambda kind, _names: heard.append(kind))
        await listener.watch()
        await until(lambda: READY in heard)  # subscribed, and told to look what it may have missed
        heard.clear()
        accepted = proxy.accepted
        proxy.black_hole()  # nothing is closed: nobody is told
        await until(lambda: proxy.accepted >= accepted + 2)  # given up and tried again, more than once
        await outside.push([new()])
        proxy.heal()
        await until(lambda: {READY, ENDED} <= set(heard))


@pytest.mark.parametrize("how", ["black_hole", "drop_replies"])
async def test_a_request_that_is_not_answered_ends(proxy: Proxy, how: str) -> None:  # G-2, F8
    async with opened(through(proxy, 0.3)) as backend:
        task = await pushed(backend)
        getattr(proxy, how)()
        for verb in (backend.ping, lambda: backend.claim("o", NOW, 1), lambda: backend.push([task])):
            with pytest.raises(DatabaseUnavailable, match=r"127\.0\.0\.1"):
                await verb()
        proxy.heal()
        assert await persist(backend.push, [task]) == [task]


async def test_a_connection_that_was_cut_a_moment_ago(proxy: Proxy) -> None:  # G-1
    async with opened(through(proxy)) as backend:
        ended = 0
        for number in range(60):
            verbs: list[Any] = [backend.push([new()]), backend.claim("o", NOW, 1), backend.heartbeat([("x", 1)], LEASE)]
            verbs = [asyncio.ensure_future(verb) for verb in verbs]
            for _ in range(number % 6):
                await asyncio.sleep(0)
            proxy.reset()
            for answer in await asyncio.gather(*verbs, return_exceptions=True):
                assert isinstance(answer, list | DatabaseUnavailable), repr(answer)
                ended += isinstance(answer, DatabaseUnavailable)
        assert ended > 0
        await persist(backend.push, [new()])


async def test_a_server_that_is_not_there(server: Valkey) -> None:
    server.kill()
    backend = RedisBackend(server.url("a"))
    for verb in (backend.open, backend.ping, lambda: backend.push([new()]), lambda: backend.values.keys(NOW)):
        with pytest.raises(DatabaseUnavailable, match=f"{server.port}"):
            await verb()
    await backend.watch()  # from when the server is there
    tasks = len(asyncio.all_tasks())
    for number in range(300):  # G-10: nothing piles up meanwhile
        backend.hints.tell(ENDED, [f"id-{number}"])
        with pytest.raises(DatabaseUnavailable):
            await backend.count_ready(NOW)
    assert len(asyncio.all_tasks()) <= tasks + 4  # one attempt to tell, and one to listen
    heard: list[str] = []
    backend.hints.listen(lambda kind, _names: heard.append(kind))
    await asyncio.to_thread(server.start)
    await until(lambda: READY in heard)
    await pushed(backend)
    await backend.close()


# ---- lost answers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deliver", [False, True])
async def test_a_push_whose_answer_is_lost_is_repeated(proxy: Proxy, deliver: bool) -> None:  # A20
    async with opened(through(proxy)) as backend:
        await pushed(backend)
        for number in range(1, 6):
            tasks = [new(unique_key=f"u{number}"), new(idempotency_key=f"i{number}"), new()]
            proxy.cut_on(scripts.PUSH.sha.encode(), deliver=deliver)
            stored = await backend.push(tasks)
            assert all(a is b for a, b in zip(stored, tasks, strict=True))
            assert proxy.cuts == number
            assert await backend.count_ready(NOW) == 1 + 3 * number


class _Mute:
    """Cuts the connection of every push, whose answers are lost."""

    def __init__(self, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
        original = RedisLink.evaluate

        async def evaluate(link: RedisLink, script: Any, *args: Any) -> Any:
            if script is scripts.PUSH:
                proxy.cut_on(script.sha.encode())
            return await original(link, script, *args)

        monkeypatch.setattr(RedisLink, "evaluate", evaluate)


async def test_a_push_that_raises_may_be_repeated_with_its_ids(
    server: Valkey, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:  # A20
    async with TaskQ(server.url("a")) as outside, TaskQ(through(proxy)) as tq:
        await tq.push("job")  # else the server does not know the script yet, and runs nothing
        with monkeypatch.context() as patch:
            _Mute(proxy, patch)
            with pytest.raises(DatabaseUnavailable, match=r"127\.0\.0\.1") as one:
                await tq.push("job")
            with pytest.raises(DatabaseUnavailable) as many:
                await tq.push_many([("job", {"n": n}) for n in range(3)])
            assert proxy.cuts == 4
            with pytest.raises(DatabaseUnavailable) as both:
                await asyncio.gather(tq.push("job"), tq.push("job"))  # of one batch, each has its own id
        assert len(one.value.task_ids) == 1 and len(many.value.task_ids) == 3 and len(both.value.task_ids) == 1
        assert (await outside.stats()).counts["pending"] == 7
        (task_id,) = one.value.task_ids
        handle = await tq.push("job", task_id=task_id)
        assert (handle.task_id, handle.created) == (task_id, False)
        calls = [{"type": "job", "params": {"n": n}, "task_id": name} for n, name in enumerate(many.value.task_ids)]
        assert [handle.created for handle in await tq.push_many(calls)] == [False] * 3
        assert (await outside.stats()).counts["pending"] == 7
        _, task = await outside._backend.claim("o", NOW * 2, 2)
        assert task.task_id == task_id
        await outside._backend.update([Change(task, completed(task))])
        with pytest.raises(TaskConflict, match="is completed"):  # it was stored, and has run
            await tq.push("job", task_id=task_id)
        assert (await outside.stats()).counts["pending"] == 5


async def test_a_silent_server_is_not_asked_twice(proxy: Proxy) -> None:
    async with TaskQ(through(proxy, 0.3)) as tq:
        await tq.push("job")  # else the server does not know the script yet, and runs nothing
        connections = proxy.accepted
        proxy.drop_replies()
        with pytest.raises(DatabaseUnavailable) as refused:
            await tq.push("job")
        assert proxy.accepted == connections
        proxy.heal()
        (task_id,) = refused.value.task_ids
        assert not (await persist(tq.push, "job", task_id=task_id)).created


@pytest.mark.parametrize("deliver", [False, True])
async def test_an_ack_that_is_lost_is_repeated(server: Valkey, proxy: Proxy, deliver: bool) -> None:  # G-5, A3
    tq = TaskQ(through(proxy), lease=within(30))
    ran: list[int] = []

    @tq.task(name="job")
    async def job(n: int) -> int:
        if n == 1:
            proxy.cut_on(scripts.EXCHANGE.sha.encode(), deliver=deliver)
        ran.append(n)
        return n

    async with TaskQ(server.url("a")) as outside, tq.running():
        for number in (0, 1, 2):
            handle = await outside.push("job", {"n": number})
            assert await handle.result(timeout=watchdog()) == number
        assert (ran, proxy.cuts) == ([0, 1, 2], 1)
        assert (await outside.stats()).counts["running"] == 0


async def test_a_claim_whose_answer_is_lost_comes_back(server: Valkey, proxy: Proxy) -> None:  # G-5
    tq = TaskQ(through(proxy), lease=within(1), poll_interval=0.2)
    ran: list[int] = []

    @tq.task(name="job")
    async def job(n: int) -> None:
        ran.append(n)

    async with TaskQ(server.url("a")) as outside, tq.running():
        await (await outside.push("job", {"n": 0})).result(timeout=watchdog())
        proxy.cut_on(scripts.CLAIM.sha.encode())
        handle = await outside.push("job", {"n": 1})
        await handle.result(timeout=watchdog())
        task = await outside.get(handle.task_id)
        assert (ran, task.crashes, task.retry_count) == ([0, 1], 0, 0)


@pytest.mark.parametrize("how", ["fast", "immediate"])
async def test_what_was_acknowledged_survives_the_server(server: Valkey, how: str) -> None:  # G-11, A20
    acknowledged: dict[str, Task] = {}
    stopped = asyncio.Event()
    async with opened(server.url("a")) as backend:

        async def produce(number: int) -> None:
            while not stopped.is_set():
                tasks = [new(params={"producer": number}) for _ in range(random.randint(1, 5))]
                await persist(backend.push, tasks)
                acknowledged.update((task.task_id, task) for task in tasks)
                if len(acknowledged) % 7 == 0:
                    claimed = await persist(backend.claim, f"o{number}", NOW, 3, lease_until=LEASE)
                    ended = [Change(task, completed(task)) for task in claimed]
                    held = await persist(backend.update, ended)
                    acknowledged.update(
                        (change.after.task_id, change.after) for change, ok in zip(ended, held, strict=True) if ok
                    )

        producers = [asyncio.ensure_future(produce(number)) for number in range(8)]
        for _ in range(3):
            enough = len(acknowledged) + 50
            while len(acknowledged) < enough:
                await asyncio.sleep(0.01)
            await asyncio.to_thread(server.restart, how)
        stopped.set()
        await asyncio.gather(*producers)
        rows = await persist(backend.get, list(acknowledged))
        for row, task in zip(rows, acknowledged.values(), strict=True):
            assert row is not None, "an acknowledged task is lost"
            assert row.params == task.params
            assert row.status is task.status or task.status is Status.PENDING
        everything = await backend.find(TaskFilter(), 100_000)
        assert len(everything) == len(set(ids(everything))) == len(acknowledged)
        stats = await backend.stats(NOW)
        assert sum(stats.counts.values()) == len(everything)
        assert stats.ready == stats.counts["pending"] == await backend.count_ready(NOW)


async def test_fences_rise_through_a_crash_of_the_server(server: Valkey) -> None:  # B10, B11
    async with opened(server.url("a")) as backend:
        first = await running(backend, lease_until=NOW + 5)
        await asyncio.to_thread(server.restart, "immediate")
        (late,) = await persist(backend.overdue, NOW + 5, 5)
        assert late == first
        back = first.replace(status=Status.PENDING, lease_owner=None, lease_until=None, crashes=1)
        assert await backend.update([Change(late, back, lease_over=True)]) == [True]
        (second,) = await backend.claim("second", NOW + 6, 1, lease_until=LEASE)
        await asyncio.to_thread(server.restart, "immediate")
        zombie = [Change(first, completed(first, result="late"), then=(new(),)), Change(first, back)]
        assert await persist(backend.update, zombie) == [False, False]
        assert await backend.heartbeat([(first.task_id, first.fence)], LEASE) == [None]
        assert await backend.report([(first.task_id, first.fence, {"n": 1})]) == [False]
        assert await read(backend, first) == second
        assert second.fence == first.fence + 1


# ---- refusals -------------------------------------------------------------------------------------------------------


async def test_a_server_that_became_a_replica(server: Valkey) -> None:  # G-4, F6
    async with opened(server.url("a")) as backend:
        task = await running(backend)
        server.ask("REPLICAOF 127.0.0.1 1")
        for verb in (lambda: backend.push([new()]), lambda: backend.update([Change(task, completed(task))])):
            with pytest.raises(DatabaseUnavailable):
                await verb()
        server.ask("REPLICAOF NO ONE")
        assert await backend.update([Change(task, completed(task))]) == [True]
        assert await backend.count_ready(NOW) == 0


async def test_a_name_that_points_to_another_server_now(server: Valkey, proxy: Proxy) -> None:  # G-4, F6
    """As after a failover: the old one is a replica, and connections to it are still open."""
    other = Valkey(durable=False)
    try:
        async with opened(through(proxy)) as backend:
            await asyncio.gather(*(backend.ping() for _ in range(5)))
            server.ask(f"REPLICAOF 127.0.0.1 {other.port}")
            proxy._target = ("127.0.0.1", other.port)
            with pytest.raises(DatabaseUnavailable):
                await pushed(backend)
            await pushed(backend)
            async with opened(other.url("a")) as there:
                assert await there.count_ready(NOW) == 1
    finally:
        other.kill()


async def test_too_few_replicas(server: Valkey) -> None:  # G-4
    async with opened(server.url("a")) as backend:
        task = await running(backend)
        server.ask("CONFIG SET min-replicas-to-write 1")
        for verb in (
            lambda: backend.push([new(), new()]),
            lambda: backend.claim("o", NOW, 5),
            lambda: backend.update([Change(task, completed(task), then=(new(),))]),
            lambda: backend.heartbeat([(task.task_id, task.fence)], LEASE + 1),
        ):
            with pytest.raises(DatabaseUnavailable):
                await verb()
        server.ask("CONFIG SET min-replicas-to-write 0")
        assert await read(backend, task) == task
        assert (await backend.stats(NOW)).counts["running"] == 1
        assert await backend.count_ready(NOW) == 0


async def test_a_cluster_without_our_slot() -> None:  # G-4, G-8
    alone = Valkey(durable=False, cluster_enabled="yes")
    try:
        with pytest.raises(DatabaseUnavailable):
            async with opened(alone.url("a")):
                pass
        alone.ask("CLUSTER ADDSLOTSRANGE 0 16383")

        async def push() -> None:
            async with opened(alone.url("a")) as backend:
                await pushed(backend)

        await persist(push)
    finally:
        alone.kill()


# ---- cancelled callers ----------------------------------------------------------------------------------------------


async def test_cancelled_callers_leave_nothing_half_done(server: Valkey) -> None:  # D1, F3, F4
    async with opened(f"{server.url('a')}&max_connections=3") as backend:
        chance = random.Random(5)
        tasks = [new(params={"n": n}) for n in range(300)]

        async def life(task: Task) -> None:
            await backend.push([task])
            for claimed in await backend.claim("o", NOW, 1, lease_until=LEASE):
                await backend.update([Change(claimed, completed(claimed))])

        before = _connections(server)
        running = [asyncio.ensure_future(life(task)) for task in tasks]
        for each in running:
            if chance.random() < 0.7:
                asyncio.get_running_loop().call_later(chance.random() * 0.3, each.cancel)
        answers = await asyncio.gather(*running, return_exceptions=True)
        assert {type(answer) for answer in answers} <= {type(None), asyncio.CancelledError}
        assert sum(isinstance(answer, asyncio.CancelledError) for answer in answers) > 20
        for number in range(20):  # every connection still gives each its own answer
            values = await asyncio.gather(*(backend.values.get([f"k{n}"], number) for n in range(5)))
            assert values == [[None]] * 5
        listed = server.ask("CLIENT LIST").splitlines()
        assert len(listed) <= 4
        # Each connection was in order again after its caller had left: none had to be made anew.
        assert _connections(server) - before <= 3 + 2
        stats = await backend.stats(NOW)
        rows = await backend.find(TaskFilter(), 1_000)
        assert sum(stats.counts.values()) == len(rows)
        for status in Status:
            assert stats.counts[status] == sum(row.status is status for row in rows)


def _connections(server: Valkey) -> int:
    """How many there have ever been, with the one that asks."""
    return int(server.ask("INFO stats")["total_connections_received"])
