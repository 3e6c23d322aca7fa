"""Redis that restarts, hangs or refuses: workers and watchers continue, and nothing is lost."""

from __future__ import annotations

import asyncio
import functools
import time
from typing import Any

import pytest

from aiotaskq import TaskQ
from aiotaskq.backends.listeners import CANCEL, ENDED, READY
from aiotaskq.backends.redis import connection, notifier
from aiotaskq.backends.redis.backend import RedisBackend
from aiotaskq.core.task import SECOND
from aiotaskq.errors import DatabaseUnavailable
from tests.backends.redis.faults.proxied import opened, persist, through
from tests.support.machine import watchdog, within
from tests.support.proxy import Proxy
from tests.support.rows import NOW, new, pushed
from tests.support.servers import Valkey
from tests.support.waiting import eventually

RESUMED = 5.0  # seconds, as promised


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
async def test_a_worker_goes_on_after_each_cut(server: Valkey, proxy: Proxy, fault: Any, rounds: int) -> None:  # G-1
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
            await eventually(functools.partial(ran.__contains__, number))
            assert time.monotonic() - begin < within(RESUMED)
        await eventually(lambda: len(ran) == rounds)

        async def counts() -> dict[str, int]:
            return (await outside.stats(now)).counts

        async with asyncio.timeout(watchdog()):
            while (await counts())["completed"] < rounds:
                await asyncio.sleep(0.02)
        assert ran == list(range(rounds))


@pytest.mark.parametrize("fault", [fault for fault, _ in FAULTS])
async def test_hints_are_received_again_after_each_cut(server: Valkey, proxy: Proxy, fault: Any) -> None:  # G-1, F7
    async with opened(through(proxy)) as listener, opened(server.url("a")) as outside:
        heard: list[str] = []
        listener.listeners.listen(lambda kind, names: heard.extend(names))
        await listener.watch()
        for number in range(3):
            await fault(server, proxy)
            begin = time.monotonic()
            name = f"id-{number}"
            async with asyncio.timeout(watchdog()):
                while name not in heard:
                    outside.listeners.notify(CANCEL, [name])
                    await asyncio.sleep(0.02)
            assert time.monotonic() - begin < within(RESUMED)


async def test_a_silent_subscription_is_noticed(  # G-2, F7
    server: Valkey, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifier, "PING_AFTER", 0.2)
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT", 0.3)
    async with opened(through(proxy)) as listener, opened(server.url("a")) as outside:
        heard: list[str] = []
        listener.listeners.listen(lambda kind, _names: heard.append(kind))
        await listener.watch()
        await eventually(lambda: READY in heard)  # subscribed, and told to look what it may have missed
        heard.clear()
        accepted = proxy.accepted
        proxy.black_hole()  # no connection is closed, so no error is reported
        await eventually(lambda: proxy.accepted >= accepted + 2)  # given up and tried again, more than once
        await outside.push([new()])
        proxy.heal()
        await eventually(lambda: {READY, ENDED} <= set(heard))


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


async def test_a_connection_that_has_just_been_cut(proxy: Proxy) -> None:  # G-1
    async with opened(through(proxy)) as backend:
        ended = 0
        for number in range(60):
            verbs: list[Any] = [backend.push([new()]), backend.claim("o", NOW, 1), backend.workers.all()]
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
        backend.listeners.notify(ENDED, [f"id-{number}"])
        with pytest.raises(DatabaseUnavailable):
            await backend.count_ready(NOW)
    assert len(asyncio.all_tasks()) <= tasks + 4  # one attempt to tell, and one to listen
    heard: list[str] = []
    backend.listeners.listen(lambda kind, _names: heard.append(kind))
    await asyncio.to_thread(server.start)
    await eventually(lambda: READY in heard)
    await pushed(backend)
    await backend.close()
